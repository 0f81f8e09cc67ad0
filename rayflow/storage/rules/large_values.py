"""Rules of large values, for all stores: which records refer to which values, and which values may be collected.

References are read from the encoded bytes that a transaction writes, in that transaction. So every record has its
references; and since a record is rejected if its value is missing, no record refers to a missing value.

A value is collected when no record has referred to it for twice the grace. A process that is about to refer to a value
has a record that refers to it, or has just put it, which restarts the grace. Remaining cases (a clock that was set, a
writer that was away for hours) end in the rejection above. Code is stored apart (``put_blob``) and never collected.
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
    """Return the references of an execution's records that are written.

    Args:
        name: the execution's id.
        write: the records to write.
        started: whether the execution is new, so that its input counts.
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
    """Return the reason to reject an operation that refers to a missing value; None if all its values exist.

    Args:
        operation: the operation.
        write: the records that it would write.
        there: returns whether the store has a value of that digest.
    """
    needed = {reference.digest for reference in references_of("", write, started=isinstance(operation, Start))}
    if isinstance(operation, Append) and write.rows:
        needed.update(_asked(operation.asks))
    for each in sorted(needed):
        if not there(each):
            return StorageUnavailable(
                f"this {type(operation).__name__} of execution {operation.execution_id!r} refers to the large value "
                f"{each}, which is not in the store: it was never put, or was collected. Put it again, then send "
                "the same"
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
    """Return the digests of the values to which a payload refers; none if it is damaged."""
    try:
        return references(data)
    except CodecError:
        return frozenset()


def of_entry(body: bytes) -> set[str]:
    """Return the digests of the values to which a journal entry or an inbox row refers."""
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
    """Return whether a reference is deleted when its execution continues as new.

    Args:
        reference: the reference.
        first: position of the first entry that stays.
        inbox_done: inbox rows up to this number have been applied.
        run: number of the new run.
    """
    limits = {"journal": first, "inbox": inbox_done + 1, "input": run}
    return reference.place in limits and reference.position < limits[reference.place]


def plan_collection(
    values: Iterable[ValueRecord], referred: frozenset[str], now: float, grace: float, limit: int
) -> tuple[list[ValueRecord], list[ValueRecord]]:
    """Return the values whose ``free_at`` changes, and the values to delete.

    Args:
        values: all values.
        referred: digests of the values to which records refer.
        now: seconds since the epoch.
        grace: in seconds; see the module's docstring.
        limit: maximum number of deleted values.
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
