"""Plan of one environment: which demand gets the free slots, and which leases are recalled.

A held slot becomes free when its running batch ends; the plan decides whose task comes next on it. So free slots,
recalled slots and held slots are one supply, which is shared among the demand, highest priority first:

* A free slot goes to the highest priority, then to the oldest demand, then by the coordinator's name.
* A coordinator keeps a held slot if its own next task is as urgent as any other. Other held slots are recalled, as many
  as are needed: free slots and recalls under way are used first.
* Within one priority, that rule alone would let a busy coordinator keep everything. So if a coordinator has less than
  its fair share and has waited for a quantum, the slots are shared evenly among the coordinators with demand at that
  priority. Coordinators without a slot come first, and a slot is held for at least a quantum. With fewer slots than
  coordinators, they take turns.
* Tasks under limits take part as far as their limits have room. Each needs a lease for itself, which is never recalled,
  since it is returned after its task. So a coordinator counts as two consumers: limited tasks, and all others.
* An exclusive task takes an empty worker in its turn. If it finds none within a quantum, it goes before its own
  priority, and the worker with the fewest leases is emptied for it, one worker at a time. If other tasks wait at that
  priority, this happens only while no other exclusive task runs. An exclusive lease is recalled as soon as any task
  waits.

A recall whose deadline has passed no longer counts, because its task may be a long one; another lease is recalled
instead. The recall of an exclusive lease does not count either, because its task is suspect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from rayflow.core.pool.protocol import PoolTerms
from rayflow.core.pool.state import Consumer, CoordinatorState, Environment, LeaseState, NetDemand, Worker

_Name = TypeVar("_Name")


def fair_share(wants: Mapping[_Name, int], slots: int, order: Sequence[_Name]) -> dict[_Name, int]:
    """Share slots evenly, to each at most what it wants; the remainder of the division goes by ``order``.

    Example:
        >>> fair_share({"a": 9, "b": 1, "c": 9}, 8, ["a", "b", "c"])
        {'a': 4, 'b': 1, 'c': 3}
    """
    shares = dict.fromkeys(order, 0)
    unserved = [name for name in order if wants[name] > 0]
    while slots and unserved:
        each = max(1, min(slots // len(unserved), *(wants[name] - shares[name] for name in unserved)))
        for name in unserved[:slots]:
            shares[name] += each
            slots -= each
        unserved = [name for name in unserved if shares[name] < wants[name]]
    return shares


class EnvironmentPlan:
    """Plan of one environment's slots at one moment.

    The plan owns the arithmetic. Its owner grants and recalls, and must add a granted lease to the worker before
    ``grant`` returns.

    Args:
        environment: environment of the slots; the plan sets its ``drain``.
        waiting: grantable demand in the order of :func:`~rayflow.core.pool.state.net_demand`; the plan reduces its
            counts.
        coordinators: all coordinators, by name.
        now: the time.
        terms: the pool's durations.
        grant: leases a slot of a worker to a demand.
        recall: recalls a lease.
    """

    def __init__(
        self,
        environment: Environment,
        waiting: list[NetDemand],
        coordinators: Mapping[str, CoordinatorState],
        *,
        now: float,
        terms: PoolTerms,
        grant: Callable[[Worker, NetDemand], None],
        recall: Callable[[LeaseState], None],
    ) -> None:
        self._environment = environment
        self._waiting = waiting
        self._coordinators = coordinators
        self._now = now
        self._terms = terms
        self._grant = grant
        self._recall = recall
        self._workers = [worker for worker in environment.workers.values() if worker.up and worker.leave_by is None]
        self._drained_before, environment.drain = environment.drain, None
        #: Free slots by worker, without full workers and the worker that is being emptied.
        self._room = {worker.name: free for worker in self._workers if (free := worker.free)}
        self._recallable: dict[Consumer, list[LeaseState]] = {}
        #: Slots of each consumer that cannot be recalled now: in flight, or under limits.
        self._fixed: dict[Consumer, int] = {}
        self._returning_on: dict[str, int] = {}
        for held in self._leases():
            lease = held.lease
            if lease.exclusive:
                continue
            if held.recallable:
                self._recallable.setdefault((lease.coordinator, False), []).append(held)
            elif lease.limited or not held.received:
                consumer = (lease.coordinator, lease.limited)
                self._fixed[consumer] = self._fixed.get(consumer, 0) + 1
            if held.deadline is not None and now < held.deadline:
                self._returning_on[lease.worker] = self._returning_on.get(lease.worker, 0) + 1
        self._returning = sum(self._returning_on.values())
        for leases in self._recallable.values():
            leases.sort(key=lambda held: (held.lease.granted_at, held.lease.number, held.lease.token))

    def run(self) -> float:
        """Grant and recall leases; return when to plan again, infinity for never."""
        for priority, group in groupby(self._waiting, key=lambda demand: demand.priority):
            level = list(group)
            shared = [demand for demand in level if not demand.exclusive]
            self._place_exclusive([demand for demand in level if demand.exclusive], contested=bool(shared))
            self._grant_free(level, shared, shares := self._shares(shared))
            self._recall_for(priority, shared, shares)
        if any(demand.count for demand in self._waiting):
            self._recall_exclusive()
        return self._next_wake()

    def _leases(self) -> Iterator[LeaseState]:
        return (held for worker in self._workers for held in worker.leases.values())

    def _roomiest(self) -> Worker | None:
        """Return the worker with the most free slots; the one that was being emptied comes last."""
        name = min(self._room, key=lambda n: (n == self._drained_before, -self._room[n], n), default=None)
        return None if name is None else self._environment.workers[name]

    def _empty(self) -> Worker | None:
        workers = (self._environment.workers[name] for name in self._room)
        empty = [worker.name for worker in workers if self._room[worker.name] == worker.slots]
        name = min(empty, key=lambda n: (n != self._drained_before, n), default=None)
        return None if name is None else self._environment.workers[name]

    def _free(self) -> int:
        return sum(self._room.values())

    def _give(self, demand: NetDemand, worker: Worker) -> None:
        self._grant(worker, demand)
        demand.count -= 1
        self._room[worker.name] -= worker.slots if demand.exclusive else 1
        if not self._room[worker.name]:
            del self._room[worker.name]
        if not demand.exclusive:
            self._fixed[demand.consumer] = self._fixed.get(demand.consumer, 0) + 1

    def _held(self, consumer: Consumer) -> int:
        return self._fixed.get(consumer, 0) + len(self._recallable.get(consumer, ()))

    def _due_at(self, demand: NetDemand) -> float:
        """Return when a demand has waited for a quantum. Without a slot, the wait starts at the last returned one."""
        since = demand.waiting_since
        if not demand.exclusive and not self._held(demand.consumer):
            since = max(since, self._served(demand))
        return since + self._terms.quantum

    def _served(self, demand: NetDemand) -> float:
        served = self._coordinators[demand.coordinator].served
        return served.get((self._environment.name, demand.consumer[1]), demand.waiting_since)

    def _turns(self, first: Mapping[Consumer, NetDemand]) -> list[Consumer]:
        """Return the order in which consumers get the remainder of a division."""

        def turn(consumer: Consumer) -> tuple[int, float, float, Consumer]:
            due_at = self._due_at(first[consumer])
            if not self._held(consumer):
                since = first[consumer].waiting_since
                return (0, due_at, 0.0, consumer) if self._now >= due_at else (2, since, 0.0, consumer)
            newest = self._now if self._fixed.get(consumer) else self._recallable[consumer][-1].lease.granted_at
            return (1, -self._held(consumer), -newest, consumer)

        return sorted(first, key=turn)

    def _shares(self, shared: list[NetDemand]) -> dict[Consumer, int] | None:
        """Return each consumer's fair share, in their order; None while no consumer waits below its share."""
        first: dict[Consumer, NetDemand] = {}
        wants: dict[Consumer, int] = {}
        for demand in shared:
            consumer = demand.consumer
            first.setdefault(consumer, demand)
            wants[consumer] = wants.get(consumer, self._fixed.get(consumer, 0)) + demand.count
        if len(wants) < 2:
            return None
        supply = self._free() + self._returning + sum(map(len, self._recallable.values()))
        supply += sum(self._fixed.get(consumer, 0) for consumer in wants)
        shares = fair_share(wants, supply, self._turns(first))
        starved = any(self._held(c) < share and self._now >= self._due_at(first[c]) for c, share in shares.items())
        return shares if starved else None

    def _place_exclusive(self, exclusive: list[NetDemand], *, contested: bool) -> None:
        """Grant empty workers to exclusive demand that has waited for a quantum, or empty a worker for it."""
        for demand in exclusive:
            while demand.count and self._now >= self._due_at(demand):
                if contested and any(worker.exclusive for worker in self._workers):
                    return
                worker = self._empty()
                if worker is None:
                    self._drain()
                    return
                self._give(demand, worker)

    def _drain(self) -> None:
        """Choose the worker to empty next and recall its leases, if more urgent tasks do not need them."""
        if self._environment.drain is not None:
            return
        candidates = []
        for worker in self._workers:
            leases: dict[Consumer, list[LeaseState]] = {}
            for held in worker.leases.values():
                if held.recallable:
                    leases.setdefault((held.lease.coordinator, False), []).append(held)
            spare = all(len(found) <= len(self._recallable[consumer]) for consumer, found in leases.items())
            if spare and not worker.exclusive:
                candidates.append((worker.name != self._drained_before, worker.used, worker.name, leases))
        if not candidates:
            return
        _, _, self._environment.drain, leases = min(candidates, key=lambda c: c[:3])
        self._room.pop(self._environment.drain, None)
        for consumer, recalled in leases.items():
            # If a more urgent task of the same consumer was to keep one of these leases, it keeps another instead.
            others = [held for held in self._recallable[consumer] if held.lease.worker != self._environment.drain]
            self._recallable[consumer] = others[: len(self._recallable[consumer]) - len(recalled)]
            for held in recalled:
                self._recall(held)
        elsewhere = sum(n for worker, n in self._returning_on.items() if worker != self._environment.drain)
        self._returning = min(self._returning, elsewhere)

    def _recall_exclusive(self) -> None:
        """Recall exclusive leases: each is for one task, and must not be kept while any task waits."""
        for held in self._leases():
            if held.lease.exclusive and held.received and held.deadline is None and not held.lease.limited:
                self._recall(held)

    def _grant_free(
        self, level: list[NetDemand], shared: list[NetDemand], shares: Mapping[Consumer, int] | None
    ) -> None:
        """Grant free slots: first up to the shares, if they apply, then oldest demand first."""
        if shares is not None:
            rooms = {consumer: max(0, share - self._held(consumer)) for consumer, share in shares.items()}
            rooms = fair_share(rooms, self._free(), list(shares))
            for demand in shared:
                while demand.count and rooms[demand.consumer] and (worker := self._roomiest()):
                    rooms[demand.consumer] -= 1
                    self._give(demand, worker)
        for demand in level:
            while demand.count and (worker := self._empty() if demand.exclusive else self._roomiest()):
                self._give(demand, worker)

    def _recall_for(self, priority: int, shared: list[NetDemand], shares: Mapping[Consumer, int] | None) -> None:
        """Let each consumer keep the leases for its own next tasks, and recall others for the remaining demand."""
        wants: dict[Consumer, int] = {}
        for demand in shared:
            wants[demand.consumer] = wants.get(demand.consumer, 0) + demand.count
        missing = -self._returning
        for consumer, want in wants.items():
            most = want if shares is None else max(0, min(want, shares[consumer] - self._fixed.get(consumer, 0)))
            missing += max(0, most - self._keep(consumer, want, most))
        self._returning = max(0, -missing)
        # Shares use up the supply or serve all demand, so no ceded lease is left for lower priorities here.
        self._recall_least_urgent(max(0, missing), self._ranks(priority))

    def _keep(self, consumer: Consumer, want: int, most: int) -> int:
        """Take the leases for a consumer's own next tasks out of the recallable ones; return their number.

        The consumer cedes leases above its share, oldest first, unless it has held them for less than a quantum. Leases
        that it has no task for are ceded before that.
        """
        leases = self._recallable.get(consumer, [])
        unneeded = max(0, len(leases) - want)
        needed = leases[unneeded:]
        above = needed[: max(0, len(needed) - most)]
        ceded = [held for held in above if self._now >= held.lease.granted_at + self._terms.quantum]
        leases[unneeded:] = ceded
        return len(needed) - len(ceded)

    def _ranks(self, priority: int) -> dict[Consumer, int]:
        """Return the highest priority of each consumer's remaining demand, at this priority or below."""
        ranks: dict[Consumer, int] = {}
        for demand in self._waiting:
            if demand.count and demand.priority <= priority:
                ranks.setdefault(demand.consumer, demand.priority)
        return ranks

    def _recall_least_urgent(self, count: int, ranks: Mapping[Consumer, int]) -> None:
        """Recall leases from the consumers with the least urgent demand, then from those with the most leases."""
        for _ in range(count):
            consumers = [consumer for consumer, leases in self._recallable.items() if leases]
            if not consumers:
                return
            consumer = min(consumers, key=lambda c: (ranks.get(c, -1), -len(self._recallable[c]), c))
            self._recall(self._recallable[consumer].pop(0))

    def _next_wake(self) -> float:
        """Return when time could change the plan: a demand's or a lease's quantum ends, or a recall's deadline."""
        quantum = self._terms.quantum
        waiting = [demand for demand in self._waiting if demand.count]
        if not waiting:
            return math.inf
        moments: list[float] = []
        for demand in waiting:
            moments += [demand.waiting_since + quantum, self._served(demand) + quantum]
        for held in self._leases():
            moments.append(held.lease.granted_at + quantum if held.deadline is None else held.deadline)
        return min((moment for moment in moments if moment > self._now), default=math.inf)
