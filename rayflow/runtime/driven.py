"""What a driver is given of its execution's rows, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rayflow.core.execution import Action, Execution, InboxItem
from rayflow.errors import CorruptRecord
from rayflow.storage.operations import ExecutionRecord, InboxRow
from rayflow.storage.records import decode_entry

#: Seconds ahead of its next timer at which an execution is not parked any more.
PARK_AHEAD = 2.0


class Committed(NamedTuple):
    """What follows from a commit.

    Args:
        actions: to be done now.
        newest: the newest inbox row of the execution.
        touched: other executions that have something new in their inboxes, or were started.
    """

    actions: list[Action]
    newest: int
    touched: tuple[str, ...]


def items_of(execution_id: str, rows: Sequence[InboxRow]) -> list[tuple[int, InboxItem]]:
    """What inbox rows hold, with their numbers. Raises CorruptRecord."""
    items: list[tuple[int, InboxItem]] = []
    for row in rows:
        event = decode_entry(execution_id, 0, row.body, where=f"inbox row {row.number}").event
        if not isinstance(event, InboxItem):
            raise CorruptRecord(execution_id, f"inbox row {row.number} holds a {type(event).__name__}")
        items.append((row.number, event))
    return items


def is_fresh(record: ExecutionRecord) -> bool:
    """Whether an execution has never been driven: it can be claimed and begun in one transaction."""
    return record.last_seq == 0 and record.epoch == 0 and record.inbox_last == 0


def parked_at(execution: Execution, quiet: float) -> float:
    """When an execution is parked, if nothing happens until then: infinity if it is not.

    Args:
        execution: the machine.
        quiet: when nothing has happened for long enough.
    """
    if not execution.idle or execution.outcome is not None:
        return math.inf
    wake = execution.next_wake()
    return quiet if wake is None or wake > quiet + PARK_AHEAD else math.inf
