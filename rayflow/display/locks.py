"""Locks and semaphores as text for terminals and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayflow.client.locks import LockInfo
from rayflow.core.locks.machine import Claim
from rayflow.display.formats import PLAIN, Style, duration_text, painted, time_text
from rayflow.display.tables import Column, table, visible


def locks_text(locks: Sequence[LockInfo], style: Style = PLAIN) -> str:
    """Locks and semaphores as a table, a line for each that has one or waits for it, in the order given.

    Args:
        locks: the locks.
        style: how they are shown; with ``now``, also for how long the leases of scripts still last.
    """
    if not locks:
        return "no locks are held or waited for"
    columns = (
        Column("LOCK", least=8), Column("TAKEN"), Column("CLAIM"), Column("WHO", least=12), Column("STEP", right=True),
        Column("TOKEN", right=True), Column("SINCE"), Column("LEASE"),
    )  # fmt: skip
    rows = [row for lock in locks for row in _rows(lock, style)]
    return "\n".join(table(columns, rows, style.width, lambda text, cell: painted(text, cell, style)))


def _rows(lock: LockInfo, style: Style) -> list[list[str]]:
    taken = f"{len(lock.holders)} of {lock.permits}"
    return [
        [
            visible(lock.name) if position == 0 else "",
            taken if position == 0 else "",
            "held" if claim.token else "waiting",
            visible(claim.execution_id or f"lease {claim.lease}"),
            str(claim.step or ""),
            str(claim.token or ""),
            time_text(claim.at, style),
            _lasts(claim, style),
        ]
        for position, claim in enumerate((*lock.holders, *lock.waiting))
    ]


def _lasts(claim: Claim, style: Style) -> str:
    if claim.expires_at is None:
        return ""
    if style.now is None:
        return f"until {time_text(claim.expires_at, style)}"
    left = claim.expires_at - style.now
    return f"{duration_text(left)} left" if left >= 0 else f"expired {duration_text(-left)} ago"


def lock_json(lock: LockInfo) -> dict[str, Any]:
    """A lock as plain JSON values. Moments are seconds since the epoch, durations seconds."""
    return {
        "name": lock.name,
        "permits": lock.permits,
        "holders": [_claim_json(claim) for claim in lock.holders],
        "waiting": [_claim_json(claim) for claim in lock.waiting],
    }


def _claim_json(claim: Claim) -> dict[str, Any]:
    return {
        "execution_id": claim.execution_id,
        "step": claim.step,
        "lease": claim.lease,
        "token": claim.token,
        "since": claim.at,
        "expires_at": claim.expires_at,
        "ttl": claim.ttl,
    }
