"""A shell without a cluster: it writes an execution's entries down, and tests decide what becomes of attempts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rayflow.core.actions import InboxItem, Letter, RunAttempt, StopAttempt
from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    Entry,
    Event,
    Paused,
    Resumed,
    Rewound,
    StepCompleted,
    StepFailed,
)
from rayflow.core.execution import Execution
from rayflow.core.journal import plan_rewind
from rayflow.core.loop import CALLBACK_BUDGET
from rayflow.core.machine import Machine
from rayflow.core.retry import WORKER_DIED
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.definition.step import Step, StepSettings, step
from rayflow.errors import Failure, class_name
from rayflow.storage.codec import MsgpackCodec
from rayflow.storage.records import decode_entry, encode_entry

Flow = Callable[[], Coroutine[Any, Any, Any]]

CODEC = MsgpackCodec()
NO_RETRY = ExecutionOptions(retry=RetryPolicy(max_retries=0))


def stub(name: str, **settings: Any) -> Step[..., Any]:
    """A step that only has a name: machines issue steps and never run them."""
    chosen: StepSettings = {"name": name, **settings}  # type: ignore[typeddict-item]

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
        options: the execution's.
        deadline: the execution's.
        journal: what an earlier shell wrote.
        rows: the inbox, from row 1.
        now: seconds since the epoch.
        budget: callbacks for one event.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        options: ExecutionOptions = NO_RETRY,
        deadline: float | None = None,
        journal: Sequence[Entry] = (),
        rows: Sequence[InboxItem] = (),
        now: float = 1000.0,
        budget: int = CALLBACK_BUDGET,
    ) -> None:
        self.flow, self.options, self.deadline, self.now, self.budget = flow, options, deadline, now, budget
        self.told = Told()
        self.machine = Machine(
            flow, execution_id="e", workflow_id="w", payloads=CODEC, budget=budget, on_unhandled=self.told
        )
        self.execution = Execution(self.machine, options, deadline=deadline)
        self.journal = list(journal)
        self.rows = list(rows)
        self.inbox_done = 0
        #: For each entry, up to which row the inbox was applied when it was written.
        self.done_at: list[int] = [0] * len(self.journal)
        #: Attempts under way, by step number; and every attempt and stop so far, in order.
        self.running: dict[int, RunAttempt] = {}
        self.started: list[tuple[str, int]] = []
        self.stopped: list[tuple[int, int]] = []
        self.counts: dict[str, int] = {}
        self.letters: list[Letter] = []

    # --- beginning -----------------------------------------------------------------------------------------
    def begin(self) -> Shell:
        """Start the execution."""
        self.execution.begin(self.now)
        return self.collect()

    def restored(self, flow: Flow | None = None, *, entries: int | None = None) -> Shell:
        """Another shell that takes the execution up from what this one wrote, or from the first so many entries."""
        kept = self.journal if entries is None else self.journal[:entries]
        other = Shell(
            flow or self.flow,
            options=self.options,
            deadline=self.deadline,
            journal=recorded(kept),
            rows=self.rows,
            now=self.now if entries is None else kept[-1].event.at,
            budget=self.budget,
        )
        done = self.inbox_done if entries is None else self.done_at[entries - 1]
        other.inbox_done, other.done_at = done, self.done_at[: len(kept)]
        items = list(enumerate(self.rows, 1))[done:]
        other.execution.restore(other.journal, items, other.now, seen=done)
        return other.collect()

    def rewound(self, flow: Flow | None = None) -> Shell:
        """Another shell, after the failed execution was told to go on."""
        plan = plan_rewind("e", self.journal)
        self.journal.append(Entry(len(self.journal) + 1, Rewound(self.now, plan.to)))
        self.inbox_done = len(self.rows)
        self.done_at.append(self.inbox_done)
        self.rows.extend(plan.carried)
        return self.restored(flow)

    # --- what happens --------------------------------------------------------------------------------------
    def collect(self) -> Shell:
        """Write down what the execution wants."""
        while True:
            work = self.execution.take()
            self.journal.extend(recorded(work.entries))
            before, self.inbox_done = self.inbox_done, max(self.inbox_done, work.inbox_done)
            self.done_at.extend([before] * (len(work.entries) - 1) + [self.inbox_done] * bool(work.entries))
            for name, count in work.counts.items():
                self.counts[name] = self.counts.get(name, 0) + count
            self.letters.extend(work.letters)
            for action in work.actions:
                self._perform(action)
            if not work.holds:
                return self
            for outcome in work.holds:
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

    def lose(self, name: str, *, alone: bool = False, how: str = WORKER_DIED) -> Shell:
        """An attempt is lost with its worker."""
        run = self.running.pop(self.run_of(name).seq)
        lost = Failure(type=how, message="died")
        self.execution.lost(run.seq, run.attempt, lost, alone=alone, worker="w1", now=self.now)
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

    def finish(self, answer: Callable[[RunAttempt], Any] = lambda run: None) -> Shell:
        """Let every attempt succeed, oldest first, and time pass where nothing runs, until it ends.

        Args:
            answer: what an attempt comes to; a Failure lets it fail.
        """
        while self.execution.outcome is None:
            run = next(iter(self.running.values()), None)
            if run is None:
                self.wake()
                continue
            value = answer(run)
            if isinstance(value, Failure):
                self.fail(run.call.name, value)
            else:
                self.complete(run.call.name, value)
        return self

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


def run(flow: Flow, answer: Callable[[RunAttempt], Any] = lambda run: None, **given: Any) -> Shell:
    """Run a workflow to its end."""
    return Shell(flow, **given).begin().finish(answer)


def sweep(shell: Shell, answer: Callable[[RunAttempt], Any] = lambda run: None) -> None:
    """Crash after each entry of a finished execution, go on, and compare: same journal, nothing recorded runs again."""
    for entries in range(1, len(shell.journal)):
        other = shell.restored(entries=entries)
        known = {e.event.step for e in shell.journal[:entries] if isinstance(e.event, StepCompleted | StepFailed)}
        assert known.isdisjoint(other.running), entries
        other.finish(answer)
        assert other.journal == shell.journal, entries
