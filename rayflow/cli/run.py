"""``run``, ``wait``, ``resume`` and ``recover``: commands that start executions or wait for them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, cast

from rayflow.cli import inputs
from rayflow.cli.blocked import rest_of, words_of
from rayflow.cli.exit_codes import COMPLETED, UsageError, code_for
from rayflow.cli.open_engine import command, open_engine
from rayflow.cli.reader import store_url
from rayflow.cli.screen import Screen
from rayflow.cli.targets import find_target
from rayflow.cli.watch import Follower, fate_told, following, wait_and_conclude
from rayflow.client.engine import Engine, backend_of
from rayflow.client.views import summary
from rayflow.definition.start_options import StartOptions
from rayflow.display import summary_json, time_text
from rayflow.errors import ExecutionNotFound
from rayflow.ids import ExecutionStatus
from rayflow.storage.damage import failure_or_damage
from rayflow.storage.model import ExecutionRecord

_UNDER_WAY = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Start an execution, or attach to the one of that id, and wait for it."""
    if args.local and args.detach:
        raise UsageError("--detach needs a cluster: with --local the execution ends with this process")
    target = find_target(args.target, store_url(args.store))
    positional, keywords = inputs.arguments(target.definition, inputs.read_input(args.input))
    with following(lambda: open_engine(args), screen, args) as (engine, follower):
        known = args.id is not None and _exists(engine, args.id)
        handle = engine.start(target.start.options(**_options(args)), *positional, **keywords)
        with fate_told(screen, args, handle.id):
            record = backend_of(engine).record(handle.id)
            screen.say(
                f"execution {handle.id} of workflow {record.workflow_id}{' was started before' if known else ''}"
            )
            if record.status is ExecutionStatus.PENDING and (record.runnable_at or 0.0) > time.time():
                screen.say(f"it begins at {time_text(record.runnable_at or 0.0, screen.style())}")
            if known:
                _take_up(engine, handle.id)
            if not args.detach:
                return wait_and_conclude(engine, follower, screen, args, handle.id)
        screen.say(f"to wait for it: {command(args, 'wait', handle.id)}")
        screen.answer(handle.id, summary_json(summary(backend_of(engine).record(handle.id))))
        return COMPLETED


def _exists(engine: Engine, execution_id: str) -> bool:
    try:
        backend_of(engine).record(execution_id)
    except ExecutionNotFound:
        return False
    return True


def _take_up(engine: Engine, execution_id: str) -> None:
    """Have an interrupted execution driven again; one that is driven, paused or over is left alone."""
    if backend_of(engine).record(execution_id).status in _UNDER_WAY:
        engine.resume(execution_id)


def _options(args: argparse.Namespace) -> StartOptions:
    names = ("priority", "checkpoints", "delay", "start_at", "singleton")
    given = {name: getattr(args, name) for name in names}
    return cast("StartOptions", {"id": args.id, **{name: value for name, value in given.items() if value is not None}})


def wait(args: argparse.Namespace, screen: Screen) -> int:
    """Wait for an execution that was started before."""
    with following(lambda: open_engine(args), screen, args) as (engine, follower):
        backend_of(engine).record(args.id)
        return wait_and_conclude(engine, follower, screen, args, args.id)


def resume(args: argparse.Namespace, screen: Screen) -> int:
    """Let an execution go on, and wait for it if asked to; a local one needs this process, so it is waited for."""
    with following(lambda: open_engine(args), screen, args) as (engine, follower):
        engine.resume(args.id)
        if args.wait or args.local:
            return wait_and_conclude(engine, follower, screen, args, args.id)
        document = summary_json(summary(backend_of(engine).record(args.id)))
        screen.answer(f"{args.id} goes on", document)
        return COMPLETED


def recover(args: argparse.Namespace, screen: Screen) -> int:
    """Take up all unfinished executions of the store that nobody drives."""
    with following(lambda: open_engine(args, recover=False), screen, args) as (engine, follower):
        ids = engine.recovery.recover_stale(older_than=args.older_than)
        if not (args.wait or args.local):
            screen.answer("\n".join(ids) or "nothing to recover", {"recovered": ids})
            return COMPLETED
        code, told, ended = wait_for_all(engine, follower, screen, args, ids)
        screen.answer(told or "nothing to recover", {"recovered": ids, "executions": ended})
        return code


def _line(engine: Engine, record: ExecutionRecord) -> str:
    """How an execution ended, or what it waits for."""
    failure = failure_or_damage(record)
    awaited = () if record.status.terminal else rest_of(engine, record).awaited
    waits = f"waits for {words_of(record.id, awaited)}" if awaited and failure is None else ""
    return "  ".join(filter(None, (record.id, str(record.status), "" if failure is None else failure.message, waits)))


def wait_for_all(
    engine: Engine, follower: Follower, screen: Screen, args: argparse.Namespace, ids: Sequence[str]
) -> tuple[int, str, list[dict[str, Any]]]:
    """Wait for executions, for ``args.timeout`` seconds at most.

    Returns:
        The exit code, how each ended in a line, and the same as JSON.
    """
    until = None if args.timeout is None else time.monotonic() + args.timeout
    codes, told, ended = [], [], []
    for execution_id in ids:
        with fate_told(screen, args, execution_id):
            record = follower.wait(execution_id, until=until)
        codes.append(code_for(record.status))
        told.append(_line(engine, record))
        ended.append(summary_json(summary(record)))
    # What went wrong counts for more than what merely is not over.
    return next((code for code in (1, 3, 4) if code in codes), COMPLETED), "\n".join(told), ended
