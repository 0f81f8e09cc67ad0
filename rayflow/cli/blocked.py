"""Blocked executions: those that continue only after a person sends a signal or resumes a paused child."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from rayflow.cli.open_engine import command_line
from rayflow.client.engine import Engine, backend_of
from rayflow.core.execution.requests import WaitsFor
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter
from rayflow.storage.model import ExecutionRecord

#: Actions that a message names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class UserAction:
    """Action of a person that lets an execution continue.

    Args:
        execution_id: the execution, or one that it waits for.
        signal: the name of the signal to send; "" to resume a paused execution.
    """

    execution_id: str
    signal: str = ""


@dataclass(frozen=True, slots=True)
class BlockedState:
    """Whether and how an execution is blocked; an execution that is driven or has finished is not.

    Args:
        actions: what a person can do for the execution, its children, and the holders of locks that it waits for.
        stuck: whether nothing else lets it continue: no timer, no lease, no running child or holder.
    """

    actions: tuple[UserAction, ...] = ()
    stuck: bool = False


NOT_BLOCKED = BlockedState()


def blocked_by(engine: Engine, record: ExecutionRecord, seen: frozenset[str] = frozenset()) -> BlockedState:
    """Return how an execution is blocked; ``seen`` are the executions that wait for it."""
    if stays_paused(record):
        return BlockedState((UserAction(record.id),), stuck=record.runnable_at is None)
    if record.status is not ExecutionStatus.RUNNING or record.owner or record.inbox_done < record.inbox_last:
        return NOT_BLOCKED
    if record.id in seen:  # a cycle: a deadlock, which the supervisor breaks
        return NOT_BLOCKED
    waits = WaitsFor.from_text(record.waits)
    actions = tuple(UserAction(record.id, name) for name, _ in waits.signals)
    others = [*waits.children, *_holders(engine, waits.locks)]
    stuck = record.runnable_at is None and bool(waits.signals or others)
    for other in _records(engine, others):
        state = NOT_BLOCKED if other is None else blocked_by(engine, other, seen | {record.id})
        actions, stuck = (*actions, *state.actions), stuck and state.stuck
        if not stuck:  # one running child of ten thousand is enough
            break
    return BlockedState(tuple(dict.fromkeys(actions)), stuck)


def stays_paused(record: ExecutionRecord) -> bool:
    """Return whether an execution is paused until a person resumes it."""
    # An unread message may be the request to resume. One that is read without an owner was kept for later.
    read = record.inbox_done >= record.inbox_last
    return record.status is ExecutionStatus.PAUSED and (read or not (record.owner or record.runnable_at))


def _holders(engine: Engine, locks: Sequence[str]) -> list[str]:
    """Return the executions that hold locks; "" for the lease of a script."""
    return [claim.execution_id for lock in backend_of(engine).locks(locks) for claim in lock.holders] if locks else []


def _records(engine: Engine, ids: Sequence[str]) -> list[ExecutionRecord | None]:
    """Return the records of executions with one query; None for an unknown id."""
    if not ids:
        return []
    found = backend_of(engine).executions(Filter(ids=tuple(ids), limit=len(ids)))
    known = {record.id: record for record in found}
    return [known.get(name) for name in ids]


def is_stuck(engine: Engine, state: BlockedState) -> bool:
    """Return whether an execution of a local engine cannot continue while this process holds the store."""
    from rayflow.client.local import LocalEngine

    return state.stuck and isinstance(engine, LocalEngine) and not engine.driving()


def describe_actions(execution_id: str, actions: Sequence[UserAction]) -> str:
    """Return what an execution waits for, for people.

    Example:
        >>> describe_actions("book", [UserAction("book", "go"), UserAction("book.1", "review"), UserAction("book.2")])
        'signal go, signal review of book.1 and book.2, which is paused'
    """
    shown = []
    for action in actions[:_NAMED]:
        owner = "" if action.execution_id == execution_id else f" of {action.execution_id}"
        shown.append(f"signal {action.signal}{owner}" if action.signal else f"{action.execution_id}, which is paused")
    more = len(actions) - _NAMED
    *first, last = [*shown, f"{more} more"] if more > 0 else shown
    return f"{', '.join(first)} and {last}" if first else last


def action_commands(args: argparse.Namespace, actions: Sequence[UserAction]) -> str:
    """Return the commands that perform the first actions."""
    return "; ".join(
        command_line(args, "signal", action.execution_id, action.signal, "--payload", "JSON")
        if action.signal
        else command_line(args, "resume", action.execution_id)
        for action in actions[:_NAMED]
    )
