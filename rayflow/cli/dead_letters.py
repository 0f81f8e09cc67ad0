"""Commands ``dlq list``, ``show``, ``requeue`` and ``discard``: steps that used up their attempts.

``list`` and ``show`` only read the store; payloads are described, not decoded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.open_engine import command_line, read_store, store_url
from rayflow.cli.options import Commands, add_command, add_group, add_limit, add_wait, add_workflow, dead_letter_number
from rayflow.cli.screen import Screen
from rayflow.cli.watch import watch_engine
from rayflow.client.dead_letters import DeadLetterInfo, FailedAttempt, infos, letter_info
from rayflow.display import duration_text, failure_text, time_text, to_json, value_text
from rayflow.display.as_json import input_of
from rayflow.display.formatting import PLAIN, Column, Style, facts_text, indented, table, worker_text
from rayflow.errors import DeadLetterNotFound
from rayflow.storage.base import Store
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.damage import readable


def add_commands(commands: Commands) -> None:
    """Add ``dlq``."""
    actions = add_group(commands, "dlq", "inspect, requeue or discard dead letters: steps that failed permanently")
    parser = add_command(actions, "list", list_dead_letters, "list dead letters, newest first")
    add_workflow(parser)
    parser.add_argument("--execution", metavar="ID", help="only dead letters of this execution")
    add_limit(parser)
    for name, command, about, engine in (
        ("show", show, "show a dead letter, with its input and all its attempts", False),
        ("requeue", requeue, "retry the step and resume its execution", True),
        ("discard", discard, "delete a dead letter; its execution does not change", True),
    ):
        parser = add_command(actions, name, command, about, engine=engine)
        parser.add_argument("id", metavar="EXECUTION", help="the execution's id")
        number = "the step's number; negative for a signal whose payload was rejected"
        parser.add_argument("step", metavar="STEP", type=dead_letter_number, help=number)
        if name == "requeue":
            add_wait(parser)


def list_dead_letters(args: argparse.Namespace, screen: Screen) -> int:
    """List the dead letters of the store, newest first."""

    async def query(store: Store) -> list[DeadLetterInfo]:
        letters = await store.dead_letters(execution_id=args.execution, workflow_id=args.workflow, limit=args.limit)
        ids = dict.fromkeys(letter.execution_id for letter in letters)
        return infos(letters, [await store.execution(name) for name in ids], MsgpackCodec().describe)

    found = read_store(store_url(args.store), query)
    screen.result(dead_letters_text(found, screen.style()), to_json(found))
    return COMPLETED


def show(args: argparse.Namespace, screen: Screen) -> int:
    """Show one dead letter, and the commands that resolve it."""

    async def query(store: Store) -> DeadLetterInfo:
        letters = await store.dead_letters(execution_id=args.id, step=args.step)
        record = await store.execution(args.id)
        if not letters or record is None:
            raise DeadLetterNotFound(args.id, args.step)
        entries, _ = readable(args.id, await store.journal(args.id), record.last_seq)
        return letter_info(letters[0], record, MsgpackCodec().describe, entries)

    found = read_store(store_url(args.store), query)
    screen.result(dead_letter_text(found, screen.style()), to_json(found))
    actions = ["discard"] if found.handled else ["requeue", "discard"]
    commands = [f"to {action}: {command_line(args, 'dlq', action, args.id, str(args.step))}" for action in actions]
    screen.note("; ".join(commands))
    return COMPLETED


def requeue(args: argparse.Namespace, screen: Screen) -> int:
    """Retry a step and resume its execution."""
    with watch_engine(args, screen) as watch:
        watch.engine.dead_letters.requeue(args.id, args.step)
        if args.wait or args.local:
            return watch.finish(args.id)
        return watch.report(args.id, f"step {args.step} of {args.id} is requeued, and {args.id} is resumed")


def discard(args: argparse.Namespace, screen: Screen) -> int:
    """Delete a dead letter; its execution does not change."""
    with watch_engine(args, screen) as watch:
        watch.engine.dead_letters.discard(args.id, args.step)
        text = f"the dead letter of step {args.step} of {args.id} is discarded"
        screen.result(text, {"execution_id": args.id, "step": args.step, "discarded": True})
        return COMPLETED


def dead_letters_text(letters: Sequence[DeadLetterInfo], style: Style = PLAIN) -> str:
    """Return dead letters as a table, in the order given."""
    return table(_DEAD_LETTERS, letters, style) if letters else "no dead letters"


def dead_letter_text(letter: DeadLetterInfo, style: Style = PLAIN) -> str:
    """Return one dead letter with the step's input and each failed attempt."""
    facts = {
        "execution": letter.execution_id,
        "step": f"{letter.step} {_label(letter)}",
        "workflow": letter.workflow_id,
        "failed": time_text(letter.at, style),
        "attempts": str(letter.attempts),
        "handled": "yes: the step did not fail the execution"
        if letter.handled
        else "no: the step failed the execution",
        "error": failure_text(letter.error),
    }
    parts = [facts_text(facts)]
    if letter.history:
        parts.append(table(_ATTEMPTS, letter.history, style))
    parts.append(value_text("input", input_of(letter), style))
    if letter.error.traceback:
        parts.append(indented("traceback", letter.error.traceback))
    return "\n\n".join(parts)


def _label(letter: DeadLetterInfo) -> str:
    return letter.name if letter.kind == "step" else f"{letter.kind} {letter.name}"


_DEAD_LETTERS: Sequence[Column[DeadLetterInfo]] = (
    Column("EXECUTION", lambda letter, style: letter.execution_id, least=12),
    Column("STEP", lambda letter, style: str(letter.step), right=True),
    Column("NAME", lambda letter, style: _label(letter), least=8),
    Column("WORKFLOW", lambda letter, style: letter.workflow_id, least=8),
    Column("ATTEMPTS", lambda letter, style: str(letter.attempts), right=True),
    Column("FAILED", lambda letter, style: time_text(letter.at, style)),
    Column("HANDLED", lambda letter, style: "yes" if letter.handled else "no"),
    Column("ERROR", lambda letter, style: failure_text(letter.error), least=12),
)

_ATTEMPTS: Sequence[Column[FailedAttempt]] = (
    Column("ATTEMPT", lambda one, style: str(one.attempt), right=True),
    Column("FAILED", lambda one, style: time_text(one.at, style)),
    Column("DURATION", lambda one, style: duration_text(None if one.began is None else one.at - one.began), right=True),
    Column("WORKER", lambda one, style: worker_text(one.worker), least=8),
    Column("COUNTS", lambda one, style: "yes" if one.counts else "no"),
    Column("ERROR", lambda one, style: failure_text(one.error), least=12),
)
