"""Wait queue of one coordinator for one pool: order, batches, expected work and demand.

The queue owns which tasks go out next, in which batches, and the demand that they sum up to. It knows no slots
(:mod:`rayflow.core.pool.slots`).

There may be thousands of groups, because each key of a limit makes one. So no operation visits all groups: a group is
dropped with its last task, and only changed groups update the demand.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from rayflow.core.pool.protocol import Demand, Limit, is_ray_task_environment

#: A task: execution id, step number, attempt number.
Key = tuple[str, int, int]

#: Kind of a task and of a slot: environment, exclusive, limits. A task needs a slot of the same kind.
Kind = tuple[str, bool, tuple[Limit, ...]]

#: Maximum of a batch in seconds of expected work, and in tasks. A sent batch cannot be overtaken by urgent tasks.
BATCH_SECONDS = 0.010
BATCH_TASKS = 128

_BATCH_WORK = round(BATCH_SECONDS * 1e9)

#: Withdrawn tasks that may stay in a group's heap, in addition to as many as wait, before they are removed.
_SPARE = 64

#: Weight of a new observation in a step's expected duration, if it is shorter or longer than expected. The expectation
#: stays near the short runs: load makes some runs look long, and a batch that takes long is answered early anyway.
_SMOOTHING_DOWN, _SMOOTHING_UP = 0.5, 0.05

#: Place in a group's heap: when the task began to wait, its number among all tasks that ever waited, and the task.
_Place = tuple[float, int, Key]

#: Demand of a group with its sort key: the group's rank, and its first task's place. Task numbers are unique, so a
#: comparison never reaches the demand.
_RankedDemand = tuple[int, float, int, Demand]


@dataclass(slots=True, eq=False)
class _Group:
    """Waiting tasks of one kind and priority, with their running totals."""

    kind: Kind
    #: Negated priority, so that the lowest rank goes first.
    rank: int
    #: Whether each task needs a slot for itself, so that expected work does not matter.
    single: bool
    heap: list[_Place] = field(default_factory=list)
    #: Number of tasks by step.
    steps: dict[str, int] = field(default_factory=dict)
    size: int = 0
    #: Expected work in whole nanoseconds, so that sums stay exact.
    work: int = 0
    #: The group's entry in the list of demands.
    ranked: _RankedDemand | None = None


@dataclass(frozen=True, slots=True)
class _QueuedTask:
    """One waiting task: its group, its number in the group's heap, and its step."""

    group: _Group
    order: int
    step: str


class WaitQueue:
    """Waiting tasks of one coordinator for one pool.

    Example:
        >>> queue = WaitQueue()
        >>> queue.add(("flow", 3, 1), "extract", ("env", False, ()), priority=5, now=0.0)
        >>> queue.take(("env", False, ()), slots=4)
        [(('flow', 3, 1),)]
    """

    def __init__(self) -> None:
        self._tasks: dict[Key, _QueuedTask] = {}
        self._order = 0
        #: Groups with waiting tasks, by kind and rank.
        self._groups: dict[Kind, dict[int, _Group]] = {}
        #: Groups whose tasks share slots. There are few of them, however many limits there are.
        self._sharing: set[_Group] = set()
        self._expected: dict[str, int] = {}
        #: Demands of all groups in order, groups whose demand is outdated, and the last returned demand.
        self._ranked: list[_RankedDemand] = []
        self._stale: set[_Group] = set()
        self._demand: tuple[Demand, ...] | None = ()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, kind: Kind) -> bool:
        """Return whether tasks of that kind wait."""
        return kind in self._groups

    def add(self, key: Key, step: str, kind: Kind, *, priority: int, now: float) -> None:
        """Add a task; one that waits already is moved to the end."""
        self.withdraw(key)
        groups = self._groups.setdefault(kind, {})
        group = groups.get(-priority)
        if group is None:
            environment, exclusive, limits = kind
            # A separate Ray task runs one step.
            single = exclusive or bool(limits) or is_ray_task_environment(environment)
            group = groups[-priority] = _Group(kind, -priority, single)
            if not single:
                self._sharing.add(group)
        self._order += 1
        heapq.heappush(group.heap, (now, self._order, key))
        self._tasks[key] = _QueuedTask(group, self._order, step)
        self._count(group, step, 1)

    def withdraw(self, key: Key) -> bool:
        """Remove a task; return whether it was waiting."""
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
        """Update a step's expected duration with an observed one."""
        seen, before = round(seconds * 1e9), self._work_of(step)
        weight = _SMOOTHING_DOWN if seen < before else _SMOOTHING_UP
        self._expect(step, before + round(weight * (seen - before)) if step in self._expected else seen)

    def ran_long(self, step: str) -> None:
        """Expect at least a full batch of work from a step whose task delayed its batch, so that it is sent alone."""
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

    def take(self, kind: Kind, slots: int) -> list[tuple[Key, ...]]:
        """Remove and return batches for up to ``slots`` slots of that kind.

        Tasks leave by priority, then by waiting time. Short tasks are spread evenly over the slots.
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
        """Return whether the task still waits in that place: it may have been withdrawn or added again."""
        _, order, key = place
        task = self._tasks.get(key)
        return task is not None and task.order == order

    def demand(self) -> tuple[Demand, ...]:
        """Return the demand of all waiting tasks, by priority, then by waiting time."""
        for group in self._stale:
            self._unrank(group)
            group.ranked = self._rank(group)
            insort(self._ranked, group.ranked)
        if self._stale or self._demand is None:
            self._stale.clear()
            self._demand = tuple(demand for _, _, _, demand in self._ranked)
        return self._demand

    def _rank(self, group: _Group) -> _RankedDemand:
        environment, exclusive, limits = group.kind
        waiting_since, order, _ = self._first(group)
        demand = Demand(environment, -group.rank, waiting_since, _slots_for(group), exclusive, limits, group.size)
        return group.rank, waiting_since, order, demand

    def _unrank(self, group: _Group) -> None:
        if group.ranked is not None:
            del self._ranked[bisect_left(self._ranked, group.ranked)]
            group.ranked = self._demand = None


def _slots_for(group: _Group) -> int:
    if group.single:
        return group.size
    by_work = max(-(-group.work // _BATCH_WORK), -(-group.size // BATCH_TASKS))
    return max(1, min(group.size, by_work))
