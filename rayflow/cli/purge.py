"""``purge``: delete executions that are over."""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from dataclasses import asdict

from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.open_engine import has_cluster, open_engine
from rayflow.cli.reader import read, store_url
from rayflow.cli.screen import Screen
from rayflow.client.retention import PurgePasses, PurgeResult, select
from rayflow.display import size_text
from rayflow.errors import StorageUnavailable
from rayflow.runtime.store.actor import FRESH_FOR
from rayflow.storage.base import Store
from rayflow.storage.rules.large_values import GRACE
from rayflow.storage.rules.retention import PurgeFilter
from rayflow.storage.urls import open_store

#: Large values that are deleted between two signs of life.
_VALUES = 20


def purge(args: argparse.Namespace, screen: Screen) -> int:
    """Delete what is meant: in the store itself, or through the cluster that writes it."""
    url = store_url(args.store)
    over = select(args.older_than, args.status, args.workflow, time.time())
    if args.dry_run:
        deleted = read(url, lambda store: _go_through(store, PurgePasses(over, dry_run=True)))
    else:
        deleted = _deleted(args, url, over)
    what = "execution" if deleted.executions == 1 else "executions"
    done = "would be deleted" if deleted.dry_run else "deleted"
    screen.answer(f"{deleted.executions} {what} {done} ({size_text(deleted.bytes)})", asdict(deleted))
    return COMPLETED


def _deleted(args: argparse.Namespace, url: str, over: PurgeFilter) -> PurgeResult:
    read(url, _is_there)
    try:
        return asyncio.run(_written(url, PurgePasses(over, dry_run=False)))
    except _TakenError as taken:
        # A cluster that runs is only asked if the store is somebody's: to delete, none needs actors for it.
        if not has_cluster(args):
            raise taken.error from None
    with open_engine(args) as engine:
        return engine.purge(args.older_than, status=args.status, workflow=args.workflow)


class _TakenError(Exception):
    """Somebody else writes the store."""

    def __init__(self, error: StorageUnavailable) -> None:
        super().__init__(str(error))
        self.error = error


async def _is_there(store: Store) -> None:
    """Nothing: who deletes makes no store."""


async def _written(url: str, rounds: PurgePasses) -> PurgeResult:
    store = open_store(url)
    await store.open()
    try:
        try:
            await store.claim_writer(f"purge/{uuid.uuid4().hex}", now=time.time(), fresh_for=FRESH_FOR)
        except StorageUnavailable as error:
            raise _TakenError(error) from error
        deleted = await _go_through(store, rounds)
        values = 0
        while count := await store.collect_values(now=time.time(), grace=GRACE, limit=_VALUES):
            values += count
            await store.heartbeat(now=time.time())
        while (deleted.executions or values) and await store.reclaim():
            await store.heartbeat(now=time.time())
        return deleted
    finally:
        await store.close()


async def _go_through(store: Store, rounds: PurgePasses) -> PurgeResult:
    while rounds.next is not None:
        rounds.add(await store.collect(rounds.next, dry_run=rounds.dry_run))
        if not rounds.dry_run:
            await store.heartbeat(now=time.time())
    return rounds.result
