"""Setting executions aside: paused, with the reason, until somebody resumes them."""

from __future__ import annotations

import uuid

from rayflow.core.events import Entry, Paused
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus
from rayflow.storage.operations import Append, Claim, ExecutionRecord, JournalRow, Operation, Release
from rayflow.storage.records import append_digest, encode_entry, encode_failure


def setting_aside(record: ExecutionRecord, reason: Failure, now: float) -> list[Operation]:
    """The operations that pause an execution which nobody can drive; all of them in one transaction.

    Args:
        record: its row.
        reason: why.
        now: seconds since the epoch.
    """
    seq, epoch = record.last_seq + 1, record.epoch + 1
    rows = (JournalRow(seq, encode_entry(Entry(seq, Paused(now, reason.message)))),)
    return [
        Claim(record.id, record.epoch, uuid.uuid4().hex, "", now),
        Append(
            record.id, epoch, seq, rows, append_digest(rows), now, ExecutionStatus.PAUSED,
            inbox_done=record.inbox_done, failure=encode_failure(reason),
        ),
        Release(record.id, epoch, runnable_at=None, at=now, seen=record.inbox_last),
    ]  # fmt: skip
