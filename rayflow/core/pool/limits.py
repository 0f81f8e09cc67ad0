"""What tasks of many coordinators share: so many at once, or so many starts in a window of time.

A limit on tasks at once is kept by counting tokens: each that is granted, claimed, or still occupies a worker holds
one place of each of its keys.

A limit on starts is kept exactly, although the pool does not see tasks begin. A grant takes a place from its moment
on. Its task begins within ``start_within`` or not at all, so ``per`` seconds after that the place is free again;
sooner, if the coordinator reports when the task began; and at once, if it reports that it never will. A Ray task of
its own may have to wait for its process, however long: it keeps its place until its begin is reported, or its lease
is over.

How much a limit allows is said by the wish that asks: each obeys its own numbers.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from rayflow.core.pool.protocol import Limit, PoolTerms
from rayflow.core.pool.state import NetDemand


@dataclass(slots=True)
class _Window:
    """The starts under one name, each at the latest moment at which it may have been, in their order."""

    starts: list[float] = field(default_factory=list)
    longest: float = 0.0

    def past(self, per: float, now: float) -> int:
        """How many of them do not count in a window of so many seconds any more."""
        return bisect_right(self.starts, now, key=lambda start: start + per)


@dataclass(frozen=True, slots=True)
class _Start:
    """A start that was granted and not reported."""

    granted_at: float
    latest: float
    limits: tuple[Limit, ...]


class Limits:
    """Who counts against which limit.

    Args:
        terms: the pool's durations.
        now: the time. What an earlier pool granted under a limit on starts is not known: where there may have
            been one, each such limit is exhausted at first.
    """

    def __init__(self, terms: PoolTerms, now: float) -> None:
        self._start_within = terms.start_within
        self._last_unknown_start = now + terms.settle + terms.start_within if terms.settle else -math.inf
        self._holders: dict[str, set[str]] = {}
        self._windows: dict[str, _Window] = {}
        self._unreported: dict[str, _Start] = {}
        #: Environments in which a limit holds something back.
        self.waiting: set[str] = set()

    # --- places -------------------------------------------------------------------------------------------
    def take(self, token: str, limits: Iterable[Limit], now: float, *, waits: bool = False) -> float | None:
        """A lease is granted: take a place in each limit. Answers by when its task has to begin, if it matters.

        Args:
            token: the lease's.
            limits: what it counts against.
            now: the time.
            waits: its task may wait however long before it begins.
        """
        rates = []
        for limit in limits:
            if limit.per:
                rates.append(limit)
            else:
                self.hold(token, [limit.name])
        if not rates:
            return None
        latest = math.inf if waits else now + self._start_within
        start = self._unreported[token] = _Start(now, latest, tuple(rates))
        for limit in rates:
            window = self._windows.setdefault(limit.name, _Window())
            window.longest = max(window.longest, limit.per)
            insort(window.starts, start.latest)
        return None if waits else latest

    def hold(self, holder: str, keys: Iterable[str]) -> None:
        """This holder counts against these keys, if it did not before."""
        for key in keys:
            self._holders.setdefault(key, set()).add(holder)

    def release(self, holder: str, keys: Iterable[str]) -> None:
        """This holder does not count against these keys any more."""
        for key in keys:
            self._holders[key].remove(holder)
            if not self._holders[key]:
                del self._holders[key]

    def over(self, token: str, by: float) -> None:
        """A lease is over: its task begins by that moment, or never."""
        start = self._unreported.get(token)
        if start is not None and start.latest > by:
            for limit in start.limits:
                starts = self._windows[limit.name].starts
                del starts[bisect_left(starts, start.latest)]
                insort(starts, by)
            self._unreported[token] = _Start(start.granted_at, by, start.limits)

    def began(self, token: str, at: float) -> bool:
        """The task of this lease began then, or never (0.0). Answers whether that was news."""
        start = self._unreported.pop(token, None)
        if start is None:
            return False
        for limit in start.limits:
            starts = self._windows.setdefault(limit.name, _Window(longest=limit.per)).starts
            index = bisect_left(starts, start.latest)
            if starts[index : index + 1] == [start.latest]:
                del starts[index]
                if at:
                    # A worker's clock may be behind; nothing begins before its grant.
                    insort(starts, max(at, start.granted_at))
        return True

    def forget_the_past(self, now: float) -> None:
        """Drop what no window reaches back to."""
        for name, window in list(self._windows.items()):
            del window.starts[: window.past(window.longest, now)]
            if not window.starts:
                del self._windows[name]
        self._unreported = {
            token: start
            for token, start in self._unreported.items()
            if start.latest + max(limit.per for limit in start.limits) > now
        }

    # --- room ---------------------------------------------------------------------------------------------
    def cut(self, environment: str, queue: list[NetDemand], slots: int, now: float) -> Collection[Limit]:
        """Cut the wishes of an environment, most urgent first, down to what there is room for.

        Nobody is given more room than it has slots to use at best: where slots are scarcer than what a limit
        allows, the slots are what is shared out.

        Args:
            environment: its name.
            queue: its wishes, in order; what remains.
            slots: that it could have.
            now: the time.

        Returns:
            The limits that left no room for some of them.
        """
        if not any(wish.limits for wish in queue):
            self.waiting.discard(environment)
            return ()
        view = _View(self, slots, now)
        for wish in queue:
            if wish.limits:
                view.cut(wish)
        queue[:] = [wish for wish in queue if wish.count]
        if view.scarce:
            self.waiting.add(environment)
        else:
            self.waiting.discard(environment)
        return view.scarce.values()

    def used(self, limit: Limit, now: float) -> int:
        """Places of a limit that are taken."""
        if not limit.per:
            return len(self._holders.get(limit.name, ()))
        if now < self._last_unknown_start + limit.per:
            return limit.count
        window = self._windows.get(limit.name)
        return 0 if window is None else len(window.starts) - window.past(limit.per, now)

    def next_place(self, limits: Iterable[Limit], now: float) -> float:
        """When time alone makes room in one of these limits that is full; infinity for never."""
        return min((self._room_at(limit, now) for limit in limits if limit.per), default=math.inf)

    def _room_at(self, limit: Limit, now: float) -> float:
        if now < self._last_unknown_start + limit.per:
            return self._last_unknown_start + limit.per
        if self.used(limit, now) < limit.count:
            return math.inf
        return self._windows[limit.name].starts[-limit.count] + limit.per


class _View:
    """What is left of all limits while room is given to one environment's wishes, in their order."""

    def __init__(self, limits: Limits, slots: int, now: float) -> None:
        self._limits = limits
        self._slots = slots
        self._now = now
        self._used: dict[tuple[str, float], int] = {}
        self._given: dict[tuple[str, bool], int] = {}
        self._slots_left: dict[tuple[str, bool], int] = {}
        #: Nothing comes free meanwhile, so what is full stays so.
        self._full: set[tuple[str, float, int]] = set()
        #: Limits for whose want of room a wish was cut.
        self.scarce: dict[tuple[str, float, int], Limit] = {}

    def cut(self, wish: NetDemand) -> None:
        """Cut one wish."""
        who = (wish.coordinator, wish.alone)
        slots = self._slots_left.get(who, self._slots)
        for limit in wish.limits:
            if not slots or (limit.name, limit.per, limit.count) in self._full:
                wish.count = 0
                return
        wish.count = count = self._fit(wish, min(wish.count, slots))
        self._slots_left[who] = slots - count
        for limit in wish.limits:
            kind = (limit.name, limit.per > 0)
            self._given[kind] = self._given.get(kind, 0) + count

    def _fit(self, wish: NetDemand, count: int) -> int:
        """How many of so many there is room for."""
        for limit in wish.limits:
            at = (limit.name, limit.per)
            used = self._used.get(at)
            if used is None:
                used = self._used[at] = self._limits.used(limit, self._now)
            left = limit.count - used - self._given.get((limit.name, limit.per > 0), 0)
            if left < count:
                self.scarce[limit.name, limit.per, limit.count] = limit
                count = max(0, left)
            if not count:
                self._full.add((limit.name, limit.per, limit.count))
                break
        return count
