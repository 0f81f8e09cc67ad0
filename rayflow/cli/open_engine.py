"""The engine of a command, and the commands that it names when it says how to go on."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import Any

from rayflow.cli.reader import store_url
from rayflow.client.engine import Engine
from rayflow.runtime.cluster.local import running_address


def open_engine(args: argparse.Namespace, *, recover: bool | None = None) -> Engine:
    """The engine that the options ask for.

    Args:
        args: with ``local``, ``store``, ``address`` and ``take_over``.
        recover: whether opening it takes up unfinished executions. None for the engine's own way on a cluster,
            and for False with ``--local``: what is taken up there stops again when this command ends.
    """
    if args.local:
        from rayflow.client.local import LocalEngine

        return LocalEngine(store_url(args.store), take_over=args.take_over, recover=bool(recover))
    from rayflow.client.distributed import DistributedEngine

    options: dict[str, Any] = {} if recover is None else {"recover": recover}
    return DistributedEngine(store_url(args.store), address=args.address, take_over=args.take_over, **options)


def has_cluster(args: argparse.Namespace) -> bool:
    """Whether a command that only looks has a cluster to ask; it would start none."""
    return not args.local and bool(args.address or os.environ.get("RAY_ADDRESS") or running_address())


def command(args: argparse.Namespace, *words: str) -> str:
    """A rayflow command line on the same store and cluster.

    Example:
        >>> command(argparse.Namespace(local=True, store=None, address=None), "resume", "doc-17")
        'rayflow resume doc-17 --local'
    """
    options = []
    reads = words[0] in READING or " ".join(words[:2]) in READING
    if args.local and not reads:
        options.append("--local")
    if args.store:
        options += ["--store", args.store]
    if args.address and not reads:
        options += ["--address", args.address]
    return shlex.join(["rayflow", *words, *options])


#: Commands that read the store alone.
READING = frozenset(
    {"list", "show", "workflows", "dlq list", "dlq show", "lock list", "schedule list", "schedule show"}
)
