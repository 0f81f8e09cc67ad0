"""A coordinator's side of one pool: which waiting task goes out on which slot, and in which batches.

It owns the waiting tasks of one coordinator, the slots that the pool has granted it, and what it tells the pool
(always the full state: all that it holds and all that it wants). It owns no clock and sends nothing: its shell
performs what :meth:`Slots.plan` and :meth:`Slots.report` answer.

A slot is kept over consecutive tasks while there are any, for a moment longer, and given back when it is asked
for. Tasks that are known to be short go out several at once: about ten milliseconds of expected work.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

from rayflow.core.pool.records import Demand

#: A task: its execution's id, its step's number and its attempt's.
Key = tuple[str, int, int]

#: Expected work in one batch, in seconds, and tasks at most: what was sent cannot be overtaken any more.
BATCH_SECONDS = 0.010
BATCH_TASKS = 128

#: Seconds that an idle slot is kept: long enough for the next step of a chain.
IDLE_KEEP = 0.05

_BATCH_WORK = round(BATCH_SECONDS * 1e9)

#: Weight of the newest observation in a step's expected duration: of a shorter one, and of a longer one. So it
#: stays near a step's short runs: a busy machine makes some look long, and a batch that turns out to be long is
#: answered early anyway.
_SMOOTHING_DOWN, _SMOOTHING_UP = 0.5, 0.05


@dataclass(slots=True, eq=False)
class _Group:
    """The waiting tasks of one priority, and what they add up to, kept up to date with each of them."""

    heap: list[tuple[float, int, Key]] = field(default_factory=list)
    steps: Counter[str] = field(default_factory=Counter)
    size: int = 0
    #: Expected work, in whole nanoseconds, so that adding and taking away comes out even.
    work: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One waiting task: its group, its place in the group's line, and its step."""

    group: _Group
    order: int
    step: str


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
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What the pool is told: everything, so that one message that arrives repairs all that did not."""

    sequence: int
    epoch: int
    seen: int
    demand: tuple[Demand, ...]
    holding: dict[str, str]


#: What a report says, apart from its number: demand, tokens and the newest grant without a gap before it.
_State = tuple[tuple[Demand, ...], frozenset[str], int]


class Slots:
    """See the module's docstring.

    Args:
        environment: the coordinator's code environment.
    """

    def __init__(self, environment: str) -> None:
        self._environment = environment
        self._groups: dict[tuple[bool, int], _Group] = {}
        self._waiting: dict[Key, _Waiting] = {}
        self._held: dict[str, Held] = {}
        self._expected: dict[str, int] = {}
        self._order = 0
        self._sequence = 0
        #: The highest epoch of the pool that it has heard of; 0 for none.
        self.epoch = 0
        self._seen = 0
        self._early: set[int] = set()
        self._told: _State | None = None

    # --- tasks ---------------------------------------------------------------------------------------------
    def want(self, key: Key, step: str, *, priority: int, alone: bool, now: float) -> None:
        """A task waits for a slot. ``key`` is (execution id, step number, attempt)."""
        self.withdraw(key)
        group = self._groups.setdefault((alone, -priority), _Group())
        self._order += 1
        heapq.heappush(group.heap, (now, self._order, key))
        self._waiting[key] = _Waiting(group, self._order, step)
        group.size += 1
        group.steps[step] += 1
        group.work += self._work_of(step)

    def withdraw(self, key: Key) -> bool:
        """Take a task back; answers whether it still waited."""
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return False
        group = waiting.group
        group.size -= 1
        group.work -= self._work_of(waiting.step)
        group.steps[waiting.step] -= 1
        if not group.steps[waiting.step]:
            del group.steps[waiting.step]
        return True

    def observe(self, step: str, seconds: float) -> None:
        """A task of that step took so long."""
        seen, before = round(seconds * 1e9), self._work_of(step)
        weight = _SMOOTHING_DOWN if seen < before else _SMOOTHING_UP
        after = before + round(weight * (seen - before)) if step in self._expected else seen
        self._expected[step] = after
        for group in self._groups.values():
            group.work += group.steps[step] * (after - before)

    def _work_of(self, step: str) -> int:
        return self._expected.get(step, _BATCH_WORK)

    # --- slots ---------------------------------------------------------------------------------------------
    def heard_from(self, epoch: int) -> bool:
        """The pool of that epoch says something; answers whether it counts, which an earlier pool's word does not.

        In a later epoch, grants are numbered anew, and the pool has to be told everything.
        """
        if epoch > self.epoch:
            self.epoch, self._seen, self._told = epoch, 0, None
            self._early.clear()
        return epoch == self.epoch

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
        """A slot is not ours any more: its worker died or refused it, or the pool took it."""
        self._held.pop(token, None)

    def forget_told(self) -> None:
        """What was last told may not have arrived: tell it again."""
        self._told = None

    # --- what to do ----------------------------------------------------------------------------------------
    def plan(self, now: float) -> list[Send]:
        """Which tasks go out now. The slots that they use are busy afterwards."""
        sends: list[Send] = []
        for alone in (False, True):
            groups = [self._groups[at] for at in sorted(at for at in self._groups if at[0] is alone)]
            waiting = sum(group.size for group in groups)
            idle = [h for h in self._held.values() if h.alone is alone and not h.busy and not h.recalled]
            for position, held in enumerate(idle[:waiting]):
                share = 1 if alone else -(-waiting // (len(idle) - position))
                keys = self._next_batch(groups, min(share, BATCH_TASKS))
                waiting -= len(keys)
                held.busy = True
                sends.append(Send(held.token, held.worker, alone, tuple(keys)))
        self._give_back(now)
        return sends

    def _next_batch(self, groups: list[_Group], most: int) -> list[Key]:
        keys: list[Key] = []
        budget = _BATCH_WORK
        for group in groups:
            while len(keys) < most and (key := self._first(group)) is not None:
                expected = self._work_of(self._waiting[key].step)
                if keys and expected > budget:
                    return keys
                budget -= expected
                heapq.heappop(group.heap)
                self.withdraw(key)
                keys.append(key)
        return keys

    def _first(self, group: _Group) -> Key | None:
        while group.heap:
            _, order, key = group.heap[0]
            waiting = self._waiting.get(key)
            if waiting is not None and waiting.order == order:
                return key
            heapq.heappop(group.heap)  # withdrawn
        return None

    def _give_back(self, now: float) -> None:
        for held in list(self._held.values()):
            if not held.busy and (held.recalled or now >= held.idle_since + IDLE_KEEP):
                del self._held[held.token]

    def report(self) -> Report | None:
        """What to tell the pool, or None if it knows."""
        state = self._state()
        return None if state == self._told else self._tell(state)

    def full_report(self) -> Report:
        """What to tell the pool in any case."""
        return self._tell(self._state())

    def _state(self) -> _State:
        return self._demand(), frozenset(self._held), self._seen

    def _tell(self, state: _State) -> Report:
        self._told = state
        self._sequence += 1
        holding = {held.token: held.worker for held in self._held.values()}
        return Report(self._sequence, self.epoch, self._seen, state[0], holding)

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
        return tuple(
            Demand(self._environment, -rank, group.heap[0][0], _slots_for(group, alone=alone), alone)
            for (alone, rank), group in sorted(self._groups.items(), key=lambda item: item[0])
            if self._first(group) is not None
        )


def _slots_for(group: _Group, *, alone: bool) -> int:
    if alone:
        return group.size
    by_work = max(-(-group.work // _BATCH_WORK), -(-group.size // BATCH_TASKS))
    return max(1, min(group.size, by_work))
