"""The course of one execution: events are applied to its code, recorded, and what the code then does is set going.

It owns the machine, the journal's writer, and what is open: attempts at steps, and what was asked of others. When
something may happen, and what it means where it is not the code's business, is decided by its owner
(:mod:`rayflow.core.execution.execution`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    Continued,
    Ended,
    Entry,
    Event,
    Forked,
    Paused,
    RequestCompleted,
    RequestsReissued,
    Resumed,
    Rewound,
    Started,
    StepCompleted,
    StepFailed,
    label,
)
from rayflow.core.execution.actions import BuryStep, Request, Work
from rayflow.core.execution.attempts import Attempts, PendingStep, TaskState
from rayflow.core.execution.journal import applied, asked_again, attempts_of, rewinds_of
from rayflow.core.execution.requests import Requests, WaitsFor, signals_text
from rayflow.core.interpreter.effects import Effects, Outcome
from rayflow.core.interpreter.machine import Machine
from rayflow.definition.context import ChildCall, LockCall, StepCall
from rayflow.definition.options import ExecutionOptions
from rayflow.ids import ExecutionStatus

#: Spelled once: an ``A | B`` in isinstance makes a new type each time.
_ANSWERS = (StepCompleted, StepFailed)


class ExecutionRun:
    """See the module's docstring.

    Args:
        machine: the workflow's code.
        options: the execution's options.

    Attributes:
        machine: the workflow's code.
        rehearsal: called before each event with the machine and the entries that nobody has taken yet; answers the
            machine that goes on, another one that has replayed the journal (:mod:`rayflow.testing`). None for none.
        paused: whether no attempt begins.
        outcome: how the code ended, if it has.
    """

    def __init__(self, machine: Machine, options: ExecutionOptions) -> None:
        self.machine = machine
        self.journal = JournalWriter(all_events=options.checkpoints != "off")
        self.attempts = Attempts(options)
        self.asking = Requests()
        self.rehearsal: Callable[[Machine, Sequence[Entry]], Machine] | None = None
        self.paused = self._holding = False
        self.outcome: Outcome | None = None
        self._replays_all = options.checkpoints != "off"
        self._run_number = 1
        self._again: list[Request] = []
        #: Who has cancelled it: ids of its parent, "" for anybody else.
        self._cancelled_by: set[str] = set()

    @property
    def continued(self) -> bool:
        """Whether this run is over and the execution is not."""
        return self.outcome is not None and not self.outcome.status.terminal

    @contextmanager
    def holding(self) -> Iterator[None]:
        """No attempt begins meanwhile."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    # --- taking up -----------------------------------------------------------------------------------------
    def restore(self, entries: Sequence[Entry], now: float) -> None:
        """Replay the journal. Raises NonDeterminismError if the code does something else than what was recorded."""
        self.journal.resume(entries[-1])
        self.attempts.remember(attempts_of(entries))
        self.asking.remember(*rewinds_of(entries))
        self._run_number = max((e.event.run for e in entries if isinstance(e.event, Continued)), default=1)
        live = applied(entries)
        self._cancelled_by = {entry.event.by for entry in live if isinstance(entry.event, CancelRequested)}
        self._replay(live, asked_again(entries), now)
        if not any(isinstance(entry.event, Started) for entry in live):  # a new run, or one rewound to its beginning
            self.apply(Started(self.journal.time(now)))
        elif isinstance(entries[-1].event, Rewound | Forked) or not self._replays_all:
            self._again = self.asking.again()
        if self.machine.outcome is not None and self.outcome is None:
            self.end(self.machine.outcome, now)

    def _replay(self, live: Sequence[Entry], asked: set[int], now: float) -> None:
        unanswered = self.machine.replay(live)
        for dispatch in unanswered:
            if isinstance(dispatch.call, StepCall):
                self.attempts.add(dispatch, now)
        others = [dispatch for dispatch in unanswered if not isinstance(dispatch.call, StepCall)]
        self.asking.restore(others, self.machine.held_locks, asked)

    def ask_again(self, now: float) -> None:
        """Ask what nobody has answered: what was answered meanwhile is not in the journal, and locks were given back.

        What the inbox has answered by now is not asked: a child whose result was carried along has not to run again.
        """
        asks, self._again = [ask for ask in self._again if self.asking.is_open(ask.seq)], []
        if asks:
            self.journal.work.asks.extend(asks)
            self.journal.record(RequestsReissued(self.journal.time(now), tuple(ask.seq for ask in asks)))

    # --- going on ------------------------------------------------------------------------------------------
    def apply(self, event: Event) -> None:
        """Apply an event to the code, record it, and set going what the code then calls for."""
        if self.outcome is not None:
            return
        if self.rehearsal is not None:
            self.machine = self.rehearsal(self.machine, self.journal.work.entries)
        if isinstance(event, _ANSWERS):
            self.attempts.answered(event.step)
        elif isinstance(event, CancelRequested):
            self._cancelled_by.add(event.by)
        effects = self.machine.apply(event)
        recorded = self.journal.record(event, effects)
        self.journal.signals_rejected(effects, event.at)
        self._drop(effects)
        self._dispatch(effects, event.at)
        if self.journal.work.asks and not recorded:
            self.journal.record(RequestsReissued(event.at))  # what is asked goes with an entry
        if effects.outcome is not None:
            self.end(effects.outcome, event.at)

    def _drop(self, effects: Effects) -> None:
        for seq in effects.dropped:
            stop = self.attempts.drop(seq)
            if stop is not None:
                self.journal.work.actions.append(stop)
            elif (unask := self.asking.drop(seq)) is not None:
                self.journal.work.asks.append(unask)

    def _dispatch(self, effects: Effects, at: float) -> None:
        for dispatch in effects.dispatches:
            if not self.machine.is_open(dispatch.seq):
                continue
            if isinstance(dispatch.call, StepCall):
                self.run(self.attempts.add(dispatch, at))
            else:
                self.journal.work.asks.append(self.asking.add(dispatch))

    def answer(self, event: RequestCompleted) -> None:
        """Somebody else answered what was asked; what nobody waits for any more is passed over."""
        if event.run not in {0, self._run_number}:
            return  # an earlier run asked, and this one has another call of that number
        if event.rewinds not in {None, self.asking.rewinds_of(event.step)}:
            return  # it was asked before a rewind, which has given that number to another call
        regaining = self.asking.regaining
        if not self.asking.answered(event.step, refused=event.failure is not None):
            return
        if event.failure is not None and event.step in {lock.seq for lock in self.machine.held_locks}:
            # A lock that the code takes for its own cannot be had again.
            self.end(Outcome(ExecutionStatus.FAILED, failure=event.failure), event.at)
            return
        self.apply(event)
        if regaining and not self.asking.regaining:
            self.run_idle()

    def waits(self, child: Callable[[Request], str]) -> WaitsFor:
        """What the code waits for from others; ``child`` answers the ids of children."""
        waiting = self.asking.waiting()
        return WaitsFor(
            signals_text(self.machine.awaited_signals),
            tuple(ask.call.name for ask in waiting if isinstance(ask.call, LockCall)),
            tuple(child(ask) for ask in waiting if isinstance(ask.call, ChildCall)),
        )

    def run(self, task: PendingStep) -> None:
        """Begin an attempt at a step, unless it has to wait."""
        if not self.paused and not self._holding and not self.asking.regaining and task.state is TaskState.IDLE:
            self.journal.count("attempts_started")
            self.journal.work.actions.append(self.attempts.start(task))

    def run_idle(self) -> None:
        """Begin an attempt at each step that has none."""
        for task in self.attempts.idle():
            self.run(task)

    def end(self, outcome: Outcome, now: float) -> None:
        """The code is over: drop what is open, and record how it ended or how it continues."""
        stops = [self.attempts.drop(seq) for seq in self.attempts.numbers]
        self.journal.work.actions.extend(stop for stop in stops if stop is not None)
        self.journal.work.asks.extend(self.asking.end())
        self.outcome = outcome
        at = self.journal.time(now)
        if self.continued:
            self.journal.work.run = outcome.result
            state = self.machine.final_state()
            seed = self.machine.next_seed()
            self.journal.record(Continued(at, self._run_number + 1, outcome.unconsumed, state, seed))
            return
        left = tuple(signal.name for signal in outcome.unconsumed)
        given_up = bool(self._cancelled_by) and "" not in self._cancelled_by
        self.journal.record(
            Ended(at, outcome.status, outcome.result, outcome.failure, left, outcome.compensated, given_up)
        )


#: What is recorded also where checkpoints are off.
_ALWAYS = (Continued, Started, Paused, Resumed, RequestsReissued, Ended)


class JournalWriter:
    """See the module's docstring.

    Args:
        all_events: whether every event is recorded; otherwise only how the execution begins, pauses and ends.

    Attributes:
        seq: position of the newest entry.
        work: what is gathered since :meth:`take`.
        complete: whether the journal, replayed, brings the execution back to where it is.
    """

    def __init__(self, *, all_events: bool) -> None:
        self.seq = 0
        self.work = Work()
        self._all = all_events
        self.complete = True
        self._at = 0.0

    def resume(self, last: Entry) -> None:
        """Go on after an entry."""
        self.seq, self._at = last.seq, last.event.at

    def take(self) -> Work:
        """What was gathered since the last call."""
        work, self.work = self.work, Work()
        return work

    def time(self, now: float) -> float:
        """The time of an event that happens now: never before the last one's."""
        self._at = max(self._at, now)
        return self._at

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to one of the store's totals."""
        self.work.counts[counter] += amount

    def record(self, event: Event, effects: Effects | None = None) -> bool:
        """Make an entry; answers whether there is one."""
        if not self._all and not isinstance(event, _ALWAYS):
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
        """The next entry says that a step failed for good: keep what it was given."""
        self.work.letters.append(
            BuryStep(
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
        """The newest entry received signals that did not fit: keep them."""
        for signal, failure in effects.rejected:
            name = label("signal", signal.name)
            letter = BuryStep(self.seq, -signal.number, name, 1, at, signal.at, "", failure, signal.payload)
            self.work.letters.append(letter)
