"""What a pool is told and what it answers: demand, leases, commands, figures.

Times are seconds since the epoch, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """One coordinator's wish for slots, beyond those that it holds.

    Args:
        environment: only workers of this code environment can run it.
        priority: 0 to 9, higher first.
        stamp: when the oldest of these tasks began to wait; kept when the wish is sent again.
        count: how many slots it could use now.
        alone: each needs a whole worker for itself (the task is suspected of killing its worker).
    """

    environment: str
    priority: int
    stamp: float
    count: int
    alone: bool = False


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
    """

    token: str
    worker: str
    coordinator: str
    environment: str
    priority: int | None
    alone: bool
    number: int
    granted_at: float


def new_token(epoch: int, count: int, *, alone: bool) -> str:
    """A lease's token. It says what a later epoch must know of it: its epoch, and whether it is alone."""
    return f"{epoch}.{count}.alone" if alone else f"{epoch}.{count}"


def token_epoch(token: str) -> int:
    """The epoch of the pool that made this token."""
    return int(token.partition(".")[0])


def token_alone(token: str) -> bool:
    """Whether this token is for a whole worker."""
    return token.endswith(".alone")


# --- commands ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Grant:
    """Tell the coordinator that it has this lease. May be sent again, with the same number.

    Numbers count each coordinator's grants from 1 in each epoch of the pool, without gaps.
    """

    coordinator: str
    number: int
    token: str
    worker: str
    environment: str
    priority: int
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask the coordinator to give this lease back once its running task is done, starting no other on it.

    At ``deadline`` nothing is taken by force; the pool then no longer counts on this lease and asks for another.
    """

    coordinator: str
    token: str
    deadline: float


@dataclass(frozen=True, slots=True)
class Void:
    """Tell the coordinator that it does not have this lease (any more): what ran on it is lost."""

    coordinator: str
    token: str
    worker: str


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
    """Stop this worker; the pool has given it up already."""

    environment: str
    worker: str


Command = Grant | Recall | Void | Revoke | StartWorkers | StopWorker


# --- settings and figures ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PoolTerms:
    """The durations by which a pool works, in seconds.

    Args:
        lease_term: a coordinator that sent no update for so long loses its leases and its demand.
        settle: after its start the pool only listens for so long, so that a restarted one hears all
            coordinators and finds its workers before it decides; 0 for a pool that never ran before.
        start_timeout: a worker that is not up after so long counts as failed.
        environment_idle: an environment without demand and leases for so long is given up.
        quantum: within one priority, how long somebody waits before slots are shared out evenly, and how long
            a slot is kept before it is asked back for that.
        recall_term: how long the pool counts on the answer to a recall.
        resend: after how long something that was not confirmed is sent again.
        backoff: the wait after the first failed start of a worker; it doubles with each further one.
        max_backoff: the most that this wait grows to.
    """

    lease_term: float = 5.0
    settle: float = 0.5
    start_timeout: float = 60.0
    environment_idle: float = 300.0
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
        starting: workers that are not up yet.
        starting_for: how long the oldest of them has been starting; 0 if none is.
        failures: starts that failed since the last one that did not.
        waiting: slots that are waited for.
        draining: the worker that is being emptied for a task that must run alone, if any.
    """

    environment: str
    up: int
    starting: int
    starting_for: float
    failures: int
    waiting: int
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
