"""``dlq list``, ``show``, ``requeue`` and ``discard``: steps that used up their attempts.

``list`` and ``show`` read the store and nothing else; payloads are only described, as in ``looking``.
"""

from __future__ import annotations

import argparse

from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.open_engine import command, open_engine
from rayflow.cli.reader import read, store_url
from rayflow.cli.screen import Screen
from rayflow.cli.watch import following, wait_and_conclude
from rayflow.client.dead_letters import DeadLetterInfo, infos, letter_info
from rayflow.client.engine import backend_of
from rayflow.client.views import summary
from rayflow.display import letter_json, letter_text, letters_text, summary_json
from rayflow.errors import DeadLetterNotFound
from rayflow.storage.base import Store
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.damage import readable


def list_letters(args: argparse.Namespace, screen: Screen) -> int:
    """The store's dead letters, newest first."""

    async def look(store: Store) -> list[DeadLetterInfo]:
        letters = await store.dead_letters(execution_id=args.execution, workflow_id=args.workflow, limit=args.limit)
        ids = dict.fromkeys(letter.execution_id for letter in letters)
        return infos(letters, [await store.execution(name) for name in ids], MsgpackCodec().describe)

    found = read(store_url(args.store), look)
    screen.answer(letters_text(found, screen.style()), [letter_json(one) for one in found])
    return COMPLETED


def show(args: argparse.Namespace, screen: Screen) -> int:
    """One dead letter, and what can be done about it."""

    async def look(store: Store) -> DeadLetterInfo:
        letters = await store.dead_letters(execution_id=args.id, step=args.step)
        record = await store.execution(args.id)
        if not letters or record is None:
            raise DeadLetterNotFound(args.id, args.step)
        entries, _ = readable(args.id, await store.journal(args.id), record.last_seq)
        return letter_info(letters[0], record, MsgpackCodec().describe, entries)

    found = read(store_url(args.store), look)
    screen.answer(letter_text(found, screen.style()), letter_json(found))
    names = ["discard"] if found.handled else ["requeue", "discard"]
    commands = [f"to {name} it: {command(args, 'dlq', name, args.id, str(args.step))}" for name in names]
    screen.say("; ".join(commands))
    return COMPLETED


def requeue(args: argparse.Namespace, screen: Screen) -> int:
    """Try a step again and let its execution go on; a local one needs this process, so it is waited for."""
    with following(lambda: open_engine(args), screen, args) as (engine, follower):
        engine.dead_letters.requeue(args.id, args.step)
        if args.wait or args.local:
            return wait_and_conclude(engine, follower, screen, args, args.id)
        screen.answer(
            f"step {args.step} of {args.id} is tried again, and {args.id} goes on",
            summary_json(summary(backend_of(engine).record(args.id))),
        )
        return COMPLETED


def discard(args: argparse.Namespace, screen: Screen) -> int:
    """Delete a dead letter; its execution stays as it is."""
    with following(lambda: open_engine(args), screen, args) as (engine, _):
        engine.dead_letters.discard(args.id, args.step)
        text = f"the dead letter of step {args.step} of {args.id} is discarded"
        screen.answer(text, {"execution_id": args.id, "step": args.step, "discarded": True})
        return COMPLETED
