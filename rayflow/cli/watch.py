"""Waiting for an execution: what its steps print, how far it is, and how it ended."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator

from rayflow.cli.blocked import NO_REST, BlockedState, commands_of, rest_of, stands_still, stays_paused, words_of
from rayflow.cli.exit_codes import COMPLETED, StoppedWaiting, code_for
from rayflow.cli.open_engine import command
from rayflow.cli.reader import store_url
from rayflow.cli.screen import LiveLine, Screen
from rayflow.client.engine import Engine, backend_of, watcher_of
from rayflow.display import duration_text, failure_text, snapshot_text, to_json, value_text
from rayflow.errors import ClusterError, StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.storage.damage import failure_or_damage
from rayflow.storage.model import ExecutionRecord

#: Seconds between two looks.
POLL = 0.2

#: Seconds between two counts of steps, and how many times as long as a count, or another long look, itself takes.
_COUNT, _COUNT_SHARE = 1.0, 10.0

#: Seconds without an answer after which nobody waits any more.
_PATIENCE = 60.0


class Follower:
    """Waits for executions, one after another.

    Args:
        engine: where they run.
        screen: where their output goes.
        live: the line that shows progress.
        args: the command's options, for the commands that it names.
    """

    def __init__(self, engine: Engine, screen: Screen, live: LiveLine, args: argparse.Namespace) -> None:
        self._engine = engine
        self._screen = screen
        self._live = live
        self._args = args

    def wait(self, execution_id: str, *, until: float | None = None) -> ExecutionRecord:
        """Wait until it is over, or the time is up, or nobody could make it go on while this process has the store.

        Args:
            execution_id: the execution.
            until: when to stop waiting, as of ``time.monotonic()``.

        Returns:
            Its row as of then.

        Raises:
            StoppedWaiting: the engine has not answered for a while.
        """
        lines = self._lines(execution_id)
        counts = _Counts(self._engine, execution_id) if self._live.active else None
        rests = _Rests(self._engine)
        future = watcher_of(self._engine).future(execution_id)
        heard = time.monotonic()
        told = ""
        while True:
            lines()
            now = time.monotonic()
            up = until is not None and now >= until
            try:
                record = future.result(POLL if until is None else max(0.0, min(POLL, until - now)))
            except TimeoutError:
                found = self._look(execution_id)
                if found is None:
                    if up or now - heard > _PATIENCE:
                        raise StoppedWaiting(self._lost(execution_id, now - heard)) from None
                    continue
                record, heard = found, now
            if record.status.terminal or up:
                lines()
                return record
            rest = rests.of(record, now)
            if self._args.local and (stays_paused(record) or stands_still(self._engine, rest)):
                return record
            told = self._tell(record, rest, told)
            if counts is not None:
                self._live.show(counts.text(now))

    def _tell(self, record: ExecutionRecord, rest: BlockedState, told: str) -> str:
        """Say once for what it waits that somebody else can do; answers what that is."""
        if stays_paused(record):
            what, text = "paused", ending(self._args, record)
        elif rest.awaited and not self._args.local:
            what = " ".join(one.signal for one in rest.awaited if one.execution_id == record.id) or "others"
            words = words_of(record.id, rest.awaited)
            text = f"execution {record.id!r} waits for {words}; to go on: {commands_of(self._args, rest.awaited)}"
        else:
            return told
        if what != told:
            self._screen.say(text)
        return what

    def _look(self, execution_id: str) -> ExecutionRecord | None:
        try:
            return backend_of(self._engine).record(execution_id)
        except (ClusterError, StorageUnavailable):
            return None

    def _lost(self, execution_id: str, seconds: float) -> str:
        return (
            f"nothing has answered for {seconds:.0f} s. Execution {execution_id!r} goes on with the next engine on its "
            f"store; to wait for it again: {command(self._args, 'wait', execution_id)}"
        )

    def _lines(self, execution_id: str) -> Callable[[], None]:
        """Prints what is new; where the steps run in this process, they have printed it themselves."""
        cursor = ""

        def print_new() -> None:
            nonlocal cursor
            with contextlib.suppress(ClusterError, StorageUnavailable):
                output = self._engine.output(execution_id, cursor)
                cursor = output.cursor
                for line in output.lines:
                    self._screen.line(line)

        return (lambda: None) if self._args.local else print_new


class _Rests:
    """How an execution rests, looked at now and then: it may wait for many others."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._due = 0.0
        self._rest = NO_REST

    def of(self, record: ExecutionRecord, now: float) -> BlockedState:
        if record.owner:
            return NO_REST
        if now >= self._due:
            began, self._rest = time.monotonic(), NO_REST
            with contextlib.suppress(ClusterError, StorageUnavailable):
                self._rest = rest_of(self._engine, record)
            self._due = now + _COUNT_SHARE * (time.monotonic() - began)
        return self._rest


class _Counts:
    """How far an execution is, counted now and then."""

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
def following(
    open_: Callable[[], Engine], screen: Screen, args: argparse.Namespace
) -> Iterator[tuple[Engine, Follower]]:
    """An engine, and the follower of what runs there, with all output kept apart from the live line."""
    live = LiveLine(wanted=not screen.quiet)
    with live.above(), open_() as engine:
        recovered = getattr(engine, "recovered", None)
        if recovered:
            screen.say(f"taken up again: {', '.join(recovered)}")
        yield engine, Follower(engine, screen, live, args)


def wait_and_conclude(
    engine: Engine, follower: Follower, screen: Screen, args: argparse.Namespace, execution_id: str
) -> int:
    """Wait for one execution, for ``args.timeout`` seconds at most, and answer how it ended; answers the exit code."""
    until = None if args.timeout is None else time.monotonic() + args.timeout
    with fate_told(screen, args, execution_id):
        return conclude(engine, screen, args, follower.wait(execution_id, until=until))


def conclude(engine: Engine, screen: Screen, args: argparse.Namespace, record: ExecutionRecord) -> int:
    """Say how an execution ended, or that nobody waits any more; answers the exit code."""
    code = code_for(record.status)
    found = engine.status(record.id)
    if code == COMPLETED:
        steps = f"{len(found.steps)} step{'' if len(found.steps) == 1 else 's'}"
        summary = f"{record.id} completed: {steps} in {duration_text(record.updated_at - record.created_at)}"
        result = value_text("" if screen.quiet else "result", found.result, screen.style())
        screen.answer(result if screen.quiet else f"{summary}\n{result}", to_json(found))
        return code
    screen.error(ending(args, record, NO_REST if record.status.terminal else rest_of(engine, record)))
    if screen.as_json:
        screen.answer("", to_json(found))
    elif not screen.quiet and code != code_for(ExecutionStatus.RUNNING):
        screen.say(snapshot_text(found, screen.style()))
    return code


def ending(args: argparse.Namespace, record: ExecutionRecord, rest: BlockedState = NO_REST) -> str:
    """How an execution ended, or where it is, and what can be done about it."""
    failure = failure_or_damage(record)
    reason = "" if failure is None else f": {failure_text(failure)}"
    show = command(args, "show", record.id, "--full")
    match record.status:
        case ExecutionStatus.FAILED:
            resume = command(args, "resume", record.id)
            return f"execution {record.id!r} failed{reason}. All of it: {show}; to go on from there: {resume}"
        case ExecutionStatus.CANCELLED:
            why = f": {failure.message}" if failure is not None and failure.message else ""
            return f"execution {record.id!r} was cancelled{why}"
        case ExecutionStatus.PAUSED:
            reason = "" if failure is None or not failure.message else reason
            return f"execution {record.id!r} is paused{reason}; to go on: {command(args, 'resume', record.id)}"
    if not rest.awaited or _forgets(args):
        return f"stopped waiting; execution {record.id!r} is {record.status}, and {_fate(args, record.id)}"
    waits = f"stopped waiting; execution {record.id!r} waits for {words_of(record.id, rest.awaited)}"
    to_go_on = f"to go on: {commands_of(args, rest.awaited)}"
    if args.local:
        return f"{waits}; what its steps have done is recorded; {to_go_on}"
    return f"{waits}; {to_go_on}; {_again(args, record.id)}"


@contextlib.contextmanager
def fate_told(screen: Screen, args: argparse.Namespace, execution_id: str) -> Iterator[None]:
    """When Ctrl-C ends what is done inside this block, say what becomes of the execution."""
    try:
        yield
    except KeyboardInterrupt:
        if not screen.told:
            screen.error(f"interrupted; execution {execution_id!r} {_fate(args, execution_id)}")
        raise


def _forgets(args: argparse.Namespace) -> bool:
    return args.local and store_url(args.store) == "memory://"


def _fate(args: argparse.Namespace, execution_id: str) -> str:
    if _forgets(args):
        return "is gone with this process, since memory:// keeps nothing"
    if args.local:
        return (
            "stops with this process; what its steps have done is recorded. To go on: "
            f"{command(args, 'resume', execution_id)}"
        )
    again = _again(args, execution_id)
    return f"goes on. {again[0].upper()}{again[1:]}"


def _again(args: argparse.Namespace, execution_id: str) -> str:
    return (
        f"to wait for it again: {command(args, 'wait', execution_id)}; to stop it: "
        f"{command(args, 'cancel', execution_id)}"
    )
