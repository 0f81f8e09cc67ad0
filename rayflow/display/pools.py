"""Worker pools as text for terminals and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayflow.core.cluster.metrics import PoolStatus
from rayflow.definition.options import PoolConfig
from rayflow.display.as_json import jsonable
from rayflow.display.formats import PLAIN, Style, duration_text, one_line
from rayflow.display.tables import Column, table, visible


def pools_text(pools: Sequence[PoolStatus], style: Style = PLAIN) -> str:
    """What worker pools do now, as a table, in the order given."""
    if not pools:
        return "no worker pools"
    columns = (
        Column("NAME", least=8), Column("WORKERS", least=12), Column("SIZE"), Column("SLOTS", right=True),
        Column("QUEUED", right=True), Column("OLDEST", right=True), Column("PROBLEM", least=12),
    )  # fmt: skip
    rows = [
        [
            visible(pool.name),
            _workers(pool),
            pool_size_text(pool.config),
            f"{pool.busy}/{pool.busy + pool.idle}",
            f"{pool.queued:,}{' (full)' if pool.full else ''}",
            duration_text(pool.oldest_waiting) if pool.queued else "",
            one_line(pool.problem),
        ]
        for pool in pools
    ]
    return "\n".join(table(columns, rows, style.width))


def _workers(pool: PoolStatus) -> str:
    rest = {"starting": pool.starting, "leaving": pool.leaving}
    told = [f"{count} {doing}" for doing, count in rest.items() if count]
    return f"{pool.workers} of {pool.wanted}" + (f" ({', '.join(told)})" if told else "")


def pool_size_text(config: PoolConfig) -> str:
    """Workers that a pool has in each code environment; "least-most" where it scales itself.

    Example:
        >>> pool_size_text(PoolConfig(workers=4)), pool_size_text(PoolConfig(max_workers=8))
        ('4', '0-8')
    """
    low, high = config.bounds
    scales = config.min_workers is not None or config.max_workers is not None
    return f"{low}-{high}" if scales else str(low)


def pool_json(pool: PoolStatus) -> dict[str, Any]:
    """What a worker pool does now, as plain JSON values. Durations are seconds."""
    return {
        "name": pool.name,
        "config": jsonable(pool.config.model_dump()),
        "queued": pool.queued,
        "oldest_waiting": pool.oldest_waiting,
        "full": pool.full,
        "wanted": pool.wanted,
        "workers": pool.workers,
        "starting": pool.starting,
        "leaving": pool.leaving,
        "busy": pool.busy,
        "idle": pool.idle,
        "problem": pool.problem,
    }
