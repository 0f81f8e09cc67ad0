"""``list``, ``show`` and ``workflows``: they read the store and nothing else.

Payloads are only described: no class of the user's is imported, and nothing is unpickled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Mapping

from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.open_engine import command
from rayflow.cli.reader import read, store_url
from rayflow.cli.screen import Screen
from rayflow.client.views import (
    ExecutionTree,
    WorkflowInfo,
    children_of,
    list_query,
    page_of,
    snapshot,
    summary,
    workflow_infos,
)
from rayflow.core.execution.snapshot import ExecutionSnapshot
from rayflow.display import (
    Detail,
    list_text,
    snapshot_text,
    summary_json,
    to_json,
    tree_json,
    tree_text,
    workflow_json,
    workflows_text,
)
from rayflow.errors import ExecutionNotFound
from rayflow.storage.base import Filter, Store
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.model import ExecutionRecord

#: Descendants that a tree shows at most, and generations of them.
TREE_MOST, TREE_DEPTH = 500, 20


def list_executions(args: argparse.Namespace, screen: Screen) -> int:
    """The store's executions, newest first."""
    given = ("status", "workflow", "parent", "schedule", "where", "after", "limit")
    query = list_query(**{name: getattr(args, name) for name in given})

    async def look(store: Store) -> list[ExecutionRecord]:
        return await store.executions(query)

    page = page_of(read(store_url(args.store), look), query)
    document = {"executions": [summary_json(one) for one in page], "next": page.next}
    screen.answer(list_text(page, screen.style(time.time())), document)
    if page.next is not None and not screen.as_json:
        screen.say(f"more with --after {page.next}")
    return COMPLETED


def show(args: argparse.Namespace, screen: Screen) -> int:
    """One execution, with its children or, where it is asked for, all that came of them."""

    async def look(store: Store) -> tuple[ExecutionSnapshot, ExecutionTree | None]:
        record = await store.execution(args.id)
        if record is None:
            raise ExecutionNotFound(args.id)
        journal, notes = await store.journal(args.id), await store.notes(args.id)
        children = await store.executions(children_of(args.id))
        found = snapshot(record, journal, notes, children, MsgpackCodec().describe)
        return found, (await tree_of(store, record) if args.tree else None)

    found, tree = read(store_url(args.store), look)
    style = screen.style(time.time())
    detail: Detail = "full" if args.full else "steps" if args.steps else "brief"
    text = snapshot_text(found, style, detail=detail, children=tree is None)
    document = to_json(found)
    if tree is not None:
        text, document = f"{text}\n\n{tree_text(tree, style)}", {**document, "tree": tree_json(tree)}
    screen.answer(text, document)
    for awaited in () if screen.as_json else found.waiting_for:
        kind, _, name = awaited.partition(" ")
        if kind == "signal":
            screen.say(f"to send {awaited}: {command(args, 'signal', args.id, name, '--payload', 'JSON')}")
    return COMPLETED


async def tree_of(store: Store, root: ExecutionRecord) -> ExecutionTree:
    """An execution and its descendants, level by level until there are enough."""
    children: dict[str, list[ExecutionRecord]] = {}
    cut: set[str] = set()
    level, room = [root], TREE_MOST
    for depth in range(TREE_DEPTH + 1):
        below: list[ExecutionRecord] = []
        for parent in level:
            wanted = room if depth < TREE_DEPTH else 0
            found = await store.executions(Filter(parent=parent.id, limit=wanted + 1))
            if len(found) > wanted:
                cut.add(parent.id)
            children[parent.id] = found[:wanted]
            room -= len(children[parent.id])
            below += children[parent.id]
        level = below
    return _branch(root, children, cut)


def _branch(
    record: ExecutionRecord, children: Mapping[str, list[ExecutionRecord]], cut: Collection[str]
) -> ExecutionTree:
    grown = tuple(_branch(child, children, cut) for child in children.get(record.id, ()))
    return ExecutionTree(summary(record), record.waiting_call, grown, record.id in cut)


def workflows(args: argparse.Namespace, screen: Screen) -> int:
    """The saved workflows, and how many executions run each of their versions."""

    async def look(store: Store) -> list[WorkflowInfo]:
        return workflow_infos(await store.definitions(), await store.versions())

    found = read(store_url(args.store), look)
    screen.answer(workflows_text(found, screen.style()), [workflow_json(info) for info in found])
    return COMPLETED
