"""``signal``: something for an execution that waits for a person, or for another program."""

from __future__ import annotations

import argparse
import time

from rayflow.cli.blocked import rest_of, words_of
from rayflow.cli.control import have_it_driven
from rayflow.cli.exit_codes import COMPLETED, UsageError
from rayflow.cli.inputs import MISSING, read_input
from rayflow.cli.open_engine import command, open_engine
from rayflow.cli.screen import Screen
from rayflow.cli.watch import Follower, fate_told, following, wait_and_conclude
from rayflow.client.engine import Engine, backend_of
from rayflow.client.views import summary
from rayflow.display import summary_json
from rayflow.errors import CodecError
from rayflow.ids import ExecutionStatus
from rayflow.runtime.code import environment
from rayflow.storage.model import ExecutionRecord


def signal(args: argparse.Namespace, screen: Screen) -> int:
    """Send a signal. A local execution needs this process to receive it, and goes on here as far as it can."""
    given = read_input(args.payload, "--payload")
    with following(lambda: open_engine(args), screen, args) as (engine, follower):
        _have_its_classes_found(backend_of(engine).record(args.id))
        have_it_driven(engine, args)
        sent = backend_of(engine).clock.now()
        try:
            engine.signal(args.id, args.name, None if given is MISSING else given, key=args.key)
        except CodecError as error:  # it is not what the execution waits for
            raise UsageError(str(error)) from error
        if args.wait:
            return wait_and_conclude(engine, follower, screen, args, args.id)
        if args.local:
            return _report_receipt(engine, follower, screen, args, sent)
        record = backend_of(engine).record(args.id)
        screen.answer(f"signal {args.name} of {args.id} is accepted", summary_json(summary(record)))
        return COMPLETED


def _have_its_classes_found(record: ExecutionRecord) -> None:
    """What the execution waits for may be a class of its code: with it at hand, a wrong payload is refused here."""
    known = environment.Environment.from_json(record.environment)
    if not known.working_dir:  # the paths of a submitted job are those of its package
        environment.apply(known)


def _report_receipt(engine: Engine, follower: Follower, screen: Screen, args: argparse.Namespace, sent: float) -> int:
    """Say how far the execution came by the signal."""
    until = None if args.timeout is None else time.monotonic() + args.timeout
    with fate_told(screen, args, args.id):
        record = follower.wait(args.id, until=until)
    for letter in engine.dead_letters.list(execution=args.id):
        if letter.kind == "signal" and letter.name == args.name and letter.at >= sent:
            where = command(args, "dlq", "show", args.id, str(letter.step))
            screen.say(f"its payload is not what {args.id} waits for; it is kept: {where}")
    awaited = rest_of(engine, record).awaited if record.status is ExecutionStatus.RUNNING else ()
    where = f"waits for {words_of(args.id, awaited)}" if awaited else f"is {record.status}"
    screen.answer(f"signal {args.name} is accepted; {args.id} {where}", summary_json(summary(record)))
    return COMPLETED
