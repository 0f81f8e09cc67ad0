"""Messages and records of a pool: demand, leases, commands, settings and statistics.

Times are seconds since the epoch; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

_RAY_TASKS = "@tasks"


def ray_task_environment(environment: str) -> str:
    """Return the environment in which the pool admits a code environment's steps that run as separate Ray tasks."""
    return environment + _RAY_TASKS


def is_ray_task_environment(environment: str) -> bool:
    """Return whether the name is one of :func:`ray_task_environment`."""
    return environment.endswith(_RAY_TASKS)


@dataclass(frozen=True, slots=True)
class Limit:
    """Limit that tasks of many coordinators share: tasks at once, or starts in a time window.

    Args:
        name: name of the limit; equal names are the same limit in all environments of the pool.
        count: tasks at once, or starts in any window of ``per`` seconds.
        per: window in seconds; 0 for a limit on tasks at once.
    """

    name: str
    count: int
    per: float = 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Slots that one coordinator needs in addition to those that it holds.

    Args:
        environment: code environment of the tasks; only its workers can run them.
        priority: 0 to 9, higher first.
        waiting_since: when the oldest of the tasks began to wait; unchanged when the demand is sent again.
        count: number of slots that the coordinator could use now.
        exclusive: whether each task needs a whole worker, because it is suspected of killing workers.
        limits: limits of each task; a task with limits needs a lease for itself.
        tasks: number of waiting tasks, of which short ones share a slot.
    """

    environment: str
    priority: int
    waiting_since: float
    count: int
    exclusive: bool = False
    limits: tuple[Limit, ...] = ()
    tasks: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """Right of one coordinator to use one slot of one worker, or all of its slots if ``exclusive``.

    Args:
        token: unique over all epochs of the pool; sent with every task to the worker.
        worker: name of the worker.
        coordinator: name of the holder.
        environment: the worker's code environment.
        priority: priority of the demand that it was granted for; None for a lease of an earlier epoch.
        exclusive: whether no other task may run on the worker.
        number: number of the grant, per coordinator and epoch; 0 for a lease of an earlier epoch.
        granted_at: time of the grant, or of the takeover from an earlier epoch.
        keys: names of the limits on tasks at once that it counts against.
        limited: whether it was granted under limits, and is therefore for one task.
    """

    token: str
    worker: str
    coordinator: str
    environment: str
    priority: int | None
    exclusive: bool
    number: int
    granted_at: float
    keys: tuple[str, ...] = ()
    limited: bool = False


def new_token(epoch: int, count: int, *, exclusive: bool = False, keys: Iterable[str] = ()) -> str:
    """Return a lease token, which carries what a later epoch of the pool must know: epoch, exclusiveness and keys.

    Example:
        >>> token_keys(new_token(7, 12, keys=["customer/5"]))
        ('customer/5',)
    """
    suffix = ".exclusive" if exclusive else ""
    return "".join([f"{epoch}.{count}", suffix, *("/" + quote(key, safe="") for key in keys)])


def token_epoch(token: str) -> int:
    """Return the epoch of the pool that made the token."""
    return int(token.partition(".")[0])


def token_exclusive(token: str) -> bool:
    """Return whether the token is for a whole worker."""
    return token.partition("/")[0].endswith(".exclusive")


def token_keys(token: str) -> tuple[str, ...]:
    """Return the names of the limits on tasks at once that the token counts against."""
    return tuple(unquote(key) for key in token.split("/")[1:])


@dataclass(frozen=True, slots=True)
class Grant:
    """Command: tell the coordinator that it has this lease. May be sent again with the same number.

    Grants are numbered per coordinator and epoch of the pool, from 1, without gaps. A grant with ``limits`` is for one
    task with exactly these limits, and is returned after it. That task must not begin after ``start_by`` (seconds since
    the epoch; None for no limit).
    """

    coordinator: str
    number: int
    token: str
    worker: str
    environment: str
    priority: int
    exclusive: bool = False
    limits: tuple[Limit, ...] = ()
    start_by: float | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    """Command: ask the coordinator to return this lease after its running batch.

    The lease is not taken by force at ``deadline``: the pool then stops counting on it, and recalls another one.
    """

    coordinator: str
    token: str
    deadline: float


class RevokeReason(StrEnum):
    """Reason why a lease is revoked."""

    #: The worker died or hangs: its tasks are lost, and may be the cause.
    DIED = "died"
    #: The worker was stopped before the task ended: its tasks are lost, and are not the cause.
    DRAINED = "drained"
    #: The lease has expired, or never existed. A task under it may still complete.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LeaseRevoked:
    """Command: tell the coordinator that it does not hold this lease."""

    coordinator: str
    token: str
    worker: str
    why: RevokeReason


@dataclass(frozen=True, slots=True)
class Revoke:
    """Command: make the worker refuse this token, and report ``slot_free`` once no task runs under it."""

    worker: str
    token: str


@dataclass(frozen=True, slots=True)
class StartWorkers:
    """Command: start ``count`` workers, and report ``worker_starting`` for each before any other event of it."""

    environment: str
    count: int


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Command: stop a worker that the pool has removed; ``at_once`` if a task on it cannot be stopped."""

    environment: str
    worker: str
    at_once: bool = False


Command = Grant | Recall | LeaseRevoked | Revoke | StartWorkers | StopWorker


@dataclass(frozen=True, slots=True)
class PoolTerms:
    """Durations of a pool, in seconds.

    Args:
        lease_term: time without an update after which a coordinator loses its leases and its demand.
        settle: time after the start in which the pool grants nothing, so that a restarted pool hears all coordinators
            and finds its workers first; 0 for a new pool.
        start_within: time after its grant in which a task under a rate limit begins, or never does.
        environment_idle_timeout: time without demand and leases after which an environment is removed.
        quantum: within one priority, waiting time before slots are shared evenly, and the time a slot is kept before
            it is recalled for that.
        recall_term: time in which the pool expects the answer to a recall.
        resend: time after which an unconfirmed message is sent again.
        backoff: wait after the first failed start of a worker; doubles with each further failure.
        max_backoff: maximum of that wait.
    """

    lease_term: float = 5.0
    settle: float = 0.5
    start_within: float = 2.0
    environment_idle_timeout: float = 300.0
    quantum: float = 0.25
    recall_term: float = 1.0
    resend: float = 1.0
    backoff: float = 1.0
    max_backoff: float = 60.0


@dataclass(frozen=True, slots=True)
class EnvironmentStats:
    """Statistics of one code environment.

    Args:
        environment: its id.
        up: workers that are up.
        wanted: workers that it should have now.
        leaving: workers that stop once their tasks are done.
        starting: workers that are not up yet.
        starting_for: how long the oldest of these has been starting; 0 if none.
        failures: failed starts since the last successful one.
        waiting: slots in demand.
        tasks: waiting tasks.
        draining: worker that is being emptied for an exclusive task, if any.
    """

    environment: str
    up: int
    wanted: int
    leaving: int
    starting: int
    starting_for: float
    failures: int
    waiting: int
    tasks: int
    draining: str | None


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Statistics of a pool.

    Args:
        waiting: slots in demand by priority, highest first.
        oldest_waiting: age of the oldest demand; 0 if none.
        busy: slots that are leased, or not known to be free.
        idle: slots that could be granted now.
        environments: statistics by environment, sorted by name.
    """

    waiting: Mapping[int, int]
    oldest_waiting: float
    busy: int
    idle: int
    environments: tuple[EnvironmentStats, ...]

    @property
    def tasks(self) -> int:
        """Waiting tasks in all environments."""
        return sum(environment.tasks for environment in self.environments)

    @property
    def waiting_total(self) -> int:
        """Slots in demand at all priorities."""
        return sum(self.waiting.values())

    @property
    def workers_up(self) -> int:
        """Workers that are up in all environments."""
        return sum(environment.up for environment in self.environments)

    @property
    def workers_starting(self) -> int:
        """Workers that are starting in all environments."""
        return sum(environment.starting for environment in self.environments)

    @property
    def starting_for(self) -> float:
        """How long the oldest starting worker has been starting; a long time means that it cannot be placed."""
        return max((environment.starting_for for environment in self.environments), default=0.0)
