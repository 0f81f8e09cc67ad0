"""``fork``: an execution that takes over what another one recorded, and does the rest again."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rayflow.cli import inputs
from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.open_engine import command, open_engine
from rayflow.cli.reader import read, store_url
from rayflow.cli.screen import Screen
from rayflow.cli.targets import AnyWorkflow, load_saved
from rayflow.cli.watch import fate_told, following, wait_and_conclude
from rayflow.client.engine import Engine, backend_of
from rayflow.client.views import summary
from rayflow.definition.start_options import SavedWorkflow
from rayflow.display import summary_json
from rayflow.errors import ExecutionNotFound
from rayflow.storage.base import Store


def fork(args: argparse.Namespace, screen: Screen) -> int:
    """Start a fork; a local one needs this process, so it is waited for."""
    state = inputs.read_pairs(args.state, "--state")
    positional, keywords = _arguments(args)
    with following(lambda: open_engine(args), screen, args) as (engine, follower):
        handle = engine.fork(
            args.source,
            before=args.before,
            id=args.id,
            args=positional,
            kwargs=keywords,
            state=state,
            workflow=_version(engine, args),
            allow_reacquire=args.allow_reacquire,
        )
        with fate_told(screen, args, handle.id):
            step = f"step {args.before}" if isinstance(args.before, int) else args.before
            screen.say(f"execution {handle.id} is a fork of {args.source}, from {step} on")
            if args.wait or args.local:
                return wait_and_conclude(engine, follower, screen, args, handle.id)
        screen.say(f"to wait for it: {command(args, 'wait', handle.id)}")
        screen.answer(handle.id, summary_json(summary(backend_of(engine).record(handle.id))))
        return COMPLETED


def _version(engine: Engine, args: argparse.Namespace) -> SavedWorkflow | None:
    """Return the version of the workflow that is requested; None for the version of the source."""
    if args.version is None:
        return None
    return SavedWorkflow(backend_of(engine).record(args.source).workflow_id, args.version)


def _arguments(args: argparse.Namespace) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """The other arguments that are asked for, checked before an engine is made; None for those that there are."""
    value = inputs.read_input(args.input)
    if value is inputs.MISSING:
        return None, None
    return inputs.arguments(_definition(args), value)


def _definition(args: argparse.Namespace) -> AnyWorkflow | None:
    """The workflow that the fork runs, as far as its code is at hand."""

    async def look(store: Store) -> tuple[bytes, str, bytes]:
        record = await store.execution(args.source)
        if record is None:
            raise ExecutionNotFound(args.source)
        saved = None if args.version is None else await store.definition(record.workflow_id, args.version)
        code, environment = (record if saved is None else saved).code, (record if saved is None else saved).environment
        digest = json.loads(code)["digest"]
        return code, environment, (await store.blob(digest) or b"") if digest else b""

    return load_saved(*read(store_url(args.store), look))
