"""Limits that tasks of many coordinators share: tasks at once, and starts in a time window.

A limit on tasks at once counts tokens: each granted, claimed or orphaned token holds one place of each of its keys.

A limit on starts is exact, although the pool does not see tasks begin. A grant takes a place at once. Its task begins
within ``start_within`` or not at all, so the place is free again ``per`` seconds after that. The place is free earlier
if the coordinator reports the start, and at once if it reports that the task will never begin. A separate Ray task may
wait for its process for any time: it keeps its place until its start is reported, or its lease ends.

The number that a limit allows comes with each demand, so each demand obeys its own number.
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
    """Starts under one limit: the latest possible time of each, in order."""

    starts: list[float] = field(default_factory=list)
    longest: float = 0.0

    def expired(self, per: float, now: float) -> int:
        """Return the number of starts that are older than a window of ``per`` seconds."""
        return bisect_right(self.starts, now, key=lambda start: start + per)


@dataclass(frozen=True, slots=True)
class _Start:
    """A granted start that was not reported yet."""

    granted_at: float
    latest: float
    limits: tuple[Limit, ...]


class Limits:
    """Places of all limits.

    Starts that an earlier epoch of the pool granted are unknown, so a restarted pool takes each limit on starts as
    exhausted for one window.
    """

    def __init__(self, terms: PoolTerms, now: float) -> None:
        self._start_within = terms.start_within
        self._last_unknown_start = now + terms.settle + terms.start_within if terms.settle else -math.inf
        self._holders: dict[str, set[str]] = {}
        self._windows: dict[str, _Window] = {}
        self._unreported: dict[str, _Start] = {}
        #: Environments in which a limit holds back demand.
        self.waiting: set[str] = set()

    def take(self, token: str, limits: Iterable[Limit], now: float, *, waits: bool = False) -> float | None:
        """Take a place in each limit for a granted lease.

        Args:
            token: token of the lease.
            limits: limits that it counts against.
            now: the time.
            waits: whether its task may wait for any time before it begins.

        Returns:
            The time by which the task has to begin; None without one.
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
        """Count a holder against the limits on tasks at once of these names."""
        for key in keys:
            self._holders.setdefault(key, set()).add(holder)

    def release(self, holder: str, keys: Iterable[str]) -> None:
        """Stop counting a holder."""
        for key in keys:
            self._holders[key].remove(holder)
            if not self._holders[key]:
                del self._holders[key]

    def lease_ended(self, token: str, by: float) -> None:
        """Note that a lease has ended: its task begins by that time, or never."""
        start = self._unreported.get(token)
        if start is not None and start.latest > by:
            for limit in start.limits:
                starts = self._windows[limit.name].starts
                del starts[bisect_left(starts, start.latest)]
                insort(starts, by)
            self._unreported[token] = _Start(start.granted_at, by, start.limits)

    def began(self, token: str, at: float) -> bool:
        """Note the reported start of a lease's task, 0.0 for never; return whether it was unreported."""
        start = self._unreported.pop(token, None)
        if start is None:
            return False
        for limit in start.limits:
            starts = self._windows.setdefault(limit.name, _Window(longest=limit.per)).starts
            index = bisect_left(starts, start.latest)
            if starts[index : index + 1] == [start.latest]:
                del starts[index]
                if at:
                    # The worker's clock may be slow, and no task begins before its grant.
                    insort(starts, max(at, start.granted_at))
        return True

    def prune(self, now: float) -> None:
        """Drop the starts that are outside all windows."""
        for name, window in list(self._windows.items()):
            del window.starts[: window.expired(window.longest, now)]
            if not window.starts:
                del self._windows[name]
        self._unreported = {
            token: start
            for token, start in self._unreported.items()
            if start.latest + max(limit.per for limit in start.limits) > now
        }

    def cut(self, environment: str, queue: list[NetDemand], slots: int, now: float) -> Collection[Limit]:
        """Cut an environment's demand, most urgent first, to what its limits leave room for.

        No coordinator gets room for more than ``slots``: if slots are scarcer than a limit's places, the slots have
        to be shared.

        Args:
            environment: name of the environment.
            queue: its demand, in order; changed to what remains.
            slots: number of slots that the environment could have.
            now: the time.

        Returns:
            The limits that were exhausted.
        """
        if not any(demand.limits for demand in queue):
            self.waiting.discard(environment)
            return ()
        room = _Room(self, slots, now)
        for demand in queue:
            if demand.limits:
                room.cut(demand)
        queue[:] = [demand for demand in queue if demand.count]
        if room.exhausted:
            self.waiting.add(environment)
        else:
            self.waiting.discard(environment)
        return room.exhausted.values()

    def used(self, limit: Limit, now: float) -> int:
        """Return the number of taken places of a limit."""
        if not limit.per:
            return len(self._holders.get(limit.name, ()))
        if now < self._last_unknown_start + limit.per:
            return limit.count
        window = self._windows.get(limit.name)
        return 0 if window is None else len(window.starts) - window.expired(limit.per, now)

    def next_place(self, limits: Iterable[Limit], now: float) -> float:
        """Return when time frees a place in one of these exhausted limits; infinity for never."""
        return min((self._free_at(limit, now) for limit in limits if limit.per), default=math.inf)

    def _free_at(self, limit: Limit, now: float) -> float:
        if now < self._last_unknown_start + limit.per:
            return self._last_unknown_start + limit.per
        if self.used(limit, now) < limit.count:
            return math.inf
        return self._windows[limit.name].starts[-limit.count] + limit.per


class _Room:
    """Remaining places of all limits while one environment's demand is cut."""

    def __init__(self, limits: Limits, slots: int, now: float) -> None:
        self._limits = limits
        self._slots = slots
        self._now = now
        self._used: dict[tuple[str, float], int] = {}
        self._given: dict[tuple[str, bool], int] = {}
        self._slots_left: dict[tuple[str, bool], int] = {}
        #: Limits without a place. No place is freed during the cut, so they stay full.
        self._full: set[tuple[str, float, int]] = set()
        #: Limits that left less room than some demand needs.
        self.exhausted: dict[tuple[str, float, int], Limit] = {}

    def cut(self, demand: NetDemand) -> None:
        """Cut one demand to the room that is left, and take that room."""
        who = (demand.coordinator, demand.exclusive)
        slots = self._slots_left.get(who, self._slots)
        for limit in demand.limits:
            if not slots or (limit.name, limit.per, limit.count) in self._full:
                demand.count = 0
                return
        demand.count = count = self._fit(demand, min(demand.count, slots))
        self._slots_left[who] = slots - count
        for limit in demand.limits:
            kind = (limit.name, limit.per > 0)
            self._given[kind] = self._given.get(kind, 0) + count

    def _fit(self, demand: NetDemand, count: int) -> int:
        for limit in demand.limits:
            at = (limit.name, limit.per)
            used = self._used.get(at)
            if used is None:
                used = self._used[at] = self._limits.used(limit, self._now)
            left = limit.count - used - self._given.get((limit.name, limit.per > 0), 0)
            if left < count:
                self.exhausted[limit.name, limit.per, limit.count] = limit
                count = max(0, left)
            if not count:
                self._full.add((limit.name, limit.per, limit.count))
                break
        return count
