"""Command ``lock list``: holders and waiters of locks and semaphores, read from the store alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.open_engine import read_store, store_url
from rayflow.cli.options import Commands, add_command, add_group
from rayflow.cli.screen import Screen
from rayflow.client.locks import LockInfo, lock_info
from rayflow.core.locks.machine import Claim
from rayflow.display import duration_text, time_text, to_json
from rayflow.display.formatting import PLAIN, Column, Style, table


def add_commands(commands: Commands) -> None:
    """Add ``lock``."""
    actions = add_group(commands, "lock", "inspect locks and semaphores")
    add_command(actions, "list", list_locks, "list locks and semaphores with their holders, waiters and fencing tokens")


def list_locks(args: argparse.Namespace, screen: Screen) -> int:
    """List the locks and semaphores that are held or waited for, by name."""
    found = [lock_info(lock) for lock in read_store(store_url(args.store), lambda store: store.locks())]
    screen.result(locks_text(found, screen.style(time.time())), to_json(found))
    return COMPLETED


def locks_text(locks: Sequence[LockInfo], style: Style = PLAIN) -> str:
    """Return locks and semaphores as a table with a line for each claim; a lock's first line names the lock."""
    rows = [
        (lock if position == 0 else None, claim)
        for lock in locks
        for position, claim in enumerate((*lock.holders, *lock.waiting))
    ]
    return table(_CLAIMS, rows, style) if rows else "no locks are held or waited for"


def _lease(claim: Claim, style: Style) -> str:
    if claim.expires_at is None:
        return ""
    if style.now is None:
        return f"until {time_text(claim.expires_at, style)}"
    left = claim.expires_at - style.now
    return f"{duration_text(left)} left" if left >= 0 else f"expired {duration_text(-left)} ago"


_CLAIMS: Sequence[Column[tuple[LockInfo | None, Claim]]] = (
    Column("LOCK", lambda row, style: row[0].name if row[0] else "", least=8),
    Column("TAKEN", lambda row, style: f"{len(row[0].holders)} of {row[0].permits}" if row[0] else ""),
    Column("CLAIM", lambda row, style: "held" if row[1].token else "waiting"),
    Column("CLAIMANT", lambda row, style: row[1].execution_id or f"lease {row[1].lease}", least=12),
    Column("STEP", lambda row, style: str(row[1].step or ""), right=True),
    Column("TOKEN", lambda row, style: str(row[1].token or ""), right=True),
    Column("SINCE", lambda row, style: time_text(row[1].at, style)),
    Column("LEASE", lambda row, style: _lease(row[1], style)),
)
