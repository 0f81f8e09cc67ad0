"""Damaged records of one execution: detection, description and remedies.

Journal entries, inbox rows and failures have checksums, and the digest of a blob is its name. A payload (input, result)
is only checked for the form of one. Nothing here runs user code: payloads are described.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rayflow.core.events import Continued, Entry, Started
from rayflow.core.execution.journal import effective
from rayflow.definition.code import CodeRef
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import CodecError, CorruptRecord, Failure, RayflowError, class_name
from rayflow.storage.codec.journal import decode_entry, decode_failure
from rayflow.storage.codec.payloads import MsgpackCodec, digest
from rayflow.storage.model import ExecutionRecord, InboxRow, JournalRow


@dataclass(frozen=True, slots=True)
class DamagedRecord(ExecutionRecord):
    """Row of an execution that cannot be read whole. Lists show it as paused; no operation changes it.

    Args:
        damage: the problem.
    """

    damage: str = field(default="its row cannot be read", kw_only=True)

    @property
    def error(self) -> CorruptRecord:
        """Return the damage as an exception."""
        return CorruptRecord(self.id, self.damage)


def options_of(record: ExecutionRecord) -> ExecutionOptions:
    """Return an execution's options. Raises CorruptRecord."""
    try:
        return ExecutionOptions.model_validate_json(record.options)
    except (ValueError, TypeError, RayflowError) as error:
        raise CorruptRecord(record.id, f"the options in its row cannot be read: {_short(error)}") from error


def code_of(record: ExecutionRecord) -> CodeRef:
    """Return an execution's code reference. Raises CorruptRecord, or IncompatibleVersion if it has a newer format."""
    try:
        return CodeRef.from_dict(json.loads(record.code))
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptRecord(record.id, f"the code reference in its row cannot be read: {_short(error)}") from error


def check_environment(record: ExecutionRecord) -> None:
    """Check the form of the code environment in an execution's row. Raises CorruptRecord."""
    try:
        said = json.loads(record.environment)
    except (ValueError, TypeError) as error:
        raise CorruptRecord(record.id, f"the code environment in its row cannot be read: {_short(error)}") from error
    if not isinstance(said, dict) or not isinstance(said.get("paths"), list):
        raise CorruptRecord(record.id, f"the code environment in its row is not valid: {record.environment[:100]!r}")


def check_payload(execution_id: str, what: str, data: bytes) -> None:
    """Check the form of a payload. Raises CorruptRecord."""
    try:
        MsgpackCodec().describe(data)
    except CodecError as error:
        raise CorruptRecord(execution_id, f"{what} cannot be read: {error}") from error


def readable(execution_id: str, rows: Sequence[JournalRow], last: int) -> tuple[list[Entry], CorruptRecord | None]:
    """Return the journal's entries up to the first damaged or missing one, and the problem with that one.

    Args:
        execution_id: the execution.
        rows: its journal, in order.
        last: position of the last entry, as the execution's row has it.
    """
    entries: list[Entry] = []
    try:
        for row in rows:
            if entries and row.seq != entries[-1].seq + 1:
                raise _missing(execution_id, entries[-1].seq + 1, row.seq - 1)
            entry = decode_entry(execution_id, row.seq, row.body)
            if not entries and row.seq != 1 and not isinstance(entry.event, Continued):
                raise _missing(execution_id, 1, row.seq - 1)
            entries.append(entry)
        seen = entries[-1].seq if entries else 0
        if seen < last:
            raise _missing(execution_id, seen + 1, last)
    except CorruptRecord as error:
        return entries, error
    return entries, None


def entries_of(record: ExecutionRecord, rows: Sequence[JournalRow]) -> list[Entry]:
    """Return an execution's whole journal. Raises CorruptRecord if an entry is damaged or missing."""
    entries, damage = readable(record.id, rows, record.last_seq)
    if damage is not None:
        raise damage
    return entries


def _missing(execution_id: str, first: int, last: int) -> CorruptRecord:
    what = f"journal entry {first} is" if first == last else f"journal entries {first} to {last} are"
    return CorruptRecord(execution_id, f"{what} missing")


def failure_or_damage(record: ExecutionRecord) -> Failure | None:
    """Return the failure or the reason of the pause in a row; if it cannot be read, the damage."""
    if isinstance(record, DamagedRecord):
        return damage_failure(record.error, remedy(record, ()))
    if record.failure is None:
        return None
    try:
        return decode_failure(record.failure, execution_id=record.id)
    except CorruptRecord as error:
        return damage_failure(error)


def damage_failure(error: CorruptRecord, advice: str = "") -> Failure:
    """Return damage as a failure, for display."""
    message = f"{error}. {advice}" if advice else str(error)
    return Failure(class_name(type(error)), message, mro=tuple(class_name(cls) for cls in type(error).__mro__[:-2]))


def find_damage(
    record: ExecutionRecord, journal: Sequence[JournalRow], inbox: Iterable[InboxRow]
) -> CorruptRecord | None:
    """Return the first damage in an execution's own records; None without detectable damage.

    Args:
        record: the execution's row.
        journal: its journal.
        inbox: its inbox rows that are not applied.
    """
    try:
        _check_row(record)
        entries_of(record, journal)
        for row in inbox:
            decode_entry(record.id, 0, row.body, where=f"inbox row {row.number}")
    except CorruptRecord as error:
        return error
    return None


def blob_damage(execution_id: str, name: str, data: bytes | None) -> CorruptRecord | None:
    """Return the problem with a blob that an execution needs; None without one.

    Args:
        execution_id: the execution.
        name: the blob's digest.
        data: the stored bytes, or None.
    """
    if data is None:
        return CorruptRecord(execution_id, f"blob {name} is missing in the store")
    seen = digest(data)
    return None if seen == name else CorruptRecord(execution_id, f"blob {name} has another SHA-256, {seen}")


def _check_row(record: ExecutionRecord) -> None:
    if isinstance(record, DamagedRecord):
        raise record.error
    options_of(record)
    code_of(record)
    check_environment(record)
    check_payload(record.id, "the input in its row", record.input)


def remedy(record: ExecutionRecord, journal: Sequence[JournalRow]) -> str:
    """Return what a person can do for an execution that is quarantined because of damage."""
    restore = "Restore that record from a backup of the store, then resume the execution"
    try:
        _check_row(record)
    except RayflowError:
        return restore  # a fork would copy the damage
    entries, damage = readable(record.id, journal, record.last_seq)
    issued = sum(len(entry.issued) for entry in effective(entries))
    if not issued:
        return restore
    steps = "step 1" if issued == 1 else f"one of its steps 1 to {issued}"
    begun = any(isinstance(entry.event, Started) for entry in entries)
    which = "the part of its journal that can be read" if damage is not None else "its journal"
    fork = f", or continue in another execution with {which}: fork it before {steps}" if begun else ""
    return f"{restore}{fork} (rayflow fork {record.id} --before N)" if fork else restore


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
