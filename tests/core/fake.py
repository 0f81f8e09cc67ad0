"""A shell without a cluster: it writes an execution's entries down, and tests decide what becomes of attempts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, cast

from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    Entry,
    Event,
    Forked,
    Paused,
    RequestCompleted,
    Resumed,
    Rewound,
    SignalReceived,
    StepCompleted,
    StepFailed,
)
from rayflow.core.execution.actions import InboxItem, NewDeadLetter, Request, RunAttempt, StopAttempt
from rayflow.core.execution.execution import Execution
from rayflow.core.execution.forks import plan_fork
from rayflow.core.execution.journal import plan_rewind
from rayflow.core.execution.retry import WORKER_DIED
from rayflow.core.interpreter.event_loop import CALLBACK_BUDGET
from rayflow.core.interpreter.machine import Machine
from rayflow.definition.context import LockCall
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.definition.step import Step, StepKeywords, step
from rayflow.errors import Failure, class_name
from rayflow.storage.codec.journal import decode_entry, encode_entry
from tests.core.others import CODEC, Others

Flow = Callable[..., Coroutine[Any, Any, Any]]

#: What comes of an attempt, of what is asked of others, or of a signal that is waited for.
Reply = Callable[[Any], Any]

NO_RETRY = ExecutionOptions(retry=RetryPolicy(max_retries=0))


def stub(name: str, **settings: Any) -> Step[..., Any]:
    """A step that only has a name: machines issue steps and never run them."""
    chosen = cast("StepKeywords", {"name": name, **settings})

    async def body(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"step {name!r} ran in the machine")

    return step(**chosen)(body)


def failure(message: str = "no", *, cls: type[BaseException] = ValueError, retryable: bool = True) -> Failure:
    """How an attempt failed."""
    mro = tuple(class_name(c) for c in cls.__mro__[:-1])
    return Failure(type=class_name(cls), message=message, retryable=retryable, mro=mro)


class Told:
    """Collects what a machine says of exceptions that nobody awaited."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, message: str, error: BaseException | None) -> None:
        self.messages.append(message if error is None else f"{message}: {error}")


def recorded(entries: Sequence[Entry]) -> list[Entry]:
    """The entries as they come back from a store."""
    return [decode_entry("e", entry.seq, encode_entry(entry)) for entry in entries]


class Shell:
    """One execution, driven by a test.

    Args:
        flow: makes the workflow's coroutine.
        args: its arguments, by place and by name.
        options: the execution's.
        deadline: the execution's.
        journal: what an earlier shell wrote.
        rows: the inbox, from row 1.
        now: seconds since the epoch.
        budget: callbacks for one event.
        execution_id: the execution's.
        seed: of its random numbers.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        args: tuple[Sequence[Any], Mapping[str, Any]] = ((), {}),
        options: ExecutionOptions = NO_RETRY,
        deadline: float | None = None,
        journal: Sequence[Entry] = (),
        rows: Sequence[InboxItem] = (),
        now: float = 1000.0,
        budget: int = CALLBACK_BUDGET,
        execution_id: str = "e",
        seed: int = 0,
    ) -> None:
        self.execution_id, self.seed = execution_id, seed
        self.flow, self.options, self.deadline, self.now, self.budget = flow, options, deadline, now, budget
        self.args = args
        self.told = Told()
        self.machine = self._machine()
        self.execution = Execution(self.machine, options, deadline=deadline)
        self.journal = list(journal)
        self.rows = list(rows)
        self.inbox_done = 0
        #: For each entry, up to which row the inbox was applied when it was written, and how many rows it had by then.
        self.done_at: list[int] = [0] * len(self.journal)
        self.rows_at: list[int] = [len(self.rows)] * len(self.journal)
        #: Attempts under way, by step number; and every attempt and stop so far, in order.
        self.running: dict[int, RunAttempt] = {}
        self.started: list[tuple[str, int]] = []
        self.stopped: list[tuple[int, int]] = []
        self.others = Others()
        #: The encoded arguments of the next run, once the execution continued as new.
        self.next_run: bytes | None = None
        self.counts: dict[str, int] = {}
        self.letters: list[NewDeadLetter] = []

    def _machine(self) -> Machine:
        return Machine(
            lambda: self.flow(*self.args[0], **self.args[1]),
            execution_id=self.execution_id,
            workflow_id="w",
            payloads=CODEC,
            seed=self.seed,
            check=inspect.signature(self.flow).bind,
            budget=self.budget,
            on_unhandled=self.told,
        )

    # --- beginning -----------------------------------------------------------------------------------------
    def begin(self) -> Shell:
        """Start the execution."""
        self.execution.begin(self.now)
        return self.collect()

    def restored(self, flow: Flow | None = None, *, entries: int | None = None, later: bool = True) -> Shell:
        """Another shell that takes the execution up from what this one wrote, or from the first so many entries.

        What came from others after those entries is lost: signals and answers are sent again by who finishes it. With
        ``later``, pauses and cancellations that came after those entries are in the inbox already.
        """
        kept = self.journal if entries is None else self.journal[:entries]
        other = Shell(
            flow or self.flow,
            args=self.args,
            options=self.options,
            deadline=self.deadline,
            journal=recorded(kept),
            rows=self.rows if entries is None else self._rows_after(entries, later=later),
            now=self.now if entries is None else kept[-1].event.at,
            budget=self.budget,
            execution_id=self.execution_id,
            seed=self.seed,
        )
        done = self.inbox_done if entries is None else self.done_at[entries - 1]
        other.inbox_done, other.done_at, other.rows_at = done, self.done_at[: len(kept)], self.rows_at[: len(kept)]
        other.others = self.others.copy() if entries is None else self.others.as_of(kept, other.rows[done:])
        items = list(enumerate(other.rows, 1))[done:]
        other.execution.restore(other.journal, items, other.now, seen=done)
        return other.collect()

    def _rows_after(self, entries: int, *, later: bool) -> list[InboxItem]:
        known = self.rows_at[entries - 1]
        rows = (row for row in self.rows[known:] if later and not isinstance(row, SignalReceived | RequestCompleted))
        return [*self.rows[:known], *rows]

    def rewound(self, flow: Flow | None = None) -> Shell:
        """Another shell, after the failed execution was told to go on."""
        plan = plan_rewind("e", self.journal)
        self.journal.append(Entry(len(self.journal) + 1, Rewound(self.now, plan.to)))
        left = [row for row in self.rows[self.inbox_done :] if isinstance(row, SignalReceived)]
        self.inbox_done = len(self.rows)
        self.done_at.append(self.inbox_done)
        self.rows.extend((*plan.carried, *left))
        self.rows_at.append(len(self.rows))
        return self.restored(flow)

    def forked(self, before: str | int, flow: Flow | None = None, **state: Any) -> Shell:
        """Another execution, which takes over what happened until a call was issued."""
        plan = plan_fork("e", self.journal, before)
        encoded = {key: CODEC.encode(value) for key, value in state.items()}
        forked = Forked(self.now, self.execution_id, plan.to, encoded, plan.before, self.seed + 1)
        last = Entry(len(plan.entries) + 1, forked)
        journal = [*plan.entries, last]
        other = Shell(
            flow or self.flow,
            args=self.args,
            options=self.options,
            journal=journal,
            rows=plan.carried,
            now=self.now,
            execution_id=f"fork of {self.execution_id}",
            seed=self.seed,
        )
        return other.restored()

    def run_on(self, flow: Flow | None = None) -> Shell:
        """The next run of an execution that continued as new."""
        assert self.next_run is not None, "it did not continue as new"
        other = Shell(
            flow or self.flow,
            args=CODEC.decode(self.next_run),
            options=self.options,
            deadline=self.deadline,
            journal=self.journal[-1:],
            rows=self.rows,
            now=self.now,
            execution_id=self.execution_id,
            seed=self.seed,
        )
        other.inbox_done, other.done_at = self.inbox_done, self.done_at[-1:]
        items = list(enumerate(other.rows, 1))[other.inbox_done :]
        other.execution.restore(other.journal, items, other.now, seen=other.inbox_done)
        return other.collect()

    # --- what happens --------------------------------------------------------------------------------------
    def collect(self) -> Shell:
        """Write down what the execution wants."""
        while True:
            work = self.execution.take()
            self.journal.extend(recorded(work.entries))
            before, self.inbox_done = self.inbox_done, max(self.inbox_done, work.inbox_done)
            self.done_at.extend([before] * (len(work.entries) - 1) + [self.inbox_done] * bool(work.entries))
            self.rows_at.extend([len(self.rows)] * len(work.entries))
            assert work.entries or not work.requests, "what is asked goes with an entry"
            self.others.take(work.requests)
            self.next_run = self.next_run if work.next_run is None else work.next_run
            for name, count in work.counts.items():
                self.counts[name] = self.counts.get(name, 0) + count
            self.letters.extend(work.dead_letters)
            for action in work.actions:
                self._perform(action)
            if not work.deferred:
                return self
            for outcome in work.deferred:
                self.deliver(outcome)

    def _perform(self, action: RunAttempt | StopAttempt) -> None:
        if isinstance(action, RunAttempt):
            self.running[action.seq] = action
            self.started.append((action.call.name, action.attempt))
        else:
            self.stopped.append((action.seq, action.attempt))
            under_way = self.running.get(action.seq)
            if under_way is not None and under_way.attempt == action.attempt:
                del self.running[action.seq]

    def deliver(self, item: InboxItem) -> Shell:
        """A row arrives in the inbox."""
        self.rows.append(item)
        self.execution.inbox(len(self.rows), item, self.now)
        return self.collect()

    def pause(self) -> Shell:
        """Somebody pauses it."""
        return self.deliver(Paused(self.now, "lunch"))

    def resume(self) -> Shell:
        """Somebody resumes it."""
        return self.deliver(Resumed(self.now))

    def cancel(self, reason: str = "enough") -> Shell:
        """Somebody cancels it."""
        return self.deliver(CancelRequested(self.now, reason))

    def signal(self, name: str, payload: Any = None) -> Shell:
        """Somebody sends it a signal."""
        return self.deliver(SignalReceived(self.now, name, CODEC.encode(payload)))

    def answer(self, name: str | Request, value: Any = None, failure: Failure | None = None) -> Shell:
        """What was asked for is answered: the oldest ask for that name. See :meth:`Others.answer`."""
        ask = self.others.first(name) if isinstance(name, str) else name
        return self.deliver(self.others.answer(ask, self.now, value, failure))

    def run_of(self, name: str) -> RunAttempt:
        """The oldest attempt under way at a step of that name."""
        return next(run for run in self.running.values() if run.call.name == name)

    def send(self, name: str) -> Shell:
        """The attempt goes to a worker."""
        run = self.run_of(name)
        self.execution.sent(run.seq, run.attempt, self.now)
        return self.collect()

    def beat(self, name: str) -> Shell:
        """The attempt says that it is alive."""
        run = self.run_of(name)
        assert self.execution.beat(run.seq, run.attempt, self.now)
        return self.collect()

    def complete(self, name: str, value: Any = None) -> Shell:
        """An attempt succeeds."""
        run = self.running.pop(self.run_of(name).seq)
        result = CODEC.encode(value)
        assert self.execution.completed(run.seq, run.attempt, result, began=self.now, worker="w1", now=self.now)
        return self.collect()

    def fail(self, name: str, how: Failure | None = None) -> Shell:
        """An attempt fails."""
        run = self.running.pop(self.run_of(name).seq)
        how = how or failure()
        assert self.execution.failed(run.seq, run.attempt, how, began=self.now, worker="w1", now=self.now)
        return self.collect()

    def lose(self, name: str, *, exclusive: bool = False, how: str = WORKER_DIED) -> Shell:
        """An attempt is lost with its worker."""
        run = self.running.pop(self.run_of(name).seq)
        lost = Failure(type=how, message="died")
        self.execution.lost(run.seq, run.attempt, lost, exclusive=exclusive, worker="w1", now=self.now)
        return self.pass_time(0)

    def pass_time(self, seconds: float) -> Shell:
        """Time passes."""
        self.now += seconds
        self.execution.tick(self.now)
        return self.collect()

    def wake(self) -> Shell:
        """Time passes until something is due."""
        due = self.execution.next_wake()
        assert due is not None, "it waits for nothing"
        return self.pass_time(max(0.0, due - self.now))

    def finish(self, answer: Reply = lambda asked: None) -> Shell:
        """Let every attempt succeed, oldest first, until it ends.

        Where nothing runs, others answer, oldest first; then signals come that are waited for; then time passes.

        Args:
            answer: what an attempt, what is asked of others, or a signal (by its name) comes to; a Failure lets an
                attempt or an ask fail.
        """
        while self.execution.outcome is None:
            self.one_thing(answer)
        return self

    def one_thing(self, answer: Reply = lambda asked: None) -> Shell:
        """Let happen what is next. See :meth:`finish`."""
        run = next(iter(self.running.values()), None)
        if run is not None:
            value, name = answer(run), run.call.name
            return self.fail(name, value) if isinstance(value, Failure) else self.complete(name, value)
        ask = next((ask for ask in self.others.open.values() if self.others.free(ask)), None)
        if ask is not None:
            value = self.next_token() if isinstance(ask.call, LockCall) else answer(ask)
            return self.answer(ask, failure=value) if isinstance(value, Failure) else self.answer(ask, value)
        awaited = self.execution.awaited_signals
        if awaited:
            return self.signal(awaited[0][0], answer(awaited[0][0]))
        return self.wake()

    def next_token(self) -> int:
        """A fencing token above all that were granted."""
        values = (event.value for event in self.events if isinstance(event, RequestCompleted))
        return 1 + max((value for value in values if isinstance(value, int)), default=0)

    # --- what came of it -----------------------------------------------------------------------------------
    @property
    def result(self) -> Any:
        """What the workflow answered."""
        outcome = self.execution.outcome
        assert outcome is not None, "it has not ended"
        assert outcome.result is not None, outcome
        return CODEC.decode(outcome.result)

    @property
    def failure(self) -> Failure:
        """How the workflow failed."""
        outcome = self.execution.outcome
        assert outcome is not None, "it has not ended"
        assert outcome.failure is not None, outcome
        return outcome.failure

    @property
    def events(self) -> list[Event]:
        """The journal's events."""
        return [entry.event for entry in self.journal]

    def count(self, kind: type[StepCompleted | AttemptFailed]) -> int:
        """How many events of a kind the journal has."""
        return sum(isinstance(event, kind) for event in self.events)


def run(flow: Flow, answer: Reply = lambda asked: None, **given: Any) -> Shell:
    """Run a workflow to its end."""
    return Shell(flow, **given).begin().finish(answer)


def sweep(shell: Shell, answer: Reply = lambda asked: None) -> None:
    """Crash after each entry of a finished execution, go on, and compare: same journal, nothing recorded runs again.

    A fork begins with all that it takes over.
    """
    begins = max((entry.seq for entry in shell.journal if isinstance(entry.event, Forked)), default=1)
    for entries in range(begins, len(shell.journal)):
        other = shell.restored(entries=entries)
        known = {
            e.event.step
            for e in shell.journal[:entries]
            if isinstance(e.event, StepCompleted | StepFailed | RequestCompleted)
        }
        assert known.isdisjoint(other.running), entries
        assert not other.others.log, "what the journal says is asked is not asked again"
        other.finish(answer)
        assert other.journal == shell.journal, entries
        assert other.next_run == shell.next_run, entries
