"""What a pool is told and what it answers: demand, leases, commands, figures.

Times are seconds since the epoch, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

#: What the name of an environment ends with whose tasks run as Ray tasks of their own, not on workers.
_OWN_TASKS = "@tasks"


def own_tasks(environment: str) -> str:
    """The environment under which the pool admits tasks of a code environment that run as Ray tasks of their own."""
    return environment + _OWN_TASKS


def is_own_tasks(environment: str) -> bool:
    """Whether an environment is one of :func:`own_tasks`."""
    return environment.endswith(_OWN_TASKS)


@dataclass(frozen=True, slots=True)
class Limit:
    """What tasks of many coordinators share: so many at once, or so many starts in a time.

    Args:
        name: what is limited; the same name is the same limit, in all environments of the pool.
        count: tasks at once, or starts in any window of ``per`` seconds.
        per: seconds; 0 for a limit on tasks at once.
    """

    name: str
    count: int
    per: float = 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """One coordinator's wish for slots, beyond those that it holds.

    Args:
        environment: only workers of this code environment can run it.
        priority: 0 to 9, higher first.
        stamp: when the oldest of these tasks began to wait; kept when the wish is sent again.
        count: how many slots it could use now.
        alone: each needs a whole worker for itself (the task is suspected of killing its worker).
        limits: what each of these tasks counts against; then each needs a lease for itself.
        tasks: how many tasks wait in it: short ones share a slot.
    """

    environment: str
    priority: int
    stamp: float
    count: int
    alone: bool = False
    limits: tuple[Limit, ...] = ()
    tasks: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one coordinator to use one slot of one worker (all of its slots, if ``alone``).

    Args:
        token: unique over all epochs of the pool; goes with every run on the worker.
        worker: whose slot.
        coordinator: who may use it.
        environment: the worker's code environment.
        priority: what it was granted for; None for a lease that was taken over from an earlier epoch.
        alone: whether nobody else may be on that worker.
        number: of the grant, counted per coordinator and epoch; 0 for a lease that was taken over.
        granted_at: when it was granted, or taken over.
        keys: names of the limits on tasks at once that it counts against.
        limited: whether it was granted under limits: it is for one task.
    """

    token: str
    worker: str
    coordinator: str
    environment: str
    priority: int | None
    alone: bool
    number: int
    granted_at: float
    keys: tuple[str, ...] = ()
    limited: bool = False


def new_token(epoch: int, count: int, *, alone: bool = False, keys: Iterable[str] = ()) -> str:
    """A lease's token. It says what a later epoch must know of it: its epoch, whether it is alone, and its keys.

    Example:
        >>> token_keys(new_token(7, 12, keys=["customer/5"]))
        ('customer/5',)
    """
    return "".join([f"{epoch}.{count}", ".alone" if alone else "", *("/" + quote(key, safe="") for key in keys)])


def token_epoch(token: str) -> int:
    """The epoch of the pool that made this token."""
    return int(token.partition(".")[0])


def token_alone(token: str) -> bool:
    """Whether this token is for a whole worker."""
    return token.partition("/")[0].endswith(".alone")


def token_keys(token: str) -> tuple[str, ...]:
    """Names of the limits on tasks at once that this token counts against."""
    return tuple(unquote(key) for key in token.split("/")[1:])


# --- commands ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Grant:
    """Tell the coordinator that it has this lease. May be sent again, with the same number.

    Numbers count each coordinator's grants from 1 in each epoch of the pool, without gaps. One with ``limits`` is
    for one task that has these very limits, and is given back after it; that task may not begin after
    ``start_by``, if that is given (seconds since the epoch).
    """

    coordinator: str
    number: int
    token: str
    worker: str
    environment: str
    priority: int
    alone: bool = False
    limits: tuple[Limit, ...] = ()
    start_by: float | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask the coordinator to give this lease back once its running task is done, starting no other on it.

    At ``deadline`` nothing is taken by force; the pool then no longer counts on this lease and asks for another.
    """

    coordinator: str
    token: str
    deadline: float


class RevokeReason(StrEnum):
    """Why a lease is void."""

    #: Its worker died or hangs: what ran on it is lost, and may be to blame.
    DIED = "died"
    #: Its worker was stopped before the task ended: what ran on it is lost, and is not to blame.
    DRAINED = "drained"
    #: It is nobody's lease any more, or was never one. What runs there may still end well.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LeaseRevoked:
    """Tell the coordinator that it does not have this lease (any more)."""

    coordinator: str
    token: str
    worker: str
    why: RevokeReason


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell the worker to refuse this token from now on, and to report ``slot_free`` once nothing runs on it."""

    worker: str
    token: str


@dataclass(frozen=True, slots=True)
class StartWorkers:
    """Start so many workers, and announce each with ``worker_starting`` before anything else is called."""

    environment: str
    count: int


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Stop this worker; the pool has given it up already. ``at_once``: what still runs there cannot be stopped."""

    environment: str
    worker: str
    at_once: bool = False


Command = Grant | Recall | LeaseRevoked | Revoke | StartWorkers | StopWorker


# --- settings and figures ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PoolTerms:
    """The durations by which a pool works, in seconds.

    Args:
        lease_term: a coordinator that sent no update for so long loses its leases and its demand.
        settle: after its start the pool only listens for so long, so that a restarted one hears all
            coordinators and finds its workers before it decides; 0 for a pool that never ran before.
        start_within: a task under a rate limit begins within this time after its grant, or not at all.
        environment_idle_timeout: an environment without demand and leases for so long is given up.
        quantum: within one priority, how long somebody waits before slots are shared out evenly, and how long
            a slot is kept before it is asked back for that.
        recall_term: how long the pool counts on the answer to a recall.
        resend: after how long something that was not confirmed is sent again.
        backoff: the wait after the first failed start of a worker; it doubles with each further one.
        max_backoff: the most that this wait grows to.
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
    """How one code environment stands.

    Args:
        environment: its id.
        up: workers that are up.
        wanted: workers that it should have now.
        leaving: workers that are to stop once their tasks are done.
        starting: workers that are not up yet.
        starting_for: how long the oldest of them has been starting; 0 if none is.
        failures: starts that failed since the last one that did not.
        waiting: slots that are waited for.
        tasks: tasks that wait.
        draining: the worker that is being emptied for a task that must run alone, if any.
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
    """How a pool stands.

    Args:
        waiting: slots that are waited for, by priority, highest first.
        oldest_waiting: how long the oldest of them has been waited for; 0 if none is.
        busy: slots that are leased, or not known to be free.
        idle: slots that could be granted now.
        environments: by name.
    """

    waiting: Mapping[int, int]
    oldest_waiting: float
    busy: int
    idle: int
    environments: tuple[EnvironmentStats, ...]

    @property
    def tasks(self) -> int:
        """Tasks that wait, in all environments."""
        return sum(environment.tasks for environment in self.environments)

    @property
    def waiting_total(self) -> int:
        """Slots that are waited for, at all priorities."""
        return sum(self.waiting.values())

    @property
    def workers_up(self) -> int:
        """Workers that are up, in all environments."""
        return sum(environment.up for environment in self.environments)

    @property
    def workers_starting(self) -> int:
        """Workers that are not up yet, in all environments."""
        return sum(environment.starting for environment in self.environments)

    @property
    def starting_for(self) -> float:
        """How long the oldest of these has been starting: a long time means that it cannot be placed."""
        return max((environment.starting_for for environment in self.environments), default=0.0)
