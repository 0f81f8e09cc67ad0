"""``pool list``, ``create``, ``scale``, ``drain`` and ``delete``: worker pools of a cluster."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from rayflow.cli.exit_codes import COMPLETED, STOPPED_WAITING, UsageError
from rayflow.cli.open_engine import command, open_engine
from rayflow.cli.screen import Screen
from rayflow.client.engine import Engine
from rayflow.core.cluster.metrics import PoolStatus
from rayflow.definition.options import PoolConfig
from rayflow.definition.setup import setup_reference
from rayflow.display import pool_json, pool_size_text, pools_text

#: Options of ``pool create`` that are fields of PoolConfig as they are.
_PLAIN = (
    "workers", "concurrency", "min_workers", "max_workers", "idle_timeout", "queue_limit", "num_cpus", "num_gpus",
    "memory", "setup", "drain_timeout", "stop_grace", "start_timeout", "max_ray_tasks",
)  # fmt: skip


def list_pools(args: argparse.Namespace, screen: Screen) -> int:
    """What each pool does now, by name."""
    with _engine(args) as engine:
        found = engine.pools.list()
    screen.answer(pools_text(found, screen.style()), [pool_json(pool) for pool in found])
    return COMPLETED


def create(args: argparse.Namespace, screen: Screen) -> int:
    """Make a pool; one of that name with the same settings stays as it is."""
    config = _config(args)
    with _engine(args) as engine:
        now = engine.pools.create(config).status()
    if now.config.bounds != config.bounds:
        screen.say(
            f"it was there before, with another size; to change that: {command(args, *_scale_words(config, args.name))}"
        )
    screen.answer(f"pool {args.name} has {_workers(now)}, for {now.config.concurrency} tasks each", pool_json(now))
    return COMPLETED


def scale(args: argparse.Namespace, screen: Screen) -> int:
    """Change a pool's size while it runs."""
    if (args.workers is None) == (args.min_workers is None and args.max_workers is None):
        raise UsageError(
            "give either the number of workers (rayflow pool scale NAME 4), or --min or --max or both, between which "
            "the pool scales itself"
        )
    if None not in (args.min_workers, args.max_workers) and args.min_workers > args.max_workers:
        raise UsageError(f"--max ({args.max_workers}) must be at least --min ({args.min_workers})")
    with _engine(args) as engine:
        pool = engine.pools.get(args.name)
        pool.scale(args.workers, min_workers=args.min_workers, max_workers=args.max_workers)
        now = pool.status()
    screen.answer(f"pool {args.name} has {_workers(now)} from now on", pool_json(now))
    return COMPLETED


def drain(args: argparse.Namespace, screen: Screen) -> int:
    """Stop a pool's workers once their tasks are done, and wait for that."""
    with _engine(args) as engine:
        pool = engine.pools.get(args.name)
        empty = pool.drain(args.timeout)
        now = pool.status()
    if not empty:
        left = now.workers + now.starting
        screen.error(
            f"stopped waiting; {left} worker{'' if left == 1 else 's'} of pool {args.name!r} "
            f"{'has' if left == 1 else 'have'} still to stop, and will once the tasks are done"
        )
        screen.answer(pools_text([now], screen.style()), pool_json(now))
        return STOPPED_WAITING
    waiting = f", and {now.queued} tasks wait" if now.queued else ""
    screen.answer(f"pool {args.name} has no worker any more{waiting}", pool_json(now))
    screen.say(f"to have some again: {command(args, 'pool', 'scale', args.name, 'N')}")
    return COMPLETED


def delete(args: argparse.Namespace, screen: Screen) -> int:
    """Delete a pool with its workers."""
    with _engine(args) as engine:
        engine.pools.get(args.name).delete(force=args.force)
    screen.answer(f"pool {args.name} is deleted", {"name": args.name, "deleted": True})
    return COMPLETED


@contextlib.contextmanager
def _engine(args: argparse.Namespace) -> Iterator[Engine]:
    """The engine of a cluster."""
    if args.local:
        raise UsageError(
            "a pool lives on a cluster: with --local it would end with this command. Leave out --local, or set "
            "RAYFLOW_POOL for the workers of `rayflow run --local`"
        )
    with open_engine(args, recover=False) as engine:
        yield engine


def _workers(now: PoolStatus) -> str:
    size = pool_size_text(now.config)
    return f"{size} worker{'' if size == '1' else 's'}"


def _scale_words(config: PoolConfig, name: str) -> list[str]:
    low, high = config.bounds
    size = [str(low)] if pool_size_text(config) == str(low) else ["--min", str(low), "--max", str(high)]
    return ["pool", "scale", name, *size]


# --- options ----------------------------------------------------------------------------------------------
def _config(args: argparse.Namespace) -> PoolConfig:
    """The configuration that the options ask for, checked before any cluster is started for it."""
    given: dict[str, Any] = {name: getattr(args, name) for name in _PLAIN}
    given |= {"rate_limit": args.rate, "max_tasks_per_worker": args.max_tasks}
    given |= {name: _object(name, getattr(args, name)) for name in ("resources", "runtime_env")}
    config = PoolConfig(name=args.name, **{name: value for name, value in given.items() if value is not None})
    if config.setup is not None:
        setup_reference(config.setup)
    return config


def _object(name: str, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    option = f"--{name.replace('_', '-')}"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{option} is not JSON: {error.msg} in column {error.colno} of {text!r}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{option} needs a JSON object with names and values, such as '{{\"a\": 1}}', not {text}")
    return value
