"""Slots that one coordinator holds in one pool: which waiting task goes out on which slot, and in which batch.

:class:`Slots` owns the coordinator's waiting tasks (:mod:`rayflow.core.pool.wait_queue`), the slots that the pool
granted, and the reports to the pool. A report is complete: leases held, demand, and start times that the pool has not
confirmed. :class:`Slots` owns no clock and sends nothing: its shell performs what :meth:`Slots.plan` and
:meth:`Slots.report` return.

A slot serves only tasks of its kind. Without limits, the coordinator keeps a slot over consecutive tasks and for
:data:`IDLE_KEEP` after them, and returns it when recalled; tasks that are known to be short go out in batches of about
ten milliseconds of expected work. Under limits, a slot is for one task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayflow.core.pool.protocol import Demand, Grant, Limit
from rayflow.core.pool.wait_queue import Key, Kind, WaitQueue

__all__ = ["IDLE_KEEP", "MAX_UNREPORTED", "Key", "Report", "SendBatch", "Slots"]

#: Seconds that an idle slot is kept: long enough for the next step of a sequence.
IDLE_KEEP = 0.05

#: Maximum number of leases under a rate limit with an unknown start; beyond it the oldest are forgotten. Those were
#: lost with their workers, so their starts stay unknown, and the pool does not wait for them.
MAX_UNREPORTED = 10_000


@dataclass(slots=True)
class _HeldSlot:
    """A slot that the pool granted."""

    token: str
    worker: str
    kind: Kind
    start_by: float | None
    idle_since: float
    recalled: bool = False


@dataclass(frozen=True, slots=True)
class SendBatch:
    """Command: send these tasks to this worker, in this slot.

    Args:
        token: token of the slot's lease.
        worker: worker of the slot.
        environment: the worker's environment.
        exclusive: whether the slot is the whole worker.
        keys: the tasks, in the order in which they run.
        start_by: time by which they must begin, in seconds since the epoch; None for no limit.
        limited: whether the lease is under limits, and therefore for one task.
        rated: whether one of these is a rate limit; then :meth:`Slots.began` has to be called.
    """

    token: str
    worker: str
    environment: str
    exclusive: bool
    keys: tuple[Key, ...]
    start_by: float | None
    limited: bool
    rated: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Complete state for the pool, so that one report that arrives replaces all that did not.

    Args:
        sequence: number of the report; rises with each one.
        epoch: highest known epoch of the pool; 0 for none.
        seen: all grants of that epoch up to this number have arrived.
        demand: demand of the waiting tasks, most urgent first.
        holding: worker of each token held.
        begun: start times of tasks under rate limits, in seconds since the epoch, by token; 0.0 for a task that never
            began.
    """

    sequence: int
    epoch: int
    seen: int
    demand: tuple[Demand, ...]
    holding: dict[str, str]
    begun: dict[str, float]


#: Contents of a report, apart from its number and start times: demand, tokens, and ``seen``.
_State = tuple[tuple[Demand, ...], frozenset[str], int]


class Slots:
    """Waiting tasks and held slots of one coordinator in one pool.

    Example:
        >>> slots = Slots()
        >>> slots.accept_epoch(1)
        True
        >>> slots.enqueue(("flow", 3, 1), "extract", environment="env", priority=5, exclusive=False, limits=(), now=0.0)
        >>> slots.granted(Grant("c1", 1, "1.1", "w1", "env", 5), now=0.1)
        >>> [(send.worker, send.keys) for send in slots.plan(0.1)]
        [('w1', (('flow', 3, 1),))]
    """

    def __init__(self) -> None:
        self._waiting = WaitQueue()
        self._held: dict[str, _HeldSlot] = {}
        self._idle: dict[str, _HeldSlot] = {}
        #: Leases under a rate limit whose start is unknown, and known starts that the pool has not confirmed.
        self._unbegun: dict[str, None] = {}
        self._begun: dict[str, float] = {}
        #: Whether a known start was in no report yet.
        self._has_new_start = False
        self._sequence = 0
        #: Highest known epoch of the pool; 0 for none.
        self.epoch = 0
        self._seen = 0
        #: Numbers of grants that arrived before an earlier one.
        self._early: set[int] = set()
        self._reported: _State | None = None

    def enqueue(
        self,
        key: Key,
        step: str,
        *,
        environment: str,
        priority: int,
        exclusive: bool,
        limits: tuple[Limit, ...],
        now: float,
    ) -> None:
        """Let a task wait for a slot; one that waits already is moved to the end.

        Args:
            key: execution id, step number, attempt number.
            step: name of the step; its tasks share one expected duration.
            environment: code environment; only its workers can run the task.
            priority: 0 to 9, higher first.
            exclusive: whether the task needs a whole worker.
            limits: limits that it counts against.
            now: time from which it waits, in seconds since the epoch.
        """
        self._waiting.add(key, step, (environment, exclusive, limits), priority=priority, now=now)

    def withdraw(self, key: Key) -> bool:
        """Remove a task; return whether it was waiting."""
        return self._waiting.withdraw(key)

    def observe(self, step: str, seconds: float) -> None:
        """Update a step's expected duration with an observed one."""
        self._waiting.observe(step, seconds)

    def ran_long(self, step: str) -> None:
        """Note that a task of that step delayed the tasks behind it in its batch."""
        self._waiting.ran_long(step)

    @property
    def has_waiting(self) -> bool:
        """Whether tasks wait."""
        return bool(self._waiting)

    @property
    def queued(self) -> int:
        """Number of waiting tasks."""
        return len(self._waiting)

    def accept_epoch(self, epoch: int) -> bool:
        """Note the epoch of a message from the pool; return whether it is the newest epoch, so that the message counts.

        A later epoch numbers its grants from 1, and needs a complete report without start times of earlier leases: the
        pool takes all rate limits as exhausted at its start.
        """
        if epoch > self.epoch:
            self.epoch, self._seen, self._reported = epoch, 0, None
            self._early.clear()
            self._unbegun.clear()
            self._begun.clear()
        return epoch == self.epoch

    def granted(self, grant: Grant, now: float) -> None:
        """Add a granted slot. A grant that arrives twice is ignored, by its number."""
        if grant.number <= self._seen or grant.number in self._early:
            return
        self._early.add(grant.number)
        while self._seen + 1 in self._early:
            self._seen += 1
            self._early.discard(self._seen)
        token, kind = grant.token, (grant.environment, grant.exclusive, grant.limits)
        self._held[token] = self._idle[token] = _HeldSlot(token, grant.worker, kind, grant.start_by, now)
        if _is_rated(grant.limits):
            self._unbegun[token] = None
            if len(self._unbegun) > MAX_UNREPORTED:
                del self._unbegun[next(iter(self._unbegun))]

    def recalled(self, token: str) -> None:
        """Return a slot as soon as it is idle."""
        if token in self._held:
            self._held[token].recalled = True

    def began(self, token: str, at: float) -> None:
        """Report the start of a task under a rate limit until :meth:`report_received`.

        The start may become known after the slot was returned or revoked. Leases without a rate limit are ignored, and
        so is a second start of the same lease.

        Args:
            token: token of the lease.
            at: seconds since the epoch; 0.0 if the task never begins under this lease.
        """
        if token in self._unbegun:
            del self._unbegun[token]
            self._begun[token] = at
            self._has_new_start = True

    def done(self, token: str, now: float) -> None:
        """Mark a slot idle after its batch. Under limits the slot is returned."""
        held = self._held.get(token)
        if held is None:
            return
        if _is_limited(held):
            self._release(token)
        else:
            held.idle_since = now
            self._idle[token] = held

    def revoked(self, token: str) -> None:
        """Remove a slot: its worker died or refused it, or the pool revoked it."""
        self._release(token)

    def _release(self, token: str) -> None:
        self._held.pop(token, None)
        if self._idle.pop(token, None) is not None:
            self.began(token, 0.0)

    @property
    def holding(self) -> int:
        """Number of held slots."""
        return len(self._held)

    def plan(self, now: float) -> list[SendBatch]:
        """Return the batches to send now; their slots are busy from then on."""
        idle: dict[Kind, list[_HeldSlot]] = {}
        for held in self._idle.values():
            if not held.recalled and held.kind in self._waiting:
                idle.setdefault(held.kind, []).append(held)
        sends = [send for kind, slots in idle.items() for send in self._serve(kind, slots)]
        for held in list(self._idle.values()):
            if _is_limited(held) or held.recalled or now >= held.idle_since + IDLE_KEEP:
                self._release(held.token)
        return sends

    def _serve(self, kind: Kind, slots: Sequence[_HeldSlot]) -> list[SendBatch]:
        environment, exclusive, limits = kind
        limited, rated = bool(limits), _is_rated(limits)
        sends = []
        for held, keys in zip(slots, self._waiting.take(kind, len(slots)), strict=False):
            del self._idle[held.token]
            sends.append(
                SendBatch(held.token, held.worker, environment, exclusive, keys, held.start_by, limited, rated)
            )
        return sends

    def next_wake(self) -> float | None:
        """Return when an idle slot is due to be returned; None for never."""
        return min((held.idle_since + IDLE_KEEP for held in self._idle.values()), default=None)

    def report(self) -> Report | None:
        """Return a report for the pool, or None if nothing changed since the last one."""
        state = self._state()
        return self._report(state) if self._has_new_start or state != self._reported else None

    def full_report(self) -> Report:
        """Return a report for the pool in any case."""
        return self._report(self._state())

    def report_received(self, report: Report) -> None:
        """Note that the pool has processed a report: its start times are not reported again."""
        for token in report.begun:
            self._begun.pop(token, None)

    def report_lost(self) -> None:
        """Note that the last report may not have arrived, so that the next one is sent in any case."""
        self._reported = None

    def _state(self) -> _State:
        return self._waiting.demand(), frozenset(self._held), self._seen

    def _report(self, state: _State) -> Report:
        self._reported, self._has_new_start = state, False
        self._sequence += 1
        holding = {held.token: held.worker for held in self._held.values()}
        return Report(self._sequence, self.epoch, self._seen, state[0], holding, dict(self._begun))


def _is_limited(held: _HeldSlot) -> bool:
    _, _, limits = held.kind
    return bool(limits)


def _is_rated(limits: tuple[Limit, ...]) -> bool:
    return any(limit.per > 0 for limit in limits)
