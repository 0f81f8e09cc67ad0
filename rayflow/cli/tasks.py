"""``tasks``: every attempt of an execution. Without a cluster it reads the store and nothing else."""

from __future__ import annotations

import argparse
import time

from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.open_engine import has_cluster, open_engine
from rayflow.cli.reader import read, store_url
from rayflow.cli.screen import Screen
from rayflow.core.execution.snapshot import TaskStatus, tasks_of
from rayflow.display import task_json, tasks_text
from rayflow.errors import ExecutionNotFound
from rayflow.storage.base import Store
from rayflow.storage.damage import entries_of


def tasks(args: argparse.Namespace, screen: Screen) -> int:
    """Every attempt: where it is, who runs it or ran it, since when, and how it failed."""
    url = store_url(args.store)
    if has_cluster(args):
        with open_engine(args, recover=False) as engine:
            found = engine.tasks(args.id)
    else:
        found = _stored(url, args.id)
    screen.answer(tasks_text(found, screen.style(time.time())), [task_json(task) for task in found])
    return COMPLETED


def _stored(url: str, execution_id: str) -> list[TaskStatus]:
    """As the journal tells them: what has not ended, waits, since nobody runs it."""

    async def look(store: Store) -> list[TaskStatus]:
        record = await store.execution(execution_id)
        if record is None:
            raise ExecutionNotFound(execution_id)
        return tasks_of(entries_of(record, await store.journal(execution_id)), {})

    return read(url, look)
