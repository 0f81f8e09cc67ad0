"""Engine or store that a command works on, and the command lines that messages suggest."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from rayflow.cli.exit_codes import UsageError
from rayflow.client.engine import Engine
from rayflow.errors import StorageUnavailable
from rayflow.runtime.cluster.local import running_address
from rayflow.storage.base import Store
from rayflow.storage.urls import open_store, parse, resolve

T = TypeVar("T")

#: Commands that only read the store.
_READING = frozenset(
    {"list", "show", "workflows", "dlq list", "dlq show", "lock list", "schedule list", "schedule show"}
)


def open_engine(args: argparse.Namespace, *, recover: bool | None = None) -> Engine:
    """Open the engine that the options ask for.

    Args:
        args: with ``local``, ``store``, ``address`` and ``take_over``.
        recover: whether the engine resumes unfinished executions when it opens. None for the engine's default on a
            cluster, and for False with ``--local``, where a resumed execution stops again when the command ends.
    """
    if args.local:
        from rayflow.client.local import LocalEngine

        return LocalEngine(store_url(args.store), take_over=args.take_over, recover=bool(recover))
    from rayflow.client.distributed import DistributedEngine

    options: dict[str, Any] = {} if recover is None else {"recover": recover}
    return DistributedEngine(store_url(args.store), address=args.address, take_over=args.take_over, **options)


def has_cluster(args: argparse.Namespace) -> bool:
    """Return whether a cluster is running that a command can ask without starting one."""
    return not args.local and bool(args.address or os.environ.get("RAY_ADDRESS") or running_address())


def command_line(args: argparse.Namespace, *words: str) -> str:
    """Return a rayflow command line on the same store and cluster.

    Example:
        >>> command_line(argparse.Namespace(local=True, store=None, address=None), "resume", "doc-17")
        'rayflow resume doc-17 --local'
    """
    options = []
    reads = words[0] in _READING or " ".join(words[:2]) in _READING
    if args.local and not reads:
        options.append("--local")
    if args.store:
        options += ["--store", args.store]
    if args.address and not reads:
        options += ["--address", args.address]
    return shlex.join(["rayflow", *words, *options])


def store_url(given: str | None) -> str:
    """Return the URL of the store: the given one, else ``RAYFLOW_STORE``, else a file in the user's data folder.

    Raises:
        UsageError: if it is not the URL of a store.
    """
    try:
        return resolve(given)
    except StorageUnavailable as error:
        raise UsageError(str(error)) from error


def read_store(url: str, query: Callable[[Store], Awaitable[T]]) -> T:
    """Run a query on a store that is opened read-only: nothing is started, created or changed.

    Raises:
        UsageError: if the store does not exist.
        StorageUnavailable: if the store cannot be read.
    """
    parsed = parse(url)
    if parsed.scheme == "memory":
        raise UsageError(
            "memory:// exists only in the process that created it and cannot be read by a command; name a store on "
            "disk with --store or RAYFLOW_STORE"
        )
    if parsed.scheme in ("sqlite", "file") and not Path(parsed.path).exists():
        raise UsageError(f"no store exists at {parsed.path}; name another one with --store or RAYFLOW_STORE")
    return asyncio.run(_read(url, query))


async def _read(url: str, query: Callable[[Store], Awaitable[T]]) -> T:
    store = open_store(url)
    await store.open(read_only=True)
    try:
        return await query(store)
    finally:
        await store.close()
