"""State of a pool: mutable records that only the machine, its ledger, scaler and plan see."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayflow.core.pool.protocol import (
    Demand,
    Grant,
    Lease,
    LeaseRevoked,
    Limit,
    is_ray_task_environment,
    token_exclusive,
)


@dataclass(slots=True, eq=False)
class LeaseState:
    """A lease and its confirmation.

    Args:
        lease: the lease.
        limits: limits that it was granted under; unknown for a lease of an earlier epoch.
        received: whether the coordinator has confirmed it; otherwise it is in flight.
        deadline: until when its return is expected; None if it was not recalled.
        asked_at: time of the newest recall.
    """

    lease: Lease
    limits: tuple[Limit, ...] = ()
    received: bool = False
    deadline: float | None = None
    asked_at: float = 0.0

    @property
    def recallable(self) -> bool:
        """Whether it is confirmed, shared, without limits, and not recalled yet."""
        return self.received and self.deadline is None and not self.lease.exclusive and not self.lease.limited


@dataclass(slots=True, eq=False)
class OrphanedToken:
    """A token that occupies its worker and belongs to no lease.

    Args:
        exclusive: whether it occupies all slots.
        revoke_at: when the worker is next asked to revoke it.
        revoked: whether the pool has sent the revocation; from then on no coordinator can claim the token.
    """

    exclusive: bool
    revoke_at: float
    revoked: bool = False


@dataclass(slots=True, eq=False)
class Worker:
    """One worker.

    Args:
        name: its name.
        environment: its code environment.
        slots: number of tasks that it runs at once.
        since: when it began to start.
        up: whether it has reported.
        found: whether it is older than this pool, so that its occupancy is unknown until it reports.
        idle_since: when it came up, or was last released.
        leases: its leases, by token.
        orphans: other tokens that occupy it.
        stuck: tokens of tasks that cannot be stopped; it does not wait for these when it leaves.
        leave_by: for a leaving worker, the time at which it is stopped at the latest.
        surplus: whether it leaves only because there are too many workers.
    """

    name: str
    environment: str
    slots: int
    since: float
    up: bool = False
    found: bool = False
    idle_since: float = 0.0
    leases: dict[str, LeaseState] = field(default_factory=dict)
    orphans: dict[str, OrphanedToken] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    leave_by: float | None = None
    surplus: bool = False

    @property
    def leaving(self) -> bool:
        """Whether it stops once its tasks are done."""
        return self.leave_by is not None

    @property
    def exclusive(self) -> bool:
        """Whether one exclusive task occupies it."""
        leases, orphans = self.leases.values(), self.orphans.values()
        return any(held.lease.exclusive for held in leases) or any(orphan.exclusive for orphan in orphans)

    @property
    def used(self) -> int:
        """Slots that are leased, or not known to be free."""
        return self.slots if self.exclusive else len(self.leases) + len(self.orphans)

    @property
    def free(self) -> int:
        """Slots that could be granted now."""
        return max(0, self.slots - self.used) if self.up and self.leave_by is None else 0

    def admits(self, token: str) -> bool:
        """Return whether a claim to a token of an earlier epoch can be granted."""
        orphan = self.orphans.get(token)
        if orphan is not None:
            return not orphan.revoked
        return self.free == self.slots if token_exclusive(token) else self.free > 0


@dataclass(slots=True)
class UnconfirmedGrant:
    """A grant that its coordinator has not confirmed, and its revocation, if there is one."""

    commands: tuple[Grant | LeaseRevoked, ...]
    sent_at: float


@dataclass(slots=True, eq=False)
class CoordinatorState:
    """One coordinator.

    Args:
        name: its name.
        last: number of its newest grant.
        heard: time of its newest update.
        sequence: number of that update.
        environments: environments in which it has demand.
        leases: its leases, by token.
        claims: tokens of earlier epochs that it holds, with their workers, whose state is not known yet.
        unconfirmed: grants that it has not confirmed, by number.
        served: when it last returned a lease, by environment and by whether the lease was limited.
    """

    name: str
    last: int
    heard: float = 0.0
    sequence: int = -1
    environments: frozenset[str] = frozenset()
    leases: dict[str, LeaseState] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)
    unconfirmed: dict[int, UnconfirmedGrant] = field(default_factory=dict)
    served: dict[tuple[str, bool], float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Environment:
    """One code environment.

    Args:
        name: its id.
        wanted: whether any demand or request for it came; only then are missing workers started.
        workers: its workers, by name.
        waiting: demand by coordinator, as last reported, most urgent first.
        idle_since: since when it has neither demand nor leases; None while it has.
        drain: worker that is being emptied for an exclusive task.
        failures: failed starts in a row.
        retry_at: no worker is started before; None if no start failed, or that time has passed.
        wake: when its plan could change by time only; None for never.
        target: number of workers in its last plan.
        for_ray_tasks: whether its tasks run as separate Ray tasks; its one worker is then only a number of slots.
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
    for_ray_tasks: bool = field(init=False)

    def __post_init__(self) -> None:
        self.for_ray_tasks = is_ray_task_environment(self.name)

    @property
    def in_use(self) -> bool:
        """Whether it has demand, or one of its workers is occupied."""
        return bool(self.waiting) or any(worker.used for worker in self.workers.values())


#: Consumer of slots: a coordinator with its limited tasks (True), or with all others (False). They are counted apart,
#: because a limited task needs a lease for itself, and slots kept for other tasks do not help it.
Consumer = tuple[str, bool]


@dataclass(slots=True)
class NetDemand:
    """A coordinator's demand, minus the leases that are in flight to it."""

    coordinator: str
    priority: int
    waiting_since: float
    count: int
    exclusive: bool
    limits: tuple[Limit, ...]
    consumer: Consumer


def net_demand(environment: Environment, coordinators: dict[str, CoordinatorState]) -> list[NetDemand]:
    """Return the open demand of an environment: highest priority first, then oldest first.

    Leases in flight are subtracted from the coordinator's most urgent demand of the same kind, because the coordinator
    will use them for that, whatever they were granted for.
    """
    found: list[NetDemand] = []
    for name, demands in environment.waiting.items():
        in_flight: dict[tuple[bool, tuple[Limit, ...]], int] = {}
        for held in coordinators[name].leases.values():
            if not held.received and held.lease.environment == environment.name:
                kind = (held.lease.exclusive, held.limits)
                in_flight[kind] = in_flight.get(kind, 0) + 1
        for demand in demands:
            count = demand.count
            if in_flight:
                kind = (demand.exclusive, demand.limits)
                coming = in_flight.pop(kind, 0)
                if coming > count:
                    in_flight[kind] = coming - count
                count = max(0, count - coming)
            if count:
                consumer = (name, bool(demand.limits))
                found.append(
                    NetDemand(
                        name, demand.priority, demand.waiting_since, count, demand.exclusive, demand.limits, consumer
                    )
                )
    if len(environment.waiting) > 1:
        found.sort(key=lambda demand: (-demand.priority, demand.waiting_since, demand.coordinator))
    return found
