"""What a pool remembers. Mutable, because it is touched at every update; only the machine and its plan see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayflow.core.pool.protocol import (
    Demand,
    Grant,
    Lease,
    LeaseRevoked,
    Limit,
    is_own_tasks,
    token_alone,
)


@dataclass(slots=True, eq=False)
class LeaseState:
    """A lease, and how far the talk about it has come.

    Args:
        lease: the lease.
        limits: what it was granted under; not known of one that was taken over.
        received: whether the coordinator is known to have got it; else it is in flight.
        deadline: until when a recall is counted on; None if it was not recalled.
        asked_at: when it was last recalled.
    """

    lease: Lease
    limits: tuple[Limit, ...] = ()
    received: bool = False
    deadline: float | None = None
    asked_at: float = 0.0

    @property
    def loose(self) -> bool:
        """Whether it could be recalled: its holder has it, may put further tasks on it, and was not asked yet."""
        return self.received and self.deadline is None and not self.lease.alone and not self.lease.limited


@dataclass(slots=True, eq=False)
class OrphanedToken:
    """A token that occupies its worker without being anybody's lease.

    Args:
        alone: whether it occupies all slots.
        revoke_at: when the worker is next asked to revoke it.
        revoked: whether it was asked before; from then on nobody can claim the token.
    """

    alone: bool
    revoke_at: float
    revoked: bool = False


@dataclass(slots=True, eq=False)
class Worker:
    """One worker.

    Args:
        name: its name.
        environment: its code environment.
        slots: tasks that it runs at once.
        since: when it began to start.
        up: whether it has reported.
        found: whether it was there before this pool: until it has reported, nobody knows what it does.
        idle_since: when it came up, or something last left it.
        seats: its leases, by token.
        ghosts: what else occupies it, by token.
        stuck: tokens of tasks that cannot be stopped: not waited for when it leaves.
        leave_by: if it is leaving, when it is stopped at the latest.
        surplus: whether it leaves only because there are too many.
    """

    name: str
    environment: str
    slots: int
    since: float
    up: bool = False
    found: bool = False
    idle_since: float = 0.0
    seats: dict[str, LeaseState] = field(default_factory=dict)
    ghosts: dict[str, OrphanedToken] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    leave_by: float | None = None
    surplus: bool = False

    @property
    def leaving(self) -> bool:
        """Whether it is to stop once its tasks are done."""
        return self.leave_by is not None

    @property
    def alone(self) -> bool:
        """Whether it is given to one task alone."""
        return any(seat.lease.alone for seat in self.seats.values()) or any(g.alone for g in self.ghosts.values())

    @property
    def used(self) -> int:
        """Slots that are leased, or not known to be free."""
        return self.slots if self.alone else len(self.seats) + len(self.ghosts)

    @property
    def free(self) -> int:
        """Slots that could be granted now."""
        return max(0, self.slots - self.used) if self.up and self.leave_by is None else 0

    def admits(self, token: str) -> bool:
        """Whether a claim to a token of an earlier epoch can be granted."""
        ghost = self.ghosts.get(token)
        if ghost is not None:
            return not ghost.revoked
        return self.free == self.slots if token_alone(token) else self.free > 0


@dataclass(slots=True)
class Unseen:
    """A grant that its coordinator has not confirmed, and the void that followed it, if one did."""

    commands: tuple[Grant | LeaseRevoked, ...]
    sent_at: float


@dataclass(slots=True, eq=False)
class CoordinatorState:
    """One coordinator.

    Args:
        name: its name.
        last: the number of its newest grant.
        heard: when its newest update came.
        sequence: of that update.
        environments: where it has demand.
        seats: its leases, by token.
        claims: tokens of earlier epochs that it says it holds, on workers whose census is not there yet.
        outbox: grants that it has not confirmed, by number.
        served: when it last gave up a slot, by environment, and whether that was under limits.
    """

    name: str
    last: int
    heard: float = 0.0
    sequence: int = -1
    environments: frozenset[str] = frozenset()
    seats: dict[str, LeaseState] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)
    outbox: dict[int, Unseen] = field(default_factory=dict)
    served: dict[tuple[str, bool], float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Environment:
    """One code environment.

    Args:
        name: its id.
        wanted: whether there was demand for it, or ``want``: only then are missing workers started.
        workers: by name.
        waiting: demand by coordinator, as last sent, most urgent first.
        idle_since: since when it has neither demand nor leases; None if it has.
        drain: the worker that is being emptied for a task that must run alone.
        failures: failed starts in a row.
        retry_at: no worker is started before; None if nothing failed, or that time has passed.
        wake: when its plan could change by time alone; None for never.
        target: workers that it should have, by its last plan.
        own: whether its tasks run as Ray tasks of their own: then it has one worker that is only a number of slots.
    """

    name: str
    wanted: bool = False
    workers: dict[str, Worker] = field(default_factory=dict)
    waiting: dict[str, tuple[Demand, ...]] = field(default_factory=dict)
    idle_since: float | None = None
    drain: str | None = None
    failures: int = 0
    retry_at: float | None = None
    wake: float | None = None
    target: int = 0
    own: bool = field(init=False)

    def __post_init__(self) -> None:
        self.own = is_own_tasks(self.name)

    @property
    def in_use(self) -> bool:
        """Whether it has demand, or anything occupies a worker of it."""
        return bool(self.waiting) or any(worker.used for worker in self.workers.values())


#: Who has a share of the slots: a coordinator, once with its tasks under limits and once with all others. For the
#: former each needs a lease for itself, so the slots that it keeps for the latter do not help them.
Claimant = tuple[str, bool]


@dataclass(slots=True)
class NetDemand:
    """A demand, less what is on its way to the coordinator already."""

    coordinator: str
    priority: int
    stamp: float
    count: int
    alone: bool
    limits: tuple[Limit, ...]
    claimant: Claimant


def wishes(environment: Environment, parties: dict[str, CoordinatorState]) -> list[NetDemand]:
    """What is still waited for in an environment: highest priority first, then the oldest stamp.

    Leases in flight are taken off the coordinator's most urgent demand of their kind first, because that is what
    it will use them for, whatever they were granted for.
    """
    found: list[NetDemand] = []
    for name, demand in environment.waiting.items():
        flying: dict[tuple[bool, tuple[Limit, ...]], int] = {}
        for seat in parties[name].seats.values():
            if not seat.received and seat.lease.environment == environment.name:
                kind = (seat.lease.alone, seat.limits)
                flying[kind] = flying.get(kind, 0) + 1
        for entry in demand:
            count = entry.count
            if flying:
                kind = (entry.alone, entry.limits)
                there = flying.pop(kind, 0)
                if there > count:
                    flying[kind] = there - count
                count = max(0, count - there)
            if count:
                limited = bool(entry.limits)
                found.append(
                    NetDemand(name, entry.priority, entry.stamp, count, entry.alone, entry.limits, (name, limited))
                )
    if len(environment.waiting) > 1:
        found.sort(key=lambda w: (-w.priority, w.stamp, w.coordinator))
    return found
