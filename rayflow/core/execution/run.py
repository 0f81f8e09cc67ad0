"""One run of an execution: apply events to the code, record them, and dispatch what the code issues.

:class:`ExecutionRun` owns the interpreter, the journal writer, the attempts and the open requests.
:mod:`rayflow.core.execution.execution` decides when something happens, and what it means outside the code.
:class:`JournalWriter` owns the numbering and the times of the journal's entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rayflow.core.events import (
    EVENT_TRAITS,
    AttemptFailed,
    CancelRequested,
    Continued,
    Ended,
    Entry,
    Event,
    Forked,
    RequestCompleted,
    RequestsReissued,
    Rewound,
    Started,
    StepCompleted,
    StepFailed,
    label,
)
from rayflow.core.execution.actions import NewDeadLetter, Request, Work
from rayflow.core.execution.attempts import Attempts, PendingState, PendingStep
from rayflow.core.execution.journal import applied, attempt_counts, reissued_requests, rewinds_of
from rayflow.core.execution.requests import Requests, WaitsFor, describe_awaited
from rayflow.core.interpreter.effects import Effects, Outcome
from rayflow.core.interpreter.machine import Machine
from rayflow.definition.context import ChildCall, LockCall, StepCall
from rayflow.definition.options import ExecutionOptions
from rayflow.ids import ExecutionStatus

#: A constant, because ``A | B`` inside isinstance makes a new type on each call.
_STEP_OUTCOMES = (StepCompleted, StepFailed)


class ExecutionRun:
    """One run of the workflow's code, with its journal, attempts and requests.

    Attributes:
        machine: interpreter of the workflow's code.
        before_apply: called before each event with the machine and the entries that were not taken yet; returns the
            machine to use, for tests that replace it by one that replayed the journal (:mod:`rayflow.testing`).
        paused: whether no attempt begins.
        outcome: result of the code, once it has ended.
    """

    def __init__(self, machine: Machine, options: ExecutionOptions) -> None:
        self.machine = machine
        self.journal = JournalWriter(all_events=options.checkpoints != "off")
        self.attempts = Attempts(options)
        self.requests = Requests()
        self.before_apply: Callable[[Machine, Sequence[Entry]], Machine] | None = None
        self.paused = self._restoring = False
        self.outcome: Outcome | None = None
        self._replays_all = options.checkpoints != "off"
        self._run_number = 1
        self._to_reissue: list[Request] = []
        #: Requesters of a cancellation: the parent's id, or "" for any other.
        self._cancelled_by: set[str] = set()

    @property
    def continued(self) -> bool:
        """Whether this run has ended and the execution continues as new."""
        return self.outcome is not None and not self.outcome.status.terminal

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Let no attempt begin inside this context."""
        self._restoring = True
        try:
            yield
        finally:
            self._restoring = False

    def restore(self, entries: Sequence[Entry], now: float) -> None:
        """Replay the journal. Raises NonDeterminismError if the code did not do what the journal recorded."""
        self.journal.resume(entries[-1])
        self.attempts.remember(attempt_counts(entries))
        self.requests.remember(*rewinds_of(entries))
        self._run_number = max((e.event.run for e in entries if isinstance(e.event, Continued)), default=1)
        live = applied(entries)
        self._cancelled_by = {entry.event.by for entry in live if isinstance(entry.event, CancelRequested)}
        unanswered = self.machine.replay(live)
        for dispatch in unanswered:
            if isinstance(dispatch.call, StepCall):
                self.attempts.add(dispatch, now)
        others = [dispatch for dispatch in unanswered if not isinstance(dispatch.call, StepCall)]
        self.requests.restore(others, self.machine.held_locks, reissued_requests(entries))
        if not any(isinstance(entry.event, Started) for entry in live):  # a new run, or a rewind to the start
            self.apply(Started(self.journal.time(now)))
        elif isinstance(entries[-1].event, Rewound | Forked) or not self._replays_all:
            self._to_reissue = self.requests.reissue()
        if self.machine.outcome is not None and self.outcome is None:
            self.end(self.machine.outcome, now)

    def reissue_requests(self, now: float) -> None:
        """Send the open requests again after a rewind, in a fork, and without checkpoints.

        Requests that the inbox has completed since are not sent: a child whose result was carried must not run again.
        """
        requests = [request for request in self._to_reissue if self.requests.is_open(request.seq)]
        self._to_reissue = []
        if requests:
            self.journal.work.requests.extend(requests)
            self.journal.record(RequestsReissued(self.journal.time(now), tuple(request.seq for request in requests)))

    def apply(self, event: Event) -> None:
        """Apply an event to the code, record it, and dispatch what the code issues."""
        if self.outcome is not None:
            return
        if self.before_apply is not None:
            self.machine = self.before_apply(self.machine, self.journal.work.entries)
        if isinstance(event, _STEP_OUTCOMES):
            self.attempts.remove(event.step)
        elif isinstance(event, CancelRequested):
            self._cancelled_by.add(event.by)
        effects = self.machine.apply(event)
        recorded = self.journal.record(event, effects)
        self.journal.signals_rejected(effects, event.at)
        self._drop(effects)
        self._dispatch(effects, event.at)
        if self.journal.work.requests and not recorded:
            self.journal.record(RequestsReissued(event.at))  # a request needs an entry to be written with
        if effects.outcome is not None:
            self.end(effects.outcome, event.at)

    def _drop(self, effects: Effects) -> None:
        for seq in effects.dropped:
            stop = self.attempts.drop(seq)
            if stop is not None:
                self.journal.work.actions.append(stop)
            elif (cancel := self.requests.drop(seq)) is not None:
                self.journal.work.requests.append(cancel)

    def _dispatch(self, effects: Effects, at: float) -> None:
        for dispatch in effects.dispatches:
            if not self.machine.is_open(dispatch.seq):
                continue
            if isinstance(dispatch.call, StepCall):
                self.start_attempt(self.attempts.add(dispatch, at))
            else:
                self.journal.work.requests.append(self.requests.add(dispatch))

    def complete_request(self, event: RequestCompleted) -> None:
        """Apply the answer to a request, unless the request is no longer open."""
        if event.run not in {0, self._run_number}:
            return  # an earlier run issued it, and this run has another call of that number
        if event.rewinds not in {None, self.requests.rewinds_of(event.step)}:
            return  # it was issued before a rewind, which gave that number to another call
        regaining = self.requests.regaining
        if not self.requests.complete(event.step, refused=event.failure is not None):
            return
        if event.failure is not None and event.step in {lock.seq for lock in self.machine.held_locks}:
            # A lock that the code holds cannot be granted again.
            self.end(Outcome(ExecutionStatus.FAILED, failure=event.failure), event.at)
            return
        self.apply(event)
        if regaining and not self.requests.regaining:
            self.start_idle()

    def waits_for(self, child: Callable[[Request], str]) -> WaitsFor:
        """Return the open waits; ``child`` returns the id of a requested child."""
        waiting = self.requests.waiting()
        return WaitsFor(
            describe_awaited(self.machine.awaited_signals),
            tuple(request.call.name for request in waiting if isinstance(request.call, LockCall)),
            tuple(child(request) for request in waiting if isinstance(request.call, ChildCall)),
        )

    def start_attempt(self, step: PendingStep) -> None:
        """Begin an attempt at an idle step, unless attempts have to wait."""
        waits = self.paused or self._restoring or self.requests.regaining
        if not waits and step.state is PendingState.IDLE:
            self.journal.count("attempts_started")
            self.journal.work.actions.append(self.attempts.start(step))

    def start_idle(self) -> None:
        """Begin an attempt at each idle step."""
        for step in self.attempts.idle():
            self.start_attempt(step)

    def end(self, outcome: Outcome, now: float) -> None:
        """End the run: drop all open calls, and record the end or the continuation as new."""
        stops = [self.attempts.drop(seq) for seq in self.attempts.numbers]
        self.journal.work.actions.extend(stop for stop in stops if stop is not None)
        self.journal.work.requests.extend(self.requests.end())
        self.outcome = outcome
        at = self.journal.time(now)
        if self.continued:
            self.journal.work.next_run = outcome.result
            state = self.machine.final_state()
            seed = self.machine.next_seed()
            self.journal.record(Continued(at, self._run_number + 1, outcome.unconsumed, state, seed))
            return
        unconsumed = tuple(signal.name for signal in outcome.unconsumed)
        by_parent = bool(self._cancelled_by) and "" not in self._cancelled_by
        self.journal.record(
            Ended(at, outcome.status, outcome.result, outcome.failure, unconsumed, outcome.compensated, by_parent)
        )


class JournalWriter:
    """Writer of one execution's journal.

    Args:
        all_events: whether every event is recorded (``checkpoints`` is not "off").

    Attributes:
        seq: position of the newest entry.
        work: entries and actions since the last :meth:`take`.
        complete: whether a replay of the journal restores the execution.
    """

    def __init__(self, *, all_events: bool) -> None:
        self.seq = 0
        self.work = Work()
        self._all = all_events
        self.complete = True
        self._at = 0.0

    def resume(self, last: Entry) -> None:
        """Continue after an entry."""
        self.seq, self._at = last.seq, last.event.at

    def take(self) -> Work:
        """Return the work since the last call."""
        work, self.work = self.work, Work()
        return work

    def time(self, now: float) -> float:
        """Return the time for an event that happens now: never before the last event's time."""
        self._at = max(self._at, now)
        return self._at

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to one of the store's totals."""
        self.work.counts[counter] += amount

    def record(self, event: Event, effects: Effects | None = None) -> bool:
        """Append an entry if the event is recorded; return whether it is."""
        if not self._all and not EVENT_TRAITS[type(event)].always:
            self.complete = False
            return False
        self.seq += 1
        if effects is None:
            self.work.entries.append(Entry(self.seq, event))
            return True
        self.work.entries.append(
            Entry(
                self.seq,
                event,
                tuple([dispatch.label for dispatch in effects.dispatches]),
                tuple(effects.dropped),
                effects.state,
                tuple(effects.stages),
                tuple(effects.patches),
                tuple(effects.compensations),
            )
        )
        return True

    def step_failed(self, event: AttemptFailed, at: float, payload: bytes) -> None:
        """Add the dead letter of a step whose permanent failure is the next entry."""
        self.work.dead_letters.append(
            NewDeadLetter(
                self.seq + 1,
                event.step,
                event.name,
                event.attempt,
                at,
                event.began,
                event.worker,
                event.failure,
                payload,
            )
        )

    def signals_rejected(self, effects: Effects, at: float) -> None:
        """Add the dead letters of the signals that the newest entry rejected."""
        for signal, failure in effects.rejected:
            name = label("signal", signal.name)
            letter = NewDeadLetter(self.seq, -signal.number, name, 1, at, signal.at, "", failure, signal.payload)
            self.work.dead_letters.append(letter)
