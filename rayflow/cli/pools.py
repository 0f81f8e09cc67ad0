"""Commands ``pool list``, ``create``, ``scale``, ``drain`` and ``delete``: worker pools of a cluster."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rayflow.cli.exit_codes import COMPLETED, STOPPED_WAITING, UsageError
from rayflow.cli.open_engine import command_line, open_engine
from rayflow.cli.options import (
    Command,
    Commands,
    add_address,
    add_command,
    add_group,
    add_timeout,
    amount,
    count,
    json_object,
    rate,
    seconds,
    whole,
)
from rayflow.cli.screen import Screen
from rayflow.client.engine import Engine
from rayflow.core.cluster.metrics import PoolStatus
from rayflow.definition.options import PoolConfig
from rayflow.definition.setup import setup_reference
from rayflow.display import duration_text, to_json
from rayflow.display.formatting import PLAIN, Column, Style, one_line, plural, table

#: Options of ``pool create`` by group: flag, field of PoolConfig ("" if named as the flag), type, metavar, help.
_OPTIONS: dict[str, Sequence[tuple[str, str, Callable[[str], Any], str, str]]] = {
    "size, in each code environment": (
        ("--workers", "", whole, "N", "number of workers; default 4"),
        ("--concurrency", "", count, "N", "slots of a worker: tasks that it runs at once; default 4"),
        ("--min-workers", "", whole, "N", "scale with the queue, to at least N workers"),
        ("--max-workers", "", count, "N", "scale with the queue, to at most N workers"),
        ("--idle-timeout", "", seconds, "S", "stop a surplus worker after S idle seconds; default 30"),
    ),
    "limits": (
        ("--queue-limit", "", count, "N", "at most N waiting tasks; default unlimited"),
        ("--max-ray-tasks", "", count, "N", "at most N steps at once that run as Ray tasks; default 100"),
        ("--rate", "rate_limit", rate, "N/SECONDS", "at most N task starts in SECONDS, such as 50/1"),
    ),
    "each worker": (
        ("--num-cpus", "", amount, "X", "CPUs that Ray reserves; default 0.01"),
        ("--num-gpus", "", amount, "X", "GPUs that Ray reserves; default 0"),
        ("--memory", "", count, "BYTES", "memory that Ray reserves"),
        ("--resources", "", json_object, "JSON", "custom resources that Ray reserves, as an object"),
        ("--runtime-env", "", json_object, "JSON", "Ray runtime environment, merged into the code environment"),
        ("--setup", "", str, "MODULE:FUNCTION", "called once before the worker runs tasks"),
        ("--max-tasks", "max_tasks_per_worker", count, "N", "replace a worker after N tasks; default never"),
        ("--drain-timeout", "", amount, "S", "seconds to finish tasks when the worker stops; default 300"),
        ("--stop-grace", "", amount, "S", "seconds that a cancelled step may take to end; default 5"),
        ("--start-timeout", "", seconds, "S", "seconds to start, including the setup; default 600"),
    ),
}


def add_commands(commands: Commands) -> None:
    """Add ``pool``."""
    actions = add_group(commands, "pool", "list, create, scale, drain or delete worker pools")
    _add(actions, "list", list_pools, "list pools with their workers and queues")
    parser = _add(actions, "create", create, "create a pool", "name")
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for flag, field, kind, metavar, about in options:
            dest = field or flag.removeprefix("--").replace("-", "_")
            group.add_argument(flag, dest=dest, type=kind, metavar=metavar, help=about)
    parser = _add(actions, "scale", scale, "change the size of a running pool; no task is lost", "name")
    parser.add_argument("workers", type=whole, nargs="?", metavar="N", help="workers in each code environment")
    parser.add_argument("--min", dest="min_workers", type=whole, metavar="N", help="scale with the queue: at least N")
    parser.add_argument("--max", dest="max_workers", type=count, metavar="N", help="scale with the queue: at most N")
    parser = _add(actions, "drain", drain, "stop the workers of a pool once their tasks have finished", "name")
    add_timeout(parser, "the workers continue to stop")
    parser = _add(actions, "delete", delete, "delete a pool and its workers", "name")
    parser.add_argument("--force", action="store_true", help="delete the pool even if it has waiting or running tasks")


def _add(actions: Commands, action: str, command: Command, about: str, *positional: str) -> argparse.ArgumentParser:
    parser = add_command(actions, action, command, about, *positional)
    add_address(parser)
    parser.add_argument("--local", action="store_true", help=argparse.SUPPRESS)  # to explain why it is not possible
    return parser


def list_pools(args: argparse.Namespace, screen: Screen) -> int:
    """List the pools by name, with their current status."""
    with _engine(args) as engine:
        found = engine.pools.list()
    screen.result(pools_text(found, screen.style()), to_json(found))
    return COMPLETED


def create(args: argparse.Namespace, screen: Screen) -> int:
    """Create a pool; an existing pool with the same settings does not change."""
    config = _config(args)
    with _engine(args) as engine:
        now = engine.pools.create(config).status()
    if now.config.bounds != config.bounds:
        low, high = map(str, config.bounds)
        size = [low] if pool_size_text(config) == low else ["--min", low, "--max", high]
        scale_command = command_line(args, "pool", "scale", args.name, *size)
        screen.note(f"pool {args.name} exists already with another size; to change the size: {scale_command}")
    screen.result(
        f"pool {args.name} has {_size(now)}, with {plural(now.config.concurrency, 'slot')} each", to_json(now)
    )
    return COMPLETED


def _config(args: argparse.Namespace) -> PoolConfig:
    """Return the configuration of the options, checked before a cluster is started."""
    given = {name: getattr(args, name) for name in PoolConfig.model_fields if getattr(args, name, None) is not None}
    config = PoolConfig(**given)
    if config.setup is not None:
        setup_reference(config.setup)
    return config


def scale(args: argparse.Namespace, screen: Screen) -> int:
    """Change the size of a running pool."""
    if (args.workers is None) == (args.min_workers is None and args.max_workers is None):
        raise UsageError(
            "give either the number of workers (rayflow pool scale NAME 4), or --min, --max or both for a pool that "
            "scales with its queue"
        )
    if None not in (args.min_workers, args.max_workers) and args.min_workers > args.max_workers:
        raise UsageError(f"--max ({args.max_workers}) must be at least --min ({args.min_workers})")
    with _engine(args) as engine:
        pool = engine.pools.get(args.name)
        pool.scale(args.workers, min_workers=args.min_workers, max_workers=args.max_workers)
        now = pool.status()
    screen.result(f"pool {args.name} is scaled to {_size(now)}", to_json(now))
    return COMPLETED


def drain(args: argparse.Namespace, screen: Screen) -> int:
    """Stop the workers of a pool once their tasks have finished, and wait for that."""
    with _engine(args) as engine:
        pool = engine.pools.get(args.name)
        empty = pool.drain(args.timeout)
        now = pool.status()
    if not empty:
        left = plural(now.workers + now.starting, "worker")
        screen.error(f"stopped waiting; pool {args.name!r} still has {left}, stopping after their tasks")
        screen.result(pools_text([now], screen.style()), to_json(now))
        return STOPPED_WAITING
    waiting = f", and {now.queued} tasks wait" if now.queued else ""
    screen.result(f"pool {args.name} has no workers{waiting}", to_json(now))
    screen.note(f"to start workers: {command_line(args, 'pool', 'scale', args.name, 'N')}")
    return COMPLETED


def delete(args: argparse.Namespace, screen: Screen) -> int:
    """Delete a pool and its workers."""
    with _engine(args) as engine:
        engine.pools.get(args.name).delete(force=args.force)
    screen.result(f"pool {args.name} is deleted", {"name": args.name, "deleted": True})
    return COMPLETED


@contextlib.contextmanager
def _engine(args: argparse.Namespace) -> Iterator[Engine]:
    if args.local:
        raise UsageError(
            "a pool belongs to a cluster, and with --local it would end with this command. Omit --local, or set "
            "RAYFLOW_POOL for the workers of `rayflow run --local`"
        )
    with open_engine(args, recover=False) as engine:
        yield engine


def pools_text(pools: Sequence[PoolStatus], style: Style = PLAIN) -> str:
    """Return the status of worker pools as a table, in the order given."""
    return table(_POOLS, pools, style) if pools else "no worker pools"


def pool_size_text(config: PoolConfig) -> str:
    """Return the workers of a pool in each code environment; "least-most" if the pool scales with its queue.

    Example:
        >>> pool_size_text(PoolConfig(workers=4)), pool_size_text(PoolConfig(max_workers=8))
        ('4', '0-8')
    """
    low, high = config.bounds
    scales = config.min_workers is not None or config.max_workers is not None
    return f"{low}-{high}" if scales else str(low)


def _size(now: PoolStatus) -> str:
    size = pool_size_text(now.config)
    return f"{size} worker{'' if size == '1' else 's'} in each code environment"


def _workers(pool: PoolStatus) -> str:
    others = [f"{count} {state}" for state, count in (("starting", pool.starting), ("leaving", pool.leaving)) if count]
    return f"{pool.workers} of {pool.wanted}" + (f" ({', '.join(others)})" if others else "")


_POOLS: Sequence[Column[PoolStatus]] = (
    Column("NAME", lambda pool, style: pool.name, least=8),
    Column("WORKERS", lambda pool, style: _workers(pool), least=12),
    Column("PER ENVIRONMENT", lambda pool, style: pool_size_text(pool.config)),
    Column("BUSY SLOTS", lambda pool, style: f"{pool.busy} of {pool.busy + pool.idle}", right=True),
    Column("QUEUED", lambda pool, style: f"{pool.queued:,}{' (full)' if pool.full else ''}", right=True),
    Column("OLDEST", lambda pool, style: duration_text(pool.oldest_waiting) if pool.queued else "", right=True),
    Column("PROBLEM", lambda pool, style: one_line(pool.problem), least=12),
)
