"""One environment's plan: who gets the free slots, and which leases are asked back.

The view is this: a held slot falls free when its running task ends, and the question is only whose task comes
next on it. So slots that are free, slots that were asked back, and slots that are held are one supply, and it
is dealt out to what waits, highest priority first:

* A free slot goes to the highest priority, then to the oldest stamp, then by the coordinator's name.
* A coordinator keeps a slot that it holds if its own next task is as urgent as anybody else's. What it does not
  need for that is asked back, as many as are needed and no more: free slots and recalls under way count first.
* Within one priority that would let whoever has much to do keep everything. So when a coordinator holds less
  than its even share and has waited a quantum, the slots are dealt out evenly over those who wait at that
  priority; those who wait in turn go before those who hold, and a slot is held for a quantum at least. Where
  there are fewer slots than coordinators this is taking turns.
* Tasks under limits are dealt with as far as their limits have room: the rest is not waiting here. Each needs a
  lease for itself, which nobody asks back, since it comes back by itself. So for all of this a coordinator counts
  twice: with its tasks under limits, and with the others.
* A task that must run alone takes a worker that is empty, in its turn. If it finds none within a quantum, it
  goes before its own priority, and the worker with the fewest leases is emptied for it, one at a time; while
  others wait at that priority, only if nobody else runs alone. Such a lease is asked back as soon as anybody
  waits for anything.

A recall whose deadline passed is not counted on any more: its task may be a long one, and another lease is
asked back in its stead. Neither is the recall of a whole worker: what must run alone is suspect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from rayflow.core.pool.protocol import PoolTerms
from rayflow.core.pool.state import Claimant, CoordinatorState, Environment, LeaseState, NetDemand, Worker

_Name = TypeVar("_Name")


def deal(wants: Mapping[_Name, int], slots: int, order: Sequence[_Name]) -> dict[_Name, int]:
    """Deal slots out evenly, to nobody more than it wants; what cannot be divided goes by ``order``.

    Example:
        >>> deal({"a": 9, "b": 1, "c": 9}, 8, ["a", "b", "c"])
        {'a': 4, 'b': 1, 'c': 3}
    """
    shares = dict.fromkeys(order, 0)
    hungry = [name for name in order if wants[name] > 0]
    while slots and hungry:
        each = max(1, min(slots // len(hungry), *(wants[name] - shares[name] for name in hungry)))
        for name in hungry[:slots]:
            shares[name] += each
            slots -= each
        hungry = [name for name in hungry if shares[name] < wants[name]]
    return shares


class Plan:
    """Deals out one environment's slots at one moment.

    It owns the arithmetic. Granting and recalling are its owner's, who must put a granted lease into the worker
    before it returns.

    Args:
        environment: whose slots; its ``drain`` is set.
        waiting: what is waited for and could be granted now, in the order of
            :func:`~rayflow.core.pool.state.wishes`; counts are taken down.
        parties: the coordinators, by name.
        now: the time.
        terms: the pool's durations.
        grant: gives a slot of a worker to a wish.
        recall: asks a lease back.
    """

    def __init__(
        self,
        environment: Environment,
        waiting: list[NetDemand],
        parties: Mapping[str, CoordinatorState],
        *,
        now: float,
        terms: PoolTerms,
        grant: Callable[[Worker, NetDemand], None],
        recall: Callable[[LeaseState], None],
    ) -> None:
        self._environment = environment
        self._waiting = waiting
        self._parties = parties
        self._now = now
        self._terms = terms
        self._grant = grant
        self._recall = recall
        self._workers = [worker for worker in environment.workers.values() if worker.up and worker.leave_by is None]
        self._before, environment.drain = environment.drain, None
        #: Free slots by worker; who has none is not in it, and neither is the worker that is being emptied.
        self._room = {worker.name: free for worker in self._workers if (free := worker.free)}
        self._loose: dict[Claimant, list[LeaseState]] = {}
        #: Slots that a claimant has and that cannot be asked back now: in flight, or under limits.
        self._firm: dict[Claimant, int] = {}
        self._coming_on: dict[str, int] = {}
        for seat in (seat for worker in self._workers for seat in worker.seats.values()):
            lease = seat.lease
            if lease.alone:
                continue
            if seat.received and seat.deadline is None and not lease.limited:
                self._loose.setdefault((lease.coordinator, False), []).append(seat)
            elif lease.limited or not seat.received:
                claimant = (lease.coordinator, lease.limited)
                self._firm[claimant] = self._firm.get(claimant, 0) + 1
            if seat.deadline is not None and now < seat.deadline:
                self._coming_on[lease.worker] = self._coming_on.get(lease.worker, 0) + 1
        self._coming = sum(self._coming_on.values())
        for seats in self._loose.values():
            seats.sort(key=lambda seat: (seat.lease.granted_at, seat.lease.number, seat.lease.token))

    def run(self) -> float:
        """Grant and recall what is to be granted and recalled now; answers when to look again, infinity for never."""
        for priority, group in groupby(self._waiting, key=lambda wish: wish.priority):
            level = list(group)
            plain = [wish for wish in level if not wish.alone]
            self._make_room_for_lonely([wish for wish in level if wish.alone], contested=bool(plain))
            self._hand_out(level, plain, shares := self._shares(plain))
            self._call_back(priority, plain, shares)
        if any(wish.count for wish in self._waiting):
            self._ask_for_whole_workers()
        return self._next_wake()

    # --- the supply ---------------------------------------------------------------------------------------
    def _roomiest(self) -> Worker | None:
        """The worker with the most free slots; the one that was being emptied last of all."""
        name = min(self._room, key=lambda n: (n == self._before, -self._room[n], n), default=None)
        return None if name is None else self._environment.workers[name]

    def _empty(self) -> Worker | None:
        workers = (self._environment.workers[name] for name in self._room)
        empty = [worker.name for worker in workers if self._room[worker.name] == worker.slots]
        name = min(empty, key=lambda n: (n != self._before, n), default=None)
        return None if name is None else self._environment.workers[name]

    def _free(self) -> int:
        return sum(self._room.values())

    def _give(self, wish: NetDemand, worker: Worker) -> None:
        self._grant(worker, wish)
        wish.count -= 1
        self._room[worker.name] -= worker.slots if wish.alone else 1
        if not self._room[worker.name]:
            del self._room[worker.name]
        if not wish.alone:
            self._firm[wish.claimant] = self._firm.get(wish.claimant, 0) + 1

    # --- within one priority ------------------------------------------------------------------------------
    def _held(self, claimant: Claimant) -> int:
        return self._firm.get(claimant, 0) + len(self._loose.get(claimant, ()))

    def _due_at(self, wish: NetDemand) -> float:
        """When a wish has waited a quantum. Who holds nothing waits since it last had something."""
        since = wish.stamp
        if not wish.alone and not self._held(wish.claimant):
            since = max(since, self._served(wish))
        return since + self._terms.quantum

    def _served(self, wish: NetDemand) -> float:
        served = self._parties[wish.coordinator].served
        return served.get((self._environment.name, wish.claimant[1]), wish.stamp)

    def _turns(self, first: Mapping[Claimant, NetDemand]) -> list[Claimant]:
        """In which order claimants get what cannot be divided evenly."""

        def turn(claimant: Claimant) -> tuple[int, float, float, Claimant]:
            due_at = self._due_at(first[claimant])
            if not self._held(claimant):
                stamp = first[claimant].stamp
                return (0, due_at, 0.0, claimant) if self._now >= due_at else (2, stamp, 0.0, claimant)
            newest = self._now if self._firm.get(claimant) else self._loose[claimant][-1].lease.granted_at
            return (1, -self._held(claimant), -newest, claimant)

        return sorted(first, key=turn)

    def _shares(self, plain: list[NetDemand]) -> dict[Claimant, int] | None:
        """Each claimant's even share, in their turn's order; None while nobody is kept waiting below its share."""
        first: dict[Claimant, NetDemand] = {}
        wants: dict[Claimant, int] = {}
        for wish in plain:
            claimant = wish.claimant
            first.setdefault(claimant, wish)
            wants[claimant] = wants.get(claimant, self._firm.get(claimant, 0)) + wish.count
        if len(wants) < 2:
            return None
        supply = self._free() + self._coming + sum(map(len, self._loose.values()))
        supply += sum(self._firm.get(claimant, 0) for claimant in wants)
        shares = deal(wants, supply, self._turns(first))
        starved = any(self._held(c) < share and self._now >= self._due_at(first[c]) for c, share in shares.items())
        return shares if starved else None

    def _make_room_for_lonely(self, lonely: list[NetDemand], *, contested: bool) -> None:
        for wish in lonely:
            while wish.count and self._now >= self._due_at(wish):
                if contested and any(worker.alone for worker in self._workers):
                    return
                worker = self._empty()
                if worker is None:
                    self._drain()
                    return
                self._give(wish, worker)

    def _drain(self) -> None:
        """Choose the worker that is emptied next and ask back what is on it, if more urgent tasks can spare it."""
        if self._environment.drain is not None:
            return
        candidates = []
        for worker in self._workers:
            held: dict[Claimant, list[LeaseState]] = {}
            for seat in worker.seats.values():
                if seat.loose:
                    held.setdefault((seat.lease.coordinator, False), []).append(seat)
            spare = all(len(seats) <= len(self._loose[holder]) for holder, seats in held.items())
            if spare and not worker.alone:
                candidates.append((worker.name != self._before, worker.used, worker.name, held))
        if not candidates:
            return
        _, _, self._environment.drain, held = min(candidates, key=lambda c: c[:3])
        self._room.pop(self._environment.drain, None)
        for holder, seats in held.items():
            # Seats that a more urgent task of the same holder was to keep are replaced by others of the holder.
            others = [seat for seat in self._loose[holder] if seat.lease.worker != self._environment.drain]
            self._loose[holder] = others[: len(self._loose[holder]) - len(seats)]
            for seat in seats:
                self._recall(seat)
        elsewhere = sum(n for worker, n in self._coming_on.items() if worker != self._environment.drain)
        self._coming = min(self._coming, elsewhere)

    def _ask_for_whole_workers(self) -> None:
        """A lease of a whole worker is for one task, not to be kept, as soon as anybody waits for anything."""
        for seat in (seat for worker in self._workers for seat in worker.seats.values()):
            if seat.lease.alone and seat.received and seat.deadline is None and not seat.lease.limited:
                self._recall(seat)

    def _hand_out(self, level: list[NetDemand], plain: list[NetDemand], shares: Mapping[Claimant, int] | None) -> None:
        """Give away free slots: first up to the shares, if they count, then in the order of stamps."""
        if shares is not None:
            rooms = {claimant: max(0, share - self._held(claimant)) for claimant, share in shares.items()}
            rooms = deal(rooms, self._free(), list(shares))
            for wish in plain:
                while wish.count and rooms[wish.claimant] and (worker := self._roomiest()):
                    rooms[wish.claimant] -= 1
                    self._give(wish, worker)
        for wish in level:
            while wish.count and (worker := self._empty() if wish.alone else self._roomiest()):
                self._give(wish, worker)

    def _call_back(self, priority: int, plain: list[NetDemand], shares: Mapping[Claimant, int] | None) -> None:
        """Let everybody keep what its own next tasks need, and ask the rest back for those who still wait."""
        wants: dict[Claimant, int] = {}
        for wish in plain:
            wants[wish.claimant] = wants.get(wish.claimant, 0) + wish.count
        missing = -self._coming
        for claimant, want in wants.items():
            most = want if shares is None else max(0, min(want, shares[claimant] - self._firm.get(claimant, 0)))
            missing += max(0, most - self._keep(claimant, want, most))
        self._coming = max(0, -missing)
        # Shares use up the whole supply or serve everybody, so here nothing that was ceded is left over for
        # those below.
        self._take(max(0, missing), self._ranks(priority))

    def _keep(self, claimant: Claimant, want: int, most: int) -> int:
        """Take a holder's seats for its own next tasks out of the loose ones, and answer how many they are.

        It cedes what it wants but is above its share, oldest first, except what it has held for less than a
        quantum. What it does not even want comes before that.
        """
        seats = self._loose.get(claimant, [])
        unwanted = max(0, len(seats) - want)
        wanted = seats[unwanted:]
        above = wanted[: max(0, len(wanted) - most)]
        ceded = [seat for seat in above if self._now >= seat.lease.granted_at + self._terms.quantum]
        seats[unwanted:] = ceded
        return len(wanted) - len(ceded)

    def _ranks(self, priority: int) -> dict[Claimant, int]:
        """The most urgent thing that each claimant still waits for, at this priority or below."""
        ranks: dict[Claimant, int] = {}
        for wish in self._waiting:
            if wish.count and wish.priority <= priority:
                ranks.setdefault(wish.claimant, wish.priority)
        return ranks

    def _take(self, count: int, ranks: Mapping[Claimant, int]) -> None:
        """Recall loose seats, from whoever waits for the least urgent things, then from whoever has most."""
        for _ in range(count):
            holders = [holder for holder, seats in self._loose.items() if seats]
            if not holders:
                return
            holder = min(holders, key=lambda h: (ranks.get(h, -1), -len(self._loose[h]), h))
            self._recall(self._loose[holder].pop(0))

    def _next_wake(self) -> float:
        """When time alone could change the plan: something becomes due, a slice ends, a recall is given up on."""
        waiting = [wish for wish in self._waiting if wish.count]
        if not waiting:
            return math.inf
        moments: list[float] = []
        for wish in waiting:
            moments += [wish.stamp + self._terms.quantum, self._served(wish) + self._terms.quantum]
        for seat in (seat for worker in self._workers for seat in worker.seats.values()):
            moments.append(seat.lease.granted_at + self._terms.quantum if seat.deadline is None else seat.deadline)
        return min((moment for moment in moments if moment > self._now), default=math.inf)
