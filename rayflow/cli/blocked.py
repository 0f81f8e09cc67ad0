"""Executions that stand still until a person does something: sends a signal, or lets a paused child go on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from rayflow.cli.open_engine import command
from rayflow.client.engine import Engine, backend_of
from rayflow.core.execution.requests import WaitsFor
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter
from rayflow.storage.model import ExecutionRecord

#: Of those that are awaited, how many a message names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Awaited:
    """What a person can do for an execution.

    Args:
        execution_id: the execution, or another one that it waits for.
        signal: the name of a signal to send it; "" for one that is paused.
    """

    execution_id: str
    signal: str = ""


@dataclass(frozen=True, slots=True)
class BlockedState:
    """How an execution rests; one that is driven, or over, does not.

    Args:
        awaited: what can be done for it, and for the children and the holders of locks that it waits for.
        still: whether nothing else lets it go on: no timer, no lease, none of those others that is under way.
    """

    awaited: tuple[Awaited, ...] = ()
    still: bool = False


#: Of what is driven, or over.
NO_REST = BlockedState()


def rest_of(engine: Engine, record: ExecutionRecord, seen: frozenset[str] = frozenset()) -> BlockedState:
    """How an execution rests.

    Args:
        engine: where it is.
        record: its row.
        seen: executions that wait for this one.
    """
    if stays_paused(record):
        return BlockedState((Awaited(record.id),), still=record.runnable_at is None)
    if record.status is not ExecutionStatus.RUNNING or record.owner or record.inbox_done < record.inbox_last:
        return NO_REST
    if record.id in seen:  # a circle: a deadlock, which the supervisor breaks
        return NO_REST
    waits = WaitsFor.from_text(record.waits)
    awaited = tuple(Awaited(record.id, name) for name, _ in waits.signals)
    others = [*waits.children, *_holders(engine, waits.locks)]
    still = record.runnable_at is None and bool(waits.signals or others)
    for other in _records(engine, others):
        rest = NO_REST if other is None else rest_of(engine, other, seen | {record.id})
        awaited, still = (*awaited, *rest.awaited), still and rest.still
        if not still:  # one of ten thousand that goes on is enough
            break
    return BlockedState(tuple(dict.fromkeys(awaited)), still)


def stays_paused(record: ExecutionRecord) -> bool:
    """Whether an execution is paused until it is told to go on."""
    # What is not read yet may be the very request; what nobody owns was seen, and is kept for later.
    read = record.inbox_done >= record.inbox_last
    return record.status is ExecutionStatus.PAUSED and (read or not (record.owner or record.runnable_at))


def _holders(engine: Engine, locks: Sequence[str]) -> list[str]:
    """The executions that hold locks; "" for the lease of a script."""
    return [claim.execution_id for lock in backend_of(engine).locks(locks) for claim in lock.holders] if locks else []


def _records(engine: Engine, ids: Sequence[str]) -> list[ExecutionRecord | None]:
    """The rows of executions, in one call however many they are; None for what is none."""
    if not ids:
        return []
    found = backend_of(engine).executions(Filter(ids=tuple(ids), limit=len(ids)))
    known = {record.id: record for record in found}
    return [known.get(name) for name in ids]


def stands_still(engine: Engine, rest: BlockedState) -> bool:
    """Whether an execution of an engine in this process goes on only once somebody else has the store."""
    from rayflow.client.local import LocalEngine

    return rest.still and isinstance(engine, LocalEngine) and not engine.driving()


def words_of(execution_id: str, awaited: Sequence[Awaited]) -> str:
    """What is awaited, for people.

    Example:
        >>> words_of("book", [Awaited("book", "go"), Awaited("book.1", "review"), Awaited("book.2")])
        'signal go, signal review of book.1 and book.2, which is paused'
    """
    said = []
    for one in awaited[:_NAMED]:
        whose = "" if one.execution_id == execution_id else f" of {one.execution_id}"
        said.append(f"signal {one.signal}{whose}" if one.signal else f"{one.execution_id}, which is paused")
    more = len(awaited) - _NAMED
    *first, last = [*said, f"{more} more"] if more > 0 else said
    return f"{', '.join(first)} and {last}" if first else last


def commands_of(args: argparse.Namespace, awaited: Sequence[Awaited]) -> str:
    """The commands that do what is awaited."""
    return "; ".join(
        command(args, "signal", one.execution_id, one.signal, "--payload", "JSON")
        if one.signal
        else command(args, "resume", one.execution_id)
        for one in awaited[:_NAMED]
    )
