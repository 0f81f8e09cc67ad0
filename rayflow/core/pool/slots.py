"""A coordinator's side of one pool: which waiting task goes out on which slot, and in which batches.

It owns the waiting tasks of one coordinator (:mod:`rayflow.core.pool.wait_queue`), the slots that the pool has granted
it, and what it tells the pool: always the full state, all that it holds and wants, and the begins that the pool has not
dealt with yet. It owns no clock and sends nothing: its shell performs what :meth:`Slots.plan` and :meth:`Slots.report`
answer.

A slot serves tasks of its own environment and limits only. Without limits it is kept over consecutive tasks while
there are any, for a moment longer, and given back when it is asked for; tasks that are known to be short go out
several at once: about ten milliseconds of expected work. Under limits it is for one task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayflow.core.pool.protocol import Demand, Grant, Limit
from rayflow.core.pool.wait_queue import Key, Kind, Waiting

__all__ = ["IDLE_KEEP", "REMEMBERED", "Key", "Report", "SendBatch", "Slots"]

#: Seconds that an idle slot is kept: long enough for the next step of a chain.
IDLE_KEEP = 0.05

#: Leases under a rate limit whose begin may still become known; of more than so many, the oldest are forgotten.
#: Those were lost with their workers: nobody will ever know when their tasks began, and the pool does not wait.
REMEMBERED = 10_000


@dataclass(slots=True)
class _Held:
    """A slot that the pool granted."""

    token: str
    worker: str
    kind: Kind
    start_by: float | None
    idle_since: float
    recalled: bool = False


@dataclass(frozen=True, slots=True)
class SendBatch:
    """Send these tasks to this worker, in this slot.

    Args:
        token: of the slot's lease.
        worker: whose slot.
        environment: the worker's.
        alone: whether the slot is the whole worker.
        keys: the tasks, in the order in which they are to run.
        start_by: no later may they begin, in seconds since the epoch; None if it does not matter.
        limited: whether the lease is under limits; then it is for one task.
        rated: whether one of these is a rate limit; then :meth:`Slots.began` is to be called.
    """

    token: str
    worker: str
    environment: str
    alone: bool
    keys: tuple[Key, ...]
    start_by: float | None
    limited: bool
    rated: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What the pool is told: everything, so that one message that arrives repairs all that did not.

    Args:
        sequence: higher with each report.
        epoch: the highest epoch of the pool that was heard of; 0 for none.
        seen: all grants of that epoch up to this number have arrived.
        demand: what is waited for, the most urgent first.
        holding: the worker of each token held.
        begun: when the tasks of leases under a rate limit began, in seconds since the epoch, by token; 0.0 for one
            that never did.
    """

    sequence: int
    epoch: int
    seen: int
    demand: tuple[Demand, ...]
    holding: dict[str, str]
    begun: dict[str, float]


#: What a report says, apart from its number and begins: demand, tokens and the newest grant without a gap before it.
_State = tuple[tuple[Demand, ...], frozenset[str], int]


class Slots:
    """See the module's docstring.

    Example:
        >>> slots = Slots()
        >>> slots.heard_from(1)
        True
        >>> slots.want(("flow", 3, 1), "extract", environment="env", priority=5, alone=False, limits=(), now=0.0)
        >>> slots.granted(Grant("c1", 1, "1.1", "w1", "env", 5), now=0.1)
        >>> [(send.worker, send.keys) for send in slots.plan(0.1)]
        [('w1', (('flow', 3, 1),))]
    """

    def __init__(self) -> None:
        self._waiting = Waiting()
        self._held: dict[str, _Held] = {}
        self._idle: dict[str, _Held] = {}
        #: Leases under a rate limit whose begin is not known, and those whose begin the pool has not dealt with.
        self._unbegun: dict[str, None] = {}
        self._begun: dict[str, float] = {}
        #: Whether there is a begin that was in no report.
        self._news = False
        self._sequence = 0
        #: The highest epoch of the pool that it has heard of; 0 for none.
        self.epoch = 0
        self._seen = 0
        self._early: set[int] = set()
        self._told: _State | None = None

    # --- tasks ---------------------------------------------------------------------------------------------
    def want(
        self,
        key: Key,
        step: str,
        *,
        environment: str,
        priority: int,
        alone: bool,
        limits: tuple[Limit, ...],
        now: float,
    ) -> None:
        """A task waits for a slot. If it waited already, it waits anew.

        Args:
            key: execution id, step number, attempt.
            step: the step's name: tasks of one step are expected to take as long as each other.
            environment: only workers of this code environment can run it.
            priority: 0 to 9, higher first.
            alone: whether it needs a whole worker for itself.
            limits: what it counts against.
            now: since when it waits, in seconds since the epoch.
        """
        self._waiting.add(key, step, (environment, alone, limits), priority=priority, now=now)

    def withdraw(self, key: Key) -> bool:
        """Take a task back; answers whether it still waited."""
        return self._waiting.withdraw(key)

    def observe(self, step: str, seconds: float) -> None:
        """A task of that step took so long."""
        self._waiting.observe(step, seconds)

    def is_long(self, step: str) -> None:
        """A task of that step kept those behind it in its batch waiting."""
        self._waiting.is_long(step)

    @property
    def wanting(self) -> bool:
        """Whether tasks wait."""
        return bool(self._waiting)

    @property
    def queued(self) -> int:
        """Tasks that wait."""
        return len(self._waiting)

    # --- slots ---------------------------------------------------------------------------------------------
    def heard_from(self, epoch: int) -> bool:
        """The pool of that epoch says something; answers whether it counts, which an earlier pool's word does not.

        In a later epoch, grants are numbered anew, and the pool has to be told everything, except when tasks began
        on leases of an earlier one: it takes all rate limits for exhausted at its start.
        """
        if epoch > self.epoch:
            self.epoch, self._seen, self._told = epoch, 0, None
            self._early.clear()
            self._unbegun.clear()
            self._begun.clear()
        return epoch == self.epoch

    def granted(self, grant: Grant, now: float) -> None:
        """The pool granted a slot. Grants are numbered; one that comes twice changes nothing."""
        if grant.number <= self._seen or grant.number in self._early:
            return
        self._early.add(grant.number)
        while self._seen + 1 in self._early:
            self._seen += 1
            self._early.discard(self._seen)
        token, kind = grant.token, (grant.environment, grant.alone, grant.limits)
        self._held[token] = self._idle[token] = _Held(token, grant.worker, kind, grant.start_by, now)
        if _is_rated(grant.limits):
            self._unbegun[token] = None
            if len(self._unbegun) > REMEMBERED:
                del self._unbegun[next(iter(self._unbegun))]

    def recalled(self, token: str) -> None:
        """The pool asks for a slot: it is given back as soon as it is idle."""
        if token in self._held:
            self._held[token].recalled = True

    def began(self, token: str, at: float) -> None:
        """It became known when the task of a lease under a rate limit began: reports say so until :meth:`told`.

        That may be late, when the slot has been given back or is void. Leases without a rate limit are ignored,
        and so is all but the first word on a lease.

        Args:
            token: of the lease.
            at: seconds since the epoch; 0.0 if the task never began and never will on this lease.
        """
        if token in self._unbegun:
            del self._unbegun[token]
            self._begun[token] = at
            self._news = True

    def done(self, token: str, now: float) -> None:
        """A slot's batch is over. Under limits it is given back."""
        held = self._held.get(token)
        if held is None:
            return
        if _is_limited(held):
            self._release(token)
        else:
            held.idle_since = now
            self._idle[token] = held

    def void(self, token: str) -> None:
        """A slot is not ours any more: its worker died or refused it, or the pool took it."""
        self._release(token)

    def _release(self, token: str) -> None:
        self._held.pop(token, None)
        if self._idle.pop(token, None) is not None:
            self.began(token, 0.0)

    @property
    def holding(self) -> int:
        """Slots held."""
        return len(self._held)

    # --- what to do ----------------------------------------------------------------------------------------
    def plan(self, now: float) -> list[SendBatch]:
        """Which tasks go out now. The slots that they use are busy afterwards."""
        idle: dict[Kind, list[_Held]] = {}
        for held in self._idle.values():
            if not held.recalled and held.kind in self._waiting:
                idle.setdefault(held.kind, []).append(held)
        sends = [send for kind, slots in idle.items() for send in self._serve(kind, slots)]
        for held in list(self._idle.values()):
            if _is_limited(held) or held.recalled or now >= held.idle_since + IDLE_KEEP:
                self._release(held.token)
        return sends

    def _serve(self, kind: Kind, slots: Sequence[_Held]) -> list[SendBatch]:
        environment, alone, limits = kind
        limited, rated = bool(limits), _is_rated(limits)
        sends = []
        for held, keys in zip(slots, self._waiting.take(kind, len(slots)), strict=False):
            del self._idle[held.token]
            sends.append(SendBatch(held.token, held.worker, environment, alone, keys, held.start_by, limited, rated))
        return sends

    def next_wake(self) -> float | None:
        """When an idle slot has been kept long enough."""
        return min((held.idle_since + IDLE_KEEP for held in self._idle.values()), default=None)

    # --- what the pool is told -----------------------------------------------------------------------------
    def report(self) -> Report | None:
        """What to tell the pool, or None if it was told."""
        state = self._state()
        return self._tell(state) if self._news or state != self._told else None

    def full_report(self) -> Report:
        """What to tell the pool in any case."""
        return self._tell(self._state())

    def told(self, report: Report) -> None:
        """The pool has dealt with that report: the begins in it need not be told again."""
        for token in report.begun:
            self._begun.pop(token, None)

    def forget_told(self) -> None:
        """What was last told may not have arrived: tell it again."""
        self._told = None

    def _state(self) -> _State:
        return self._waiting.demand(), frozenset(self._held), self._seen

    def _tell(self, state: _State) -> Report:
        self._told, self._news = state, False
        self._sequence += 1
        holding = {held.token: held.worker for held in self._held.values()}
        return Report(self._sequence, self.epoch, self._seen, state[0], holding, dict(self._begun))


def _is_limited(held: _Held) -> bool:
    _, _, limits = held.kind
    return bool(limits)


def _is_rated(limits: tuple[Limit, ...]) -> bool:
    return any(limit.per > 0 for limit in limits)
