"""A coordinator's side of one pool: which waiting task goes out on which slot, and in which batches.

It owns the waiting tasks of one coordinator, the slots that the pool has granted it, and what it tells the pool
(always the full state: all that it holds and all that it wants). It owns no clock and sends nothing: its shell
performs what :meth:`Slots.plan` and :meth:`Slots.report` answer.

A slot is kept over consecutive tasks while there are any, for a moment longer, and given back when it is asked
for. Tasks that are known to be short go out several at once: about ten milliseconds of expected work.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from rayflow.core.pool import Demand

#: Expected work in one batch, in seconds, and tasks at most: what was sent cannot be overtaken any more.
BATCH_SECONDS = 0.010
BATCH_TASKS = 128

#: Seconds that an idle slot is kept: long enough for the next step of a chain.
IDLE_KEEP = 0.05

#: Weight of the newest observation in a step's expected duration.
_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """A task that waits for a slot; sorts by priority, then by how long it has waited."""

    rank: int  # negative priority: the heap's least is the highest
    stamp: float
    order: int
    key: tuple[str, int, int] = field(compare=False)
    step: str = field(compare=False)
    alone: bool = field(compare=False)


@dataclass(slots=True)
class Held:
    """A slot that the pool granted."""

    token: str
    worker: str
    alone: bool
    busy: bool = False
    idle_since: float = 0.0
    recalled: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Send these tasks to this worker, in this slot."""

    token: str
    worker: str
    alone: bool
    keys: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What the pool is told: everything, so that one message that arrives repairs all that did not."""

    sequence: int
    epoch: int
    seen: int
    demand: tuple[Demand, ...]
    holding: dict[str, str]


class Slots:
    """See the module's docstring.

    Args:
        environment: the coordinator's code environment.
    """

    def __init__(self, environment: str) -> None:
        self._environment = environment
        self._heap: list[Waiting] = []
        self._alone: list[Waiting] = []
        self._waiting: dict[tuple[str, int, int], Waiting] = {}
        self._held: dict[str, Held] = {}
        self._expected: dict[str, float] = {}
        self._order = 0
        self._sequence = 0
        self._epoch = 0
        self._seen = 0
        self._early: set[int] = set()
        self._told: tuple[tuple[Demand, ...], frozenset[str], int] | None = None

    # --- tasks ---------------------------------------------------------------------------------------------
    def want(self, key: tuple[str, int, int], step: str, *, priority: int, alone: bool, now: float) -> None:
        """A task waits for a slot. ``key`` is (execution id, step number, attempt)."""
        self._order += 1
        waiting = Waiting(-priority, now, self._order, key, step, alone)
        self._waiting[key] = waiting
        heapq.heappush(self._alone if alone else self._heap, waiting)

    def withdraw(self, key: tuple[str, int, int]) -> bool:
        """Take a task back; answers whether it still waited."""
        return self._waiting.pop(key, None) is not None

    def observe(self, step: str, seconds: float) -> None:
        """A task of that step took so long."""
        known = self._expected.get(step)
        self._expected[step] = seconds if known is None else known + _SMOOTHING * (seconds - known)

    # --- slots ---------------------------------------------------------------------------------------------
    def granted(self, token: str, worker: str, *, alone: bool, number: int, now: float) -> None:
        """The pool granted a slot. Grants are numbered; one that comes twice changes nothing."""
        if number <= self._seen or number in self._early:
            return
        self._early.add(number)
        while self._seen + 1 in self._early:
            self._seen += 1
            self._early.discard(self._seen)
        self._held[token] = Held(token, worker, alone, idle_since=now)

    def recalled(self, token: str) -> None:
        """The pool asks for a slot: it is given back as soon as it is idle."""
        if token in self._held:
            self._held[token].recalled = True

    def done(self, token: str, now: float) -> None:
        """A slot's batch is over."""
        held = self._held.get(token)
        if held is not None:
            held.busy, held.idle_since = False, now

    def void(self, token: str) -> None:
        """A slot is no longer ours: its worker died or refused it, or the pool took it."""
        self._held.pop(token, None)

    def heard_from(self, epoch: int) -> bool:
        """The pool of that epoch says something; answers whether it counts.

        A later epoch means that the pool was restarted: it numbers its grants anew, and has to be told everything.
        """
        if epoch > self._epoch:
            self._epoch, self._seen, self._told = epoch, 0, None
            self._early.clear()
        return epoch == self._epoch

    @property
    def epoch(self) -> int:
        """The highest epoch of the pool that was heard of; 0 for none."""
        return self._epoch

    def forget_told(self) -> None:
        """What was last told may not have arrived: tell it again."""
        self._told = None

    # --- what to do ----------------------------------------------------------------------------------------
    def plan(self, now: float) -> list[Send]:
        """Which tasks go out now. The slots that they use are busy afterwards."""
        idle = [h for h in self._held.values() if not h.busy and not h.recalled]
        sends: list[Send] = []
        for position, held in enumerate(idle):
            queue = self._alone if held.alone else self._heap
            share = 1 if held.alone else math.ceil(len(self._waiting) / (len(idle) - position))
            keys = self._next_batch(queue, share)
            if keys:
                held.busy = True
                sends.append(Send(held.token, held.worker, held.alone, tuple(keys)))
        self._give_back(now)
        return sends

    def _next_batch(self, queue: list[Waiting], share: int) -> list[tuple[str, int, int]]:
        keys: list[tuple[str, int, int]] = []
        budget = BATCH_SECONDS
        while queue and len(keys) < min(share, BATCH_TASKS):
            first = queue[0]
            if self._waiting.get(first.key) is not first:
                heapq.heappop(queue)  # withdrawn
                continue
            expected = self._expected.get(first.step, BATCH_SECONDS)
            if keys and expected > budget:
                break
            heapq.heappop(queue)
            del self._waiting[first.key]
            keys.append(first.key)
            budget -= expected
        return keys

    def _give_back(self, now: float) -> None:
        for held in list(self._held.values()):
            if not held.busy and (held.recalled or now - held.idle_since >= IDLE_KEEP):
                del self._held[held.token]

    def report(self) -> Report | None:
        """What to tell the pool, or None if it knows."""
        demand = self._demand()
        told = (demand, frozenset(self._held), self._seen)
        if told == self._told:
            return None
        self._told = told
        return self.full_report()

    def full_report(self) -> Report:
        """What to tell the pool in any case."""
        self._sequence += 1
        holding = {held.token: held.worker for held in self._held.values()}
        return Report(self._sequence, self._epoch, self._seen, self._demand(), holding)

    def next_wake(self) -> float | None:
        """When an idle slot has been kept long enough."""
        idle = [h.idle_since + IDLE_KEEP for h in self._held.values() if not h.busy]
        return min(idle, default=None)

    @property
    def wanting(self) -> bool:
        """Whether tasks wait."""
        return bool(self._waiting)

    @property
    def holding(self) -> int:
        """Slots held."""
        return len(self._held)

    def _demand(self) -> tuple[Demand, ...]:
        groups: dict[tuple[int, bool], list[Waiting]] = {}
        for waiting in self._waiting.values():
            groups.setdefault((-waiting.rank, waiting.alone), []).append(waiting)
        return tuple(
            Demand(
                environment=self._environment,
                priority=priority,
                stamp=min(w.stamp for w in members),
                count=self._slots_for(members) if not alone else len(members),
                alone=alone,
            )
            for (priority, alone), members in sorted(groups.items())
        )

    def _slots_for(self, members: list[Waiting]) -> int:
        seconds = sum(self._expected.get(w.step, BATCH_SECONDS) for w in members)
        by_time = math.ceil(seconds / BATCH_SECONDS)
        return max(1, min(len(members), max(by_time, math.ceil(len(members) / BATCH_TASKS))))
