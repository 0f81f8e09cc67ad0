"""Commands that read executions and workflows from the store: ``list``, ``show``, ``tasks`` and ``workflows``.

Payloads are described, not decoded: no class of the user is imported, and nothing is unpickled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Mapping, Sequence

from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.open_engine import command_line, has_cluster, open_engine, read_store, store_url
from rayflow.cli.options import Commands, add_command, add_limit, add_workflow
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
from rayflow.core.execution.snapshot import ExecutionSnapshot, TaskState, TaskStatus, tasks_of
from rayflow.display import (
    Detail,
    duration_text,
    failure_text,
    list_text,
    snapshot_text,
    summary_json,
    time_text,
    to_json,
    tree_text,
)
from rayflow.display.as_json import task_elapsed
from rayflow.display.formatting import PLAIN, Column, Style, one_line, table, worker_text
from rayflow.errors import ExecutionNotFound
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.damage import entries_of
from rayflow.storage.model import ExecutionRecord

#: Descendants and generations that a tree shows at most.
TREE_MOST, TREE_DEPTH = 500, 20


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(commands, "list", list_executions, "list executions, newest first")
    parser.add_argument("--status", choices=[str(status) for status in ExecutionStatus])
    add_workflow(parser)
    parser.add_argument("--parent", metavar="ID", help="only the children of this execution, in the order of its calls")
    parser.add_argument("--schedule", metavar="NAME", help="only executions that this schedule started")
    condition = "only executions that meet it, such as \"attr.customer = 'acme'\" (fields: docs/storage.md)"
    parser.add_argument("--where", metavar="CONDITION", help=condition)
    parser.add_argument("--after", metavar="CURSOR", help="the page after this cursor, which ended the page before")
    add_limit(parser)
    parser = add_command(commands, "show", show, "show one execution", "id")
    parser.add_argument("--tree", action="store_true", help="show all descendants as a tree")
    detail = parser.add_mutually_exclusive_group()
    detail.add_argument("--steps", action="store_true", help="all steps, not only the last ones")
    detail.add_argument("--full", action="store_true", help="all steps with their results and tracebacks")
    add_command(commands, "tasks", tasks, "show every attempt at an execution's steps", "id", engine=True)
    about = "list workflows and their versions, with the number of unfinished executions"
    add_command(commands, "workflows", workflows, about)


def list_executions(args: argparse.Namespace, screen: Screen) -> int:
    """List the executions of the store, newest first."""
    given = ("status", "workflow", "parent", "schedule", "where", "after", "limit")
    query = list_query(**{name: getattr(args, name) for name in given})
    page = page_of(read_store(store_url(args.store), lambda store: store.executions(query)), query)
    document = {"executions": [summary_json(one) for one in page], "next": page.next}
    screen.result(list_text(page, screen.style(time.time())), document)
    if page.next is not None and not screen.as_json:
        screen.note(f"more with --after {page.next}")
    return COMPLETED


def show(args: argparse.Namespace, screen: Screen) -> int:
    """Show one execution, with its children or all its descendants."""

    async def query(store: Store) -> tuple[ExecutionSnapshot, ExecutionTree | None]:
        record = await store.execution(args.id)
        if record is None:
            raise ExecutionNotFound(args.id)
        journal, notes = await store.journal(args.id), await store.notes(args.id)
        children = await store.executions(children_of(args.id))
        found = snapshot(record, journal, notes, children, MsgpackCodec().describe)
        return found, (await tree_of(store, record) if args.tree else None)

    found, tree = read_store(store_url(args.store), query)
    style = screen.style(time.time())
    detail: Detail = "full" if args.full else "steps" if args.steps else "brief"
    text = snapshot_text(found, style, detail=detail, children=tree is None)
    document = to_json(found)
    if tree is not None:
        text, document = f"{text}\n\n{tree_text(tree, style)}", {**document, "tree": to_json(tree)}
    screen.result(text, document)
    for awaited in () if screen.as_json else found.waiting_for:
        kind, _, name = awaited.partition(" ")
        if kind == "signal":
            screen.note(f"to send {awaited}: {command_line(args, 'signal', args.id, name, '--payload', 'JSON')}")
    return COMPLETED


async def tree_of(store: Store, root: ExecutionRecord) -> ExecutionTree:
    """Return an execution and its descendants, read level by level up to the limits."""
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
    below = tuple(_branch(child, children, cut) for child in children.get(record.id, ()))
    return ExecutionTree(summary(record), record.waiting_call, below, record.id in cut)


def tasks(args: argparse.Namespace, screen: Screen) -> int:
    """Show every attempt: from a running cluster with current workers, else from the store alone."""
    url = store_url(args.store)
    if has_cluster(args):
        with open_engine(args, recover=False) as engine:
            found = engine.tasks(args.id)
    else:
        found = _stored_tasks(url, args.id)
    screen.result(tasks_text(found, screen.style(time.time())), to_json(found))
    return COMPLETED


def _stored_tasks(url: str, execution_id: str) -> list[TaskStatus]:
    async def query(store: Store) -> list[TaskStatus]:
        record = await store.execution(execution_id)
        if record is None:
            raise ExecutionNotFound(execution_id)
        return tasks_of(entries_of(record, await store.journal(execution_id)), {})

    return read_store(url, query)


def tasks_text(tasks: Sequence[TaskStatus], style: Style = PLAIN) -> str:
    """Return attempts as a table, in the order given."""
    return table(_TASKS, tasks, style) if tasks else "no steps so far"


def _task_error(task: TaskStatus) -> str:
    # The failure of an earlier attempt does not belong to one that succeeded.
    return "" if task.status is TaskState.COMPLETED else failure_text(task.last_error)


def workflows(args: argparse.Namespace, screen: Screen) -> int:
    """List the saved workflows, and the number of unfinished executions of each version."""

    async def query(store: Store) -> list[WorkflowInfo]:
        return workflow_infos(await store.definitions(), await store.versions())

    found = read_store(store_url(args.store), query)
    screen.result(workflows_text(found, screen.style()), to_json(found))
    return COMPLETED


def workflows_text(infos: Sequence[WorkflowInfo], style: Style = PLAIN) -> str:
    """Return versions of workflows as a table."""
    return table(_WORKFLOWS, infos, style) if infos else "no workflows"


def _code(info: WorkflowInfo) -> str:
    if not info.code:
        return ""
    return f"{info.code['module']}:{info.code['qualname']}" + (" (by value)" if info.code["kind"] == "value" else "")


_TASKS: Sequence[Column[TaskStatus]] = (
    Column("STEP", lambda task, style: str(task.step), right=True),
    Column("NAME", lambda task, style: task.name, least=8),
    Column("ATTEMPT", lambda task, style: str(task.attempt), right=True),
    Column("STATUS", lambda task, style: str(task.status)),
    Column("WORKER", lambda task, style: worker_text(task.worker), least=8),
    Column("STARTED", lambda task, style: time_text(task.started_at, style)),
    Column("DURATION", lambda task, style: duration_text(task_elapsed(task, style.now)), right=True),
    Column("RETRIES", lambda task, style: str(task.retries), right=True),
    Column("ERROR", lambda task, style: _task_error(task), least=12),
)

_WORKFLOWS: Sequence[Column[WorkflowInfo]] = (
    Column("ID", lambda info, style: info.workflow_id, least=12),
    Column("VERSION", lambda info, style: info.version),
    Column("UNFINISHED", lambda info, style: str(info.unfinished), right=True),
    Column("SAVED", lambda info, style: "no" if info.saved_at is None else time_text(info.saved_at, style)),
    Column("CODE", lambda info, style: _code(info), least=12),
    Column("ABOUT", lambda info, style: one_line(info.description), least=12),
)
