"""Watching executions: their output, their progress, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rayflow.cli.blocked import (
    NOT_BLOCKED,
    BlockedState,
    action_commands,
    blocked_by,
    describe_actions,
    is_stuck,
    stays_paused,
)
from rayflow.cli.exit_codes import COMPLETED, STOPPED_WAITING, StoppedWaiting, code_for
from rayflow.cli.open_engine import command_line, open_engine, store_url
from rayflow.cli.screen import ProgressLine, Screen
from rayflow.client.engine import Engine, backend_of, watcher_of
from rayflow.client.views import summary
from rayflow.display import duration_text, failure_text, snapshot_text, summary_json, to_json, value_text
from rayflow.display.formatting import plural
from rayflow.errors import ClusterError, StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.storage.damage import failure_or_damage
from rayflow.storage.model import ExecutionRecord

#: Seconds between two polls of an execution.
POLL = 0.2

#: Seconds between two counts of steps; a slow query is repeated only after this many times its own duration.
_COUNT, _COUNT_SHARE = 1.0, 10.0

#: Seconds without a response from the engine after which waiting ends.
_PATIENCE = 60.0


class ExecutionWatch:
    """Waits for executions of an engine, prints their output and reports how they ended.

    Args:
        engine: the engine.
        screen: the command's output.
        progress: the progress line.
        args: the command's options, for the commands that messages suggest.
    """

    def __init__(self, engine: Engine, screen: Screen, progress: ProgressLine, args: argparse.Namespace) -> None:
        self.engine = engine
        self._screen = screen
        self._progress = progress
        self._args = args

    def record(self, execution_id: str) -> ExecutionRecord:
        """Return the record of an execution. Raises ExecutionNotFound."""
        return backend_of(self.engine).record(execution_id)

    def deadline(self) -> float | None:
        """Return when ``--timeout`` expires, as of ``time.monotonic()``."""
        return None if self._args.timeout is None else time.monotonic() + self._args.timeout

    def wait(self, execution_id: str, *, until: float | None = None) -> ExecutionRecord:
        """Wait until an execution has finished, the time is up, or it is stuck while this process holds the store.

        Args:
            execution_id: the execution.
            until: when to stop waiting, as of ``time.monotonic()``.

        Returns:
            The execution's last record.

        Raises:
            StoppedWaiting: if the engine does not respond for a while.
        """
        print_new = self._output(execution_id)
        counts = _StepCounts(self.engine, execution_id) if self._progress.active else None
        blocked = _BlockedPoll(self.engine)
        future = watcher_of(self.engine).future(execution_id)
        responded = time.monotonic()
        noted = ""
        while True:
            print_new()
            now = time.monotonic()
            up = until is not None and now >= until
            try:
                record = future.result(POLL if until is None else max(0.0, min(POLL, until - now)))
            except TimeoutError:
                found = self._poll(execution_id)
                if found is None:
                    if up or now - responded > _PATIENCE:
                        raise StoppedWaiting(self._unresponsive(execution_id, now - responded)) from None
                    continue
                record, responded = found, now
            if record.status.terminal or up:
                print_new()
                return record
            state = blocked.state(record, now)
            if self._args.local and (stays_paused(record) or is_stuck(self.engine, state)):
                return record
            noted = self._note_blocked(record, state, noted)
            if counts is not None:
                self._progress.show(counts.text(now))

    def finish(self, execution_id: str) -> int:
        """Wait for an execution, at most until ``--timeout``, report how it ended, and return the exit code."""
        with self.explain_state(execution_id):
            record = self.wait(execution_id, until=self.deadline())
            code, found = code_for(record.status), self.engine.status(record.id)
            if code == COMPLETED:
                took = duration_text(record.updated_at - record.created_at)
                result = value_text("" if self._screen.quiet else "result", found.result, self._screen.style())
                text = f"{record.id} completed: {plural(len(found.steps), 'step')} in {took}\n{result}"
                self._screen.result(result if self._screen.quiet else text, to_json(found))
                return code
            state = NOT_BLOCKED if record.status.terminal else blocked_by(self.engine, record)
            self._screen.error(self._ending(record, state))
            if self._screen.as_json:
                self._screen.result("", to_json(found))
            elif code != STOPPED_WAITING:
                self._screen.note(snapshot_text(found, self._screen.style()))
            return code

    def finish_all(self, ids: Sequence[str]) -> tuple[int, str, list[dict[str, Any]]]:
        """Wait for executions, at most until ``--timeout``.

        Returns:
            The exit code, a line for each execution, and the same as JSON.
        """
        until, codes, lines, documents = self.deadline(), set(), [], []
        for execution_id in ids:
            with self.explain_state(execution_id):
                record = self.wait(execution_id, until=until)
            codes.add(code_for(record.status))
            lines.append(self._line(record))
            documents.append(summary_json(summary(record)))
        # A failure matters more than an execution that has not finished.
        return next((code for code in (1, 3, 4) if code in codes), COMPLETED), "\n".join(lines), documents

    def report(self, execution_id: str, text: str) -> int:
        """Print a text, or the execution's summary as JSON, without waiting; return the exit code."""
        self._screen.result(text, summary_json(summary(self.record(execution_id))))
        return COMPLETED

    @contextlib.contextmanager
    def explain_state(self, execution_id: str) -> Iterator[None]:
        """Print what happens to the execution if Ctrl-C ends the block."""
        try:
            yield
        except KeyboardInterrupt:
            if not self._screen.has_error:
                self._screen.error(f"interrupted; execution {execution_id!r} {self._afterwards(execution_id)}")
            raise

    def _note_blocked(self, record: ExecutionRecord, state: BlockedState, noted: str) -> str:
        """Print once what a person can do for the execution, and return the printed text."""
        if stays_paused(record):
            what, text = "paused", self._ending(record, NOT_BLOCKED)
        elif state.actions and not self._args.local:
            what = " ".join(one.signal for one in state.actions if one.execution_id == record.id) or "others"
            waits = describe_actions(record.id, state.actions)
            text = f"execution {record.id!r} waits for {waits}; to continue: {self._commands(state)}"
        else:
            return noted
        if what != noted:
            self._screen.note(text)
        return what

    def _poll(self, execution_id: str) -> ExecutionRecord | None:
        try:
            return self.record(execution_id)
        except (ClusterError, StorageUnavailable):
            return None

    def _unresponsive(self, execution_id: str, seconds: float) -> str:
        return (
            f"no response from the engine for {seconds:.0f} s. Execution {execution_id!r} continues with the next "
            f"engine on its store; to wait again: {self._command('wait', execution_id)}"
        )

    def _output(self, execution_id: str) -> Callable[[], None]:
        """Return a function that prints new output; steps in this process have printed theirs already."""
        cursor = ""

        def print_new() -> None:
            nonlocal cursor
            with contextlib.suppress(ClusterError, StorageUnavailable):
                output = self.engine.output(execution_id, cursor)
                cursor = output.cursor
                for line in output.lines:
                    self._screen.line(line)

        return (lambda: None) if self._args.local else print_new

    def _line(self, record: ExecutionRecord) -> str:
        failure = failure_or_damage(record)
        if failure is not None:
            why = failure.message
        else:
            actions = () if record.status.terminal else blocked_by(self.engine, record).actions
            why = f"waits for {describe_actions(record.id, actions)}" if actions else ""
        return "  ".join(filter(None, (record.id, str(record.status), why)))

    def _ending(self, record: ExecutionRecord, state: BlockedState) -> str:
        """Return how an execution ended, or its status, and what to do next."""
        failure = failure_or_damage(record)
        message = "" if failure is None else failure.message
        match record.status:
            case ExecutionStatus.FAILED:
                reason = "" if failure is None else f": {failure_text(failure)}"
                show = self._command("show", record.id, "--full")
                resume = self._command("resume", record.id)
                return f"execution {record.id!r} failed{reason}. Details: {show}; to retry the failed step: {resume}"
            case ExecutionStatus.CANCELLED:
                return f"execution {record.id!r} was cancelled" + (f": {message}" if message else "")
            case ExecutionStatus.PAUSED:
                reason = f": {failure_text(failure)}" if message else ""
                return f"execution {record.id!r} is paused{reason}; to resume: {self._command('resume', record.id)}"
        if not state.actions or self._forgets():
            return f"stopped waiting; execution {record.id!r} is {record.status} and {self._afterwards(record.id)}"
        waits = f"stopped waiting; execution {record.id!r} waits for {describe_actions(record.id, state.actions)}"
        to_continue = f"to continue: {self._commands(state)}"
        if self._args.local:
            return f"{waits}; completed steps are recorded; {to_continue}"
        return f"{waits}; {to_continue}; {self._wait_or_cancel(record.id)}"

    def _forgets(self) -> bool:
        return self._args.local and store_url(self._args.store) == "memory://"

    def _afterwards(self, execution_id: str) -> str:
        if self._forgets():
            return "ends with this process, since memory:// is not durable"
        if self._args.local:
            resume = self._command("resume", execution_id)
            return f"stops with this process; completed steps are recorded. To continue: {resume}"
        hint = self._wait_or_cancel(execution_id)
        return f"continues. {hint[0].upper()}{hint[1:]}"

    def _wait_or_cancel(self, execution_id: str) -> str:
        return (
            f"to wait again: {self._command('wait', execution_id)}; to cancel: {self._command('cancel', execution_id)}"
        )

    def _command(self, *words: str) -> str:
        return command_line(self._args, *words)

    def _commands(self, state: BlockedState) -> str:
        return action_commands(self._args, state.actions)


class _BlockedPoll:
    """Polls how an execution is blocked, less often if the query is slow: there may be many children."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._due = 0.0
        self._state = NOT_BLOCKED

    def state(self, record: ExecutionRecord, now: float) -> BlockedState:
        if record.owner:
            return NOT_BLOCKED
        if now >= self._due:
            began, self._state = time.monotonic(), NOT_BLOCKED
            with contextlib.suppress(ClusterError, StorageUnavailable):
                self._state = blocked_by(self._engine, record)
            self._due = now + _COUNT_SHARE * (time.monotonic() - began)
        return self._state


class _StepCounts:
    """Counts the steps of an execution now and then, for the progress line."""

    def __init__(self, engine: Engine, execution_id: str) -> None:
        self._engine = engine
        self._id = execution_id
        self._began = time.monotonic()
        self._due = 0.0
        self._steps = ""

    def text(self, now: float) -> str:
        if now >= self._due:
            with contextlib.suppress(ClusterError, StorageUnavailable):
                found = self._engine.status(self._id)
                done = sum(step.status == "completed" for step in found.steps)
                self._steps = f"{done} done · {len(found.current_steps)} running · "
                if found.status is ExecutionStatus.PAUSED:
                    self._steps += "paused · "
                elif found.parked and found.waiting_for:
                    self._steps += f"waits for {', '.join(found.waiting_for)} · "
            self._due = now + max(_COUNT, _COUNT_SHARE * (time.monotonic() - now))
        return f"{self._steps}{now - self._began:.0f} s"


@contextlib.contextmanager
def watch_engine(args: argparse.Namespace, screen: Screen, *, recover: bool | None = None) -> Iterator[ExecutionWatch]:
    """Open the engine of a command and watch its executions, with all output above the progress line."""
    progress = ProgressLine(enabled=not screen.quiet)
    with progress.above(), open_engine(args, recover=recover) as engine:
        recovered = getattr(engine, "recovered", None)
        if recovered:
            screen.note(f"recovered: {', '.join(recovered)}")
        yield ExecutionWatch(engine, screen, progress, args)
