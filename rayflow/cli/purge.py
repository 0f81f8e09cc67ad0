"""Command ``purge``: delete finished executions."""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid

from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.open_engine import has_cluster, open_engine, read_store, store_url
from rayflow.cli.options import Commands, add_command, add_workflow, duration
from rayflow.cli.screen import Screen
from rayflow.client.retention import PurgePasses, PurgeResult, select
from rayflow.display import size_text, to_json
from rayflow.display.formatting import plural
from rayflow.errors import StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.runtime.store.actor import FRESH_FOR
from rayflow.storage.base import Store
from rayflow.storage.rules.large_values import GRACE
from rayflow.storage.rules.retention import PurgeFilter
from rayflow.storage.urls import open_store

#: Large values that are deleted between two heartbeats.
_VALUES = 20


def add_commands(commands: Commands) -> None:
    """Add ``purge``."""
    about = "delete finished executions: those whose retention has expired, or those older than an age"
    parser = add_command(commands, "purge", purge, about, engine=True)
    age = "only executions that ended at least AGE ago: seconds, or with a unit such as 12h, 30d, 4w"
    parser.add_argument("--older-than", type=duration, metavar="AGE", help=age)
    finished = [str(status) for status in ExecutionStatus if status.terminal]
    parser.add_argument(
        "--status", action="append", default=[], choices=finished, help="only this status; may be repeated"
    )
    add_workflow(parser)
    parser.add_argument("--dry-run", action="store_true", help="count what would be deleted; opens no engine")


def purge(args: argparse.Namespace, screen: Screen) -> int:
    """Delete executions: in the store itself, or through the cluster that writes the store."""
    url = store_url(args.store)
    selected = select(args.older_than, args.status, args.workflow, time.time())
    if args.dry_run:
        deleted = read_store(url, lambda store: _delete(store, PurgePasses(selected, dry_run=True)))
    else:
        deleted = _purge(args, url, selected)
    done = "would be deleted" if deleted.dry_run else "deleted"
    screen.result(f"{plural(deleted.executions, 'execution')} {done} ({size_text(deleted.bytes)})", to_json(deleted))
    return COMPLETED


def _purge(args: argparse.Namespace, url: str, selected: PurgeFilter) -> PurgeResult:
    read_store(url, _exists)
    try:
        return asyncio.run(_purge_store(url, PurgePasses(selected, dry_run=False)))
    except _StoreInUseError as in_use:
        # Deleting starts no actors: a running cluster is asked only if another process writes the store.
        if not has_cluster(args):
            raise in_use.error from None
    with open_engine(args) as engine:
        return engine.purge(args.older_than, status=args.status, workflow=args.workflow)


class _StoreInUseError(Exception):
    """Another process writes the store."""

    def __init__(self, error: StorageUnavailable) -> None:
        super().__init__(str(error))
        self.error = error


async def _exists(store: Store) -> None:
    """Do nothing: opening the store for reading has shown that it exists."""


async def _purge_store(url: str, passes: PurgePasses) -> PurgeResult:
    store = open_store(url)
    await store.open()
    try:
        try:
            await store.claim_writer(f"purge/{uuid.uuid4().hex}", now=time.time(), fresh_for=FRESH_FOR)
        except StorageUnavailable as error:
            raise _StoreInUseError(error) from error
        deleted = await _delete(store, passes)
        values = 0
        while count := await store.collect_values(now=time.time(), grace=GRACE, limit=_VALUES):
            values += count
            await store.heartbeat(now=time.time())
        while (deleted.executions or values) and await store.reclaim():
            await store.heartbeat(now=time.time())
        return deleted
    finally:
        await store.close()


async def _delete(store: Store, passes: PurgePasses) -> PurgeResult:
    while passes.next is not None:
        passes.add(await store.collect(passes.next, dry_run=passes.dry_run))
        if not passes.dry_run:
            await store.heartbeat(now=time.time())
    return passes.result
