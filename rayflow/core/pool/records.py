"""What a pool is told and what it answers: demand, leases, commands, figures, and the coordinator's receipts.

Times are seconds since the epoch, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: A grant's number is the pool's epoch times this, plus a count from 1, so that every number of a restarted
#: pool is above every number of the one before, and what was seen of the old is never taken for the new.
NUMBERS_PER_EPOCH = 1 << 40


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
        number: of the grant; 0 for a lease that was taken over.
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
    """Tell the coordinator that it has this lease. May be sent again with the same number."""

    coordinator: str
    number: int
    lease: Lease


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
    """Tell the coordinator that it does not have this lease (any more): what ran on it is lost.

    ``number`` is that of the grant, which the coordinator may never have received; 0 if it had none here.
    """

    coordinator: str
    token: str
    worker: str
    number: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell the worker to refuse this token from now on, and to report ``slot_free`` once nothing runs on it."""

    worker: str
    token: str


@dataclass(frozen=True, slots=True)
class StartWorkers:
    """Start these workers. They already count as starting: answer with ``worker_up`` or ``worker_down``."""

    environment: str
    workers: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.workers)


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Stop this worker; the pool has forgotten it already."""

    environment: str
    worker: str


Command = Grant | Recall | Void | Revoke | StartWorkers | StopWorker


# --- settings and figures ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PoolTerms:
    """The durations by which a pool works, in seconds.

    Args:
        lease: a coordinator that sent no update for so long loses its leases and its demand.
        settle: after its start the pool only listens for so long, so that a restarted one hears all
            coordinators and finds its workers before it decides; 0 for a pool that never ran before.
        start: a worker that is not up after so long counts as failed.
        idle: an environment without demand and leases for so long is given up.
        quantum: within one priority, how long somebody waits before slots are shared out evenly, and how long
            a slot is kept before it is asked back for that.
        recall: how long the pool counts on the answer to a recall.
        resend: after how long something that was not confirmed is sent again.
        backoff: the wait after the first failed start of a worker; it doubles with each further one.
        max_backoff: the most that this wait grows to.
    """

    lease: float = 5.0
    settle: float = 0.5
    start: float = 60.0
    idle: float = 300.0
    quantum: float = 0.25
    recall: float = 1.0
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
        oldest_wait: how long the oldest of them has been waited for; 0 if none is.
        active: slots in use, or not known to be free.
        idle: free slots of workers that are up.
        environments: by name.
    """

    waiting: Mapping[int, int]
    oldest_wait: float
    active: int
    idle: int
    environments: tuple[EnvironmentStats, ...]


class Receipts:
    """The coordinator's side of the numbering: which grants (and voids) have arrived.

    ``seen`` goes into every update. What comes twice is recognised, what comes early is remembered, and what
    is missing is sent again by the pool, since ``seen`` stays below it.

    Example:
        >>> receipts = Receipts()
        >>> first = NUMBERS_PER_EPOCH + 1
        >>> [receipts.receive(first + 1), receipts.receive(first), receipts.receive(first)]
        [True, True, False]
        >>> receipts.seen == first + 1
        True
    """

    def __init__(self) -> None:
        self.seen = 0
        self._early: set[int] = set()

    def receive(self, number: int) -> bool:
        """Note a number; answers whether it is new. A new one that is not new any more must be dropped.

        Args:
            number: of the Grant or Void; 0, which stands for none, is always new.
        """
        if number == 0:
            return True
        if number // NUMBERS_PER_EPOCH > self.seen // NUMBERS_PER_EPOCH:
            # A later pool: it knows nothing of the numbers that are still missing, and will not send them.
            self.seen = number // NUMBERS_PER_EPOCH * NUMBERS_PER_EPOCH
            self._early.clear()
        if number <= self.seen or number in self._early:
            return False
        self._early.add(number)
        while self.seen + 1 in self._early:
            self.seen += 1
            self._early.remove(self.seen)
        return True
