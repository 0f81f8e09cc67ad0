"""Which records refer to which large values, and which values nothing refers to: functions that every store asks.

Nobody has to say what a record refers to: it is read off the very bytes that are written, in the transaction that
writes them. So no record is there without its reference; and since a record is refused whose value is not there, no
value is missing that a record refers to.

A value is collected once nothing has referred to it for twice the grace. Whoever refers to one either has a record that
does, or has just put it, which makes it as new; what still goes wrong (the clock was set, a writer was away for hours)
ends in that refusal. Code is kept apart (``put_blob``) and never collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from rayflow.errors import CodecError, StorageUnavailable
from rayflow.storage.codec.journal import contents
from rayflow.storage.codec.large_values import MARK
from rayflow.storage.codec.payloads import references
from rayflow.storage.model import ValueRecord, ValueReference
from rayflow.storage.operations import Append, CrossOperation, DeliverTo, ExecutionOperation, Start, StartChild
from rayflow.storage.rules.executions import Write

#: Seconds for which a value is kept for those who are about to refer to it; it is collected after twice that.
GRACE = 3600.0


def references_of(name: str, write: Write, *, started: bool = False) -> list[ValueReference]:
    """What the records of an execution refer to that are written.

    Args:
        name: the execution's id.
        write: what is written.
        started: whether it is a new one, with its input.
    """
    found: list[ValueReference] = []
    if started:
        found += (ValueReference(name, "input", write.record.run, each) for each in of_payload(write.record.input))
    if write.next_run is not None:
        found += (ValueReference(name, "input", write.record.run, each) for each in of_payload(write.next_run))
    for row in write.rows:
        found += (ValueReference(name, "journal", row.seq, each) for each in of_entry(row.body))
    for arrived in write.inbox:
        found += (ValueReference(name, "inbox", arrived.number, each) for each in of_entry(arrived.body))
    for letter in write.letters:
        found += (ValueReference(name, "letter", letter.step, each) for each in of_payload(letter.input))
    return found


def check_there(operation: ExecutionOperation, write: Write, there: Callable[[str], bool]) -> StorageUnavailable | None:
    """Why an operation is not to be written: it refers to a value that is not there. None if it may be.

    Args:
        operation: the operation.
        write: what it writes, if it may.
        there: whether there is a value of that digest.
    """
    needed = {reference.digest for reference in references_of("", write, started=isinstance(operation, Start))}
    if isinstance(operation, Append) and write.rows:
        needed.update(_asked(operation.asks))
    for each in sorted(needed):
        if not there(each):
            return StorageUnavailable(
                f"this {type(operation).__name__} of execution {operation.execution_id!r} refers to the large value "
                f"{each}, which is not in the store: nobody put it, or it was collected since. Put it again, and then "
                "send the same"
            )
    return None


def _asked(asks: Iterable[CrossOperation]) -> Iterator[str]:
    for ask in asks:
        match ask:
            case StartChild():
                yield from of_payload(ask.record.input)
            case DeliverTo():
                yield from of_entry(ask.row.body)


def of_payload(data: bytes) -> frozenset[str]:
    """The digests of the values that a payload refers to; none, if it is damaged."""
    try:
        return references(data)
    except CodecError:
        return frozenset()


def of_entry(body: bytes) -> set[str]:
    """The digests of the values that a journal entry or an inbox row refers to."""
    return set() if MARK not in body else set(_walk(contents(body)))


def _walk(part: Any) -> Iterator[str]:
    if isinstance(part, bytes):
        yield from of_payload(part)
    elif isinstance(part, tuple):
        for member in part:
            yield from _walk(member)
    elif isinstance(part, dict):
        for member in part.values():
            yield from _walk(member)


def forgotten(reference: ValueReference, *, first: int, inbox_done: int, run: int) -> bool:
    """Whether a record goes when its execution continues as new.

    Args:
        reference: the record, and what it refers to.
        first: the position of the first entry that stays.
        inbox_done: inbox rows up to this number have been applied.
        run: the number of the new run.
    """
    limits = {"journal": first, "inbox": inbox_done + 1, "input": run}
    return reference.place in limits and reference.position < limits[reference.place]


def plan_collection(
    values: Iterable[ValueRecord], referred: frozenset[str], now: float, grace: float, limit: int
) -> tuple[list[ValueRecord], list[ValueRecord]]:
    """What a look at all values comes to: those whose ``free_at`` changes, and those to be deleted.

    Args:
        values: all there are.
        referred: digests of those that something refers to.
        now: seconds since the epoch.
        grace: see the module's docstring, in seconds.
        limit: how many are deleted at most.
    """
    changed: list[ValueRecord] = []
    gone: list[ValueRecord] = []
    for value in values:
        if value.digest in referred:
            continue
        if value.free_at is None:
            changed.append(replace(value, free_at=now))
        elif value.free_at <= now - 2 * grace and len(gone) < limit:
            gone.append(value)
    return changed, gone
