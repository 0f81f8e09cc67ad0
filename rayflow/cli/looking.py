"""``list``, ``show`` and ``workflows``: they read the store and nothing else.

Payloads are only described: no class of the user's is imported, and nothing is unpickled.
"""

from __future__ import annotations

import argparse
import time

from rayflow.cli.exits import COMPLETED
from rayflow.cli.reading import read, store_url
from rayflow.cli.screen import Screen
from rayflow.core.snapshot import ExecutionSnapshot
from rayflow.display import (
    Detail,
    list_text,
    snapshot_text,
    summary_json,
    to_json,
    workflow_json,
    workflows_text,
)
from rayflow.errors import ExecutionNotFound
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.codec import MsgpackCodec
from rayflow.storage.operations import ExecutionRecord
from rayflow.views import WorkflowInfo, children_of, snapshot, summary, workflow_infos


def list_executions(args: argparse.Namespace, screen: Screen) -> int:
    """The store's executions, newest first."""
    wanted = () if args.status is None else (ExecutionStatus(args.status),)

    async def look(store: Store) -> list[ExecutionRecord]:
        return await store.executions(Filter(status=wanted, workflow_id=args.workflow, limit=args.limit))

    found = [summary(record) for record in read(store_url(args.store), look)]
    screen.answer(list_text(found, screen.style(time.time())), [summary_json(one) for one in found])
    return COMPLETED


def show(args: argparse.Namespace, screen: Screen) -> int:
    """One execution."""

    async def look(store: Store) -> ExecutionSnapshot:
        record = await store.execution(args.id)
        if record is None:
            raise ExecutionNotFound(args.id)
        journal, notes = await store.journal(args.id), await store.notes(args.id)
        children = await store.executions(children_of(args.id))
        return snapshot(record, journal, notes, children, MsgpackCodec().describe)

    found = read(store_url(args.store), look)
    detail: Detail = "full" if args.full else "steps" if args.steps else "brief"
    screen.answer(snapshot_text(found, screen.style(time.time()), detail=detail), to_json(found))
    return COMPLETED


def workflows(args: argparse.Namespace, screen: Screen) -> int:
    """The saved workflows, and how many executions run each of their versions."""

    async def look(store: Store) -> list[WorkflowInfo]:
        return workflow_infos(await store.definitions(), await store.versions())

    found = read(store_url(args.store), look)
    screen.answer(workflows_text(found, screen.style()), [workflow_json(info) for info in found])
    return COMPLETED
