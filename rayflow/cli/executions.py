"""Commands that start, control or wait for executions.

``run``, ``wait``, ``resume``, ``recover``, ``pause``, ``cancel``, ``signal`` and ``fork``.

A command with ``--local`` runs the execution in its own process, so it waits for the execution before it ends.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, cast

from rayflow.cli import inputs
from rayflow.cli.blocked import blocked_by, describe_actions
from rayflow.cli.exit_codes import COMPLETED, UsageError
from rayflow.cli.open_engine import command_line, read_store, store_url
from rayflow.cli.options import (
    Commands,
    add_command,
    add_input,
    add_priority,
    add_timeout,
    add_wait,
    moment,
    seconds,
    step_name_or_number,
)
from rayflow.cli.screen import Screen
from rayflow.cli.targets import TARGET_FORMS, AnyWorkflow, find_target, load_saved
from rayflow.cli.watch import ExecutionWatch, watch_engine
from rayflow.client.engine import Engine, backend_of
from rayflow.definition.start_options import SavedWorkflow, StartOptions
from rayflow.display import time_text
from rayflow.errors import CodecError, ExecutionNotFound
from rayflow.ids import ExecutionStatus
from rayflow.runtime.code import environment
from rayflow.storage.base import Store
from rayflow.storage.model import ExecutionRecord

_UNFINISHED = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING)


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    _add_run(commands)
    parser = add_command(commands, "wait", wait, "wait for an execution", "id", engine=True)
    add_timeout(parser)
    parser.add_argument("--quiet", action="store_true", help="print only the result")
    about = "continue a paused, interrupted or failed execution"
    add_wait(add_command(commands, "resume", resume, about, "id", engine=True))
    parser = add_command(commands, "recover", recover, "resume all interrupted executions", engine=True)
    parser.add_argument(
        "--older-than", type=seconds, default=0.0, metavar="S", help="only executions without progress for S seconds"
    )
    add_wait(parser)
    for name, command, about in (
        ("pause", pause, "pause an execution: running steps finish, no new step starts"),
        ("cancel", cancel, "cancel an execution"),
    ):
        parser = add_command(commands, name, command, about, "id", engine=True)
        parser.add_argument("--reason", default="", help="a reason that `rayflow show` displays")
    parser = add_command(commands, "signal", signal, "send a durable signal to an execution", "id", engine=True)
    parser.add_argument("name", metavar="NAME", help="the signal's name")
    parser.add_argument("--payload", metavar="JSON", help="the payload as JSON; @FILE reads a file, @- reads stdin")
    parser.add_argument("--key", help="idempotency key: signals with the same key are received once")
    parser.add_argument("--wait", action="store_true", help="wait for the end of the execution")
    add_timeout(parser)
    _add_fork(commands)


def _add_run(commands: Commands) -> None:
    parser = add_command(commands, "run", run, "start a workflow and wait for its result", engine=True)
    parser.add_argument("target", metavar="TARGET", help=TARGET_FORMS)
    add_input(parser)
    parser.add_argument("--id", help="the execution's id; a second run with the same id attaches to the execution")
    parser.add_argument("--detach", action="store_true", help="do not wait")
    add_timeout(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--delay", type=seconds, metavar="S", help="start after S seconds; recorded immediately")
    start.add_argument("--start-at", type=moment, metavar="TIME", help="start at TIME, as 2026-11-24T02:00+01:00")
    parser.add_argument("--singleton", metavar="KEY", help="refuse if an unfinished execution has the same key")
    add_priority(parser)
    parser.add_argument("--checkpoints", choices=("sync", "async", "off"), help="when results are recorded")
    parser.add_argument("--quiet", action="store_true", help="print only the result")


def _add_fork(commands: Commands) -> None:
    about = "start an execution from a recorded prefix of another one"
    parser = add_command(commands, "fork", fork, about, engine=True)
    parser.add_argument("source", metavar="ID", help="the other execution, in any status; it does not change")
    parser.add_argument(
        "--before", type=step_name_or_number, required=True, metavar="STEP",
        help="the first step that runs again: its number, or a name for the first step of that name",
    )  # fmt: skip
    parser.add_argument("--id", metavar="NEW", help="the new execution's id")
    add_input(parser, "a different input")
    about = "set a key of the state; may be repeated"
    parser.add_argument("--state", action="append", default=[], metavar="KEY=JSON", help=about)
    parser.add_argument("--version", metavar="V", help="run this saved version of the workflow")
    parser.add_argument(
        "--allow-reacquire", action="store_true",
        help="fork also inside a lock, a child or a compensation scope, which is then acquired or run again",
    )  # fmt: skip
    add_wait(parser)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Start an execution, or attach to the one with the given id, and wait for it."""
    if args.local and args.detach:
        raise UsageError("--detach needs a cluster: with --local the execution ends with this process")
    target = find_target(args.target, store_url(args.store))
    positional, keywords = inputs.arguments(target.definition, inputs.read_input(args.input))
    with watch_engine(args, screen) as watch:
        engine = watch.engine
        known = args.id is not None and _exists(watch, args.id)
        handle = engine.start(target.start.options(**_options(args)), *positional, **keywords)
        with watch.explain_state(handle.id):
            record = watch.record(handle.id)
            screen.note(f"execution {handle.id} of workflow {record.workflow_id}{' already exists' if known else ''}")
            if record.status is ExecutionStatus.PENDING and (record.runnable_at or 0.0) > time.time():
                screen.note(f"the execution starts at {time_text(record.runnable_at, screen.style())}")
            if known and record.status in _UNFINISHED:  # it may be interrupted
                engine.resume(handle.id)
            if not args.detach:
                return watch.finish(handle.id)
        screen.note(f"to wait for the result: {command_line(args, 'wait', handle.id)}")
        return watch.report(handle.id, handle.id)


def _exists(watch: ExecutionWatch, execution_id: str) -> bool:
    try:
        watch.record(execution_id)
    except ExecutionNotFound:
        return False
    return True


def _options(args: argparse.Namespace) -> StartOptions:
    names = ("priority", "checkpoints", "delay", "start_at", "singleton")
    given = {name: getattr(args, name) for name in names}
    return cast("StartOptions", {"id": args.id, **{name: value for name, value in given.items() if value is not None}})


def wait(args: argparse.Namespace, screen: Screen) -> int:
    """Wait for an existing execution."""
    with watch_engine(args, screen) as watch:
        watch.record(args.id)
        return watch.finish(args.id)


def resume(args: argparse.Namespace, screen: Screen) -> int:
    """Resume an execution."""
    with watch_engine(args, screen) as watch:
        watch.engine.resume(args.id)
        return watch.finish(args.id) if args.wait or args.local else watch.report(args.id, f"{args.id} is resumed")


def recover(args: argparse.Namespace, screen: Screen) -> int:
    """Resume all unfinished executions of the store that no coordinator drives."""
    with watch_engine(args, screen, recover=False) as watch:
        ids = watch.engine.recovery.recover_stale(older_than=args.older_than)
        if not (args.wait or args.local):
            screen.result("\n".join(ids) or "nothing to recover", {"recovered": ids})
            return COMPLETED
        code, text, documents = watch.finish_all(ids)
        screen.result(text or "nothing to recover", {"recovered": ids, "executions": documents})
        return code


def pause(args: argparse.Namespace, screen: Screen) -> int:
    """Pause an execution."""
    with watch_engine(args, screen) as watch:
        ensure_driven(watch.engine, args)
        watch.engine.pause(args.id, reason=args.reason)
        return _report_status(watch, args.id)


def cancel(args: argparse.Namespace, screen: Screen) -> int:
    """Cancel an execution."""
    with watch_engine(args, screen) as watch:
        ensure_driven(watch.engine, args)
        watch.engine.cancel(args.id, reason=args.reason)
        if args.local:  # only this process can run its compensations
            watch.wait(args.id)
            return _report_status(watch, args.id)
        status = watch.record(args.id).status
        return watch.report(args.id, f"cancellation of {args.id} requested (status: {status})")


def ensure_driven(engine: Engine, args: argparse.Namespace) -> None:
    """Resume an unfinished execution with ``--local``, where no other process reads its inbox."""
    if args.local and backend_of(engine).record(args.id).status in _UNFINISHED:
        engine.resume(args.id)


def _report_status(watch: ExecutionWatch, execution_id: str) -> int:
    return watch.report(execution_id, f"{execution_id} is {watch.record(execution_id).status}")


def signal(args: argparse.Namespace, screen: Screen) -> int:
    """Send a signal; a local execution receives it in this process and continues until it waits again."""
    given = inputs.read_input(args.payload, "--payload")
    with watch_engine(args, screen) as watch:
        engine = watch.engine
        _apply_environment(watch.record(args.id))
        ensure_driven(engine, args)
        sent = backend_of(engine).clock.now()
        try:
            engine.signal(args.id, args.name, None if given is inputs.MISSING else given, key=args.key)
        except CodecError as error:  # the payload is not what the execution waits for
            raise UsageError(str(error)) from error
        if args.wait:
            return watch.finish(args.id)
        if args.local:
            return _report_receipt(watch, screen, args, sent)
        return watch.report(args.id, f"signal {args.name} for {args.id} is accepted")


def _apply_environment(record: ExecutionRecord) -> None:
    """Make the execution's code importable, so that a payload is checked here against the class that it must have."""
    known = environment.Environment.from_json(record.environment)
    if not known.working_dir:  # the paths of a submitted job are those of its package
        environment.apply(known)


def _report_receipt(watch: ExecutionWatch, screen: Screen, args: argparse.Namespace, sent: float) -> int:
    """Print where the execution waits or ended after a signal."""
    with watch.explain_state(args.id):
        record = watch.wait(args.id, until=watch.deadline())
    for letter in watch.engine.dead_letters.list(execution=args.id):
        if letter.kind == "signal" and letter.name == args.name and letter.at >= sent:
            show = command_line(args, "dlq", "show", args.id, str(letter.step))
            screen.note(f"the payload does not fit what {args.id} waits for and is now a dead letter: {show}")
    actions = blocked_by(watch.engine, record).actions if record.status is ExecutionStatus.RUNNING else ()
    status = f"waits for {describe_actions(args.id, actions)}" if actions else f"is {record.status}"
    return watch.report(args.id, f"signal {args.name} is accepted; {args.id} {status}")


def fork(args: argparse.Namespace, screen: Screen) -> int:
    """Start a fork of an execution."""
    state = inputs.read_pairs(args.state, "--state")
    positional, keywords = _fork_arguments(args)
    with watch_engine(args, screen) as watch:
        handle = watch.engine.fork(
            args.source,
            before=args.before,
            id=args.id,
            args=positional,
            kwargs=keywords,
            state=state,
            workflow=_fork_version(watch, args),
            allow_reacquire=args.allow_reacquire,
        )
        with watch.explain_state(handle.id):
            screen.note(f"execution {handle.id} is a fork of {args.source} before step {args.before}")
            if args.wait or args.local:
                return watch.finish(handle.id)
        screen.note(f"to wait for the result: {command_line(args, 'wait', handle.id)}")
        return watch.report(handle.id, handle.id)


def _fork_version(watch: ExecutionWatch, args: argparse.Namespace) -> SavedWorkflow | None:
    """Return the requested version of the workflow; None for the version of the source."""
    return None if args.version is None else SavedWorkflow(watch.record(args.source).workflow_id, args.version)


def _fork_arguments(args: argparse.Namespace) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """Return the new arguments, checked before an engine opens; None for those of the source."""
    value = inputs.read_input(args.input)
    if value is inputs.MISSING:
        return None, None
    return inputs.arguments(_fork_definition(args), value)


def _fork_definition(args: argparse.Namespace) -> AnyWorkflow | None:
    """Return the workflow that the fork runs; None if its code cannot be loaded here."""

    async def query(store: Store) -> tuple[bytes, str, bytes]:
        record = await store.execution(args.source)
        if record is None:
            raise ExecutionNotFound(args.source)
        saved = None if args.version is None else await store.definition(record.workflow_id, args.version)
        code, found_in = (record if saved is None else saved).code, (record if saved is None else saved).environment
        digest = json.loads(code)["digest"]
        return code, found_in, (await store.blob(digest) or b"") if digest else b""

    return load_saved(*read_store(store_url(args.store), query))
