"""The tasks of one coordinator that wait for slots of one pool: their order, their expected work, their demand.

It owns which task goes out next, and with which others, and what all of them together ask of the pool. What a slot
is, and which there are, is :mod:`rayflow.core.pool.slots`'s to know.

There may be thousands of groups, since each key of a limit makes one, so nothing here looks at all of them: each
is dropped when its last task goes, and only what changed is asked of the pool anew.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from rayflow.core.pool.protocol import Demand, Limit, is_own_tasks

#: A task: its execution's id, its step's number and its attempt's.
Key = tuple[str, int, int]

#: What a task needs and a slot is for: environment, alone, limits. Tasks go out on slots of the same kind.
Kind = tuple[str, bool, tuple[Limit, ...]]

#: Expected work in one batch, in seconds, and tasks at most: what was sent cannot be overtaken any more.
BATCH_SECONDS = 0.010
BATCH_TASKS = 128

_BATCH_WORK = round(BATCH_SECONDS * 1e9)

#: Withdrawn tasks that may lie in a group's line, beside as many as wait, before it is tidied.
_SPARE = 64

#: Weight of the newest observation in a step's expected duration: of a shorter one, and of a longer one. So it
#: stays near a step's short runs: a busy machine makes some look long, and a batch that turns out to be long is
#: answered early anyway.
_SMOOTHING_DOWN, _SMOOTHING_UP = 0.5, 0.05

#: A place in a group's line: when the task began to wait, its number among all that ever waited, and the task.
_Place = tuple[float, int, Key]

#: A group's demand behind what ranks it: the group's rank and its first task's place. The task's number is nobody
#: else's, so comparing two of these never comes to the demand.
_Wish = tuple[int, float, int, Demand]


@dataclass(slots=True, eq=False)
class _Group:
    """The waiting tasks of one kind and priority, and what they add up to, kept up to date with each of them."""

    kind: Kind
    #: The priority, turned around: the lowest goes first.
    rank: int
    #: Whether each task needs a slot for itself; then there is no work to add up.
    single: bool
    heap: list[_Place] = field(default_factory=list)
    #: How many of each step.
    steps: dict[str, int] = field(default_factory=dict)
    size: int = 0
    #: Expected work, in whole nanoseconds, so that adding and taking away comes out even.
    work: int = 0
    #: As it stands among the wishes of all groups.
    wish: _Wish | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One waiting task: its group, its number in the group's line, and its step."""

    group: _Group
    order: int
    step: str


class Waiting:
    """See the module's docstring.

    Example:
        >>> waiting = Waiting()
        >>> waiting.add(("flow", 3, 1), "extract", ("env", False, ()), priority=5, now=0.0)
        >>> waiting.take(("env", False, ()), slots=4)
        [(('flow', 3, 1),)]
    """

    def __init__(self) -> None:
        self._tasks: dict[Key, _Waiting] = {}
        self._order = 0
        #: By kind and rank, only those in which tasks wait.
        self._groups: dict[Kind, dict[int, _Group]] = {}
        #: Those of them whose tasks share slots. They are few, whatever the limits.
        self._sharing: set[_Group] = set()
        self._expected: dict[str, int] = {}
        #: All groups' wishes in order, the groups whose wish is out of date, and what was last made of all wishes.
        self._wishes: list[_Wish] = []
        self._stale: set[_Group] = set()
        self._demand: tuple[Demand, ...] | None = ()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, kind: Kind) -> bool:
        """Whether tasks of that kind wait."""
        return kind in self._groups

    # --- coming and going ----------------------------------------------------------------------------------
    def add(self, key: Key, step: str, kind: Kind, *, priority: int, now: float) -> None:
        """A task waits from now on. If it waited already, it waits anew."""
        self.withdraw(key)
        groups = self._groups.setdefault(kind, {})
        group = groups.get(-priority)
        if group is None:
            environment, alone, limits = kind
            # A Ray task of its own runs one step.
            single = alone or bool(limits) or is_own_tasks(environment)
            group = groups[-priority] = _Group(kind, -priority, single)
            if not single:
                self._sharing.add(group)
        self._order += 1
        heapq.heappush(group.heap, (now, self._order, key))
        self._tasks[key] = _Waiting(group, self._order, step)
        self._count(group, step, 1)

    def withdraw(self, key: Key) -> bool:
        """Take a task back; answers whether it still waited."""
        task = self._tasks.pop(key, None)
        if task is None:
            return False
        group = task.group
        self._count(group, task.step, -1)
        if not group.size:
            self._drop(group)
        elif len(group.heap) > 2 * group.size + _SPARE:
            group.heap = [place for place in group.heap if self._is_current(place)]
            heapq.heapify(group.heap)
        return True

    def observe(self, step: str, seconds: float) -> None:
        """A task of that step took so long."""
        seen, before = round(seconds * 1e9), self._work_of(step)
        weight = _SMOOTHING_DOWN if seen < before else _SMOOTHING_UP
        self._expect(step, before + round(weight * (seen - before)) if step in self._expected else seen)

    def is_long(self, step: str) -> None:
        """A task of that step kept those behind it in its batch waiting: the next ones are sent one by one."""
        self._expect(step, max(self._work_of(step), _BATCH_WORK))

    def _expect(self, step: str, after: int) -> None:
        before = self._work_of(step)
        self._expected[step] = after
        for group in self._sharing:
            if step in group.steps:
                group.work += group.steps[step] * (after - before)
                self._stale.add(group)

    def _work_of(self, step: str) -> int:
        return self._expected.get(step, _BATCH_WORK)

    def _count(self, group: _Group, step: str, by: int) -> None:
        group.size += by
        self._stale.add(group)
        if group.single:
            return
        group.work += by * self._work_of(step)
        group.steps[step] = group.steps.get(step, 0) + by
        if not group.steps[step]:
            del group.steps[step]

    def _drop(self, group: _Group) -> None:
        groups = self._groups[group.kind]
        del groups[group.rank]
        if not groups:
            del self._groups[group.kind]
        self._sharing.discard(group)
        self._stale.discard(group)
        self._unrank(group)

    # --- going out -----------------------------------------------------------------------------------------
    def take(self, kind: Kind, slots: int) -> list[tuple[Key, ...]]:
        """Batches for up to so many slots of that kind. The tasks in them do not wait any more.

        The most urgent go first, then who waits longest. Short ones are shared out evenly.
        """
        groups = [group for _, group in sorted(self._groups[kind].items())]
        left, single = sum(group.size for group in groups), groups[0].single
        batches: list[tuple[Key, ...]] = []
        while left and len(batches) < slots:
            share = 1 if single else -(-left // (slots - len(batches)))
            batch = self._next_batch(groups, min(share, BATCH_TASKS))
            left -= len(batch)
            batches.append(tuple(batch))
        return batches

    def _next_batch(self, groups: Sequence[_Group], most: int) -> list[Key]:
        keys: list[Key] = []
        budget = _BATCH_WORK
        for group in groups:
            while group.size and len(keys) < most:
                _, _, key = self._first(group)
                expected = self._work_of(self._tasks[key].step)
                if keys and expected > budget:
                    return keys
                budget -= expected
                heapq.heappop(group.heap)
                self.withdraw(key)
                keys.append(key)
        return keys

    def _first(self, group: _Group) -> _Place:
        while not self._is_current(group.heap[0]):
            heapq.heappop(group.heap)
        return group.heap[0]

    def _is_current(self, place: _Place) -> bool:
        """Whether a task still waits in that place: it may have been withdrawn, or wait anew elsewhere."""
        _, order, key = place
        task = self._tasks.get(key)
        return task is not None and task.order == order

    # --- demand --------------------------------------------------------------------------------------------
    def demand(self) -> tuple[Demand, ...]:
        """What all of them ask of the pool, the most urgent first, then who waits longest."""
        for group in self._stale:
            self._unrank(group)
            group.wish = self._wish(group)
            insort(self._wishes, group.wish)
        if self._stale or self._demand is None:
            self._stale.clear()
            self._demand = tuple(demand for _, _, _, demand in self._wishes)
        return self._demand

    def _wish(self, group: _Group) -> _Wish:
        environment, alone, limits = group.kind
        stamp, order, _ = self._first(group)
        demand = Demand(environment, -group.rank, stamp, _slots_for(group), alone, limits, group.size)
        return group.rank, stamp, order, demand

    def _unrank(self, group: _Group) -> None:
        if group.wish is not None:
            del self._wishes[bisect_left(self._wishes, group.wish)]
            group.wish = self._demand = None


def _slots_for(group: _Group) -> int:
    if group.single:
        return group.size
    by_work = max(-(-group.work // _BATCH_WORK), -(-group.size // BATCH_TASKS))
    return max(1, min(group.size, by_work))
