"""Setting executions aside: paused, with the reason, until somebody resumes them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from rayflow.core.events import Entry, Paused
from rayflow.errors import CorruptRecord, Failure, RayflowError
from rayflow.ids import ExecutionStatus
from rayflow.runtime.environment import Environment, environment_of
from rayflow.runtime.turns import Turns
from rayflow.storage.damage import DamagedRecord, damage_failure, remedy
from rayflow.storage.operations import Append, Claim, ExecutionRecord, JournalRow, Refused, Release
from rayflow.storage.records import append_digest, encode_entry, encode_failure

log = logging.getLogger(__name__)

#: Seconds after which it is tried again.
AGAIN = 1.0


class Asides:
    """The supervisor's part that sets executions aside; everything is called on its one thread.

    Args:
        turns: that thread.
        ask: asks the store's actor.
    """

    def __init__(self, turns: Turns, ask: Callable[..., Any]) -> None:
        self._turns = turns
        self._ask = ask
        #: Executions whose rows are damaged, and were told of.
        self._told: set[str] = set()
        #: Those that are to be set aside as soon as the store can be written.
        self._due: set[str] = set()

    def environment(self, record: ExecutionRecord) -> Environment | None:
        """The code environment of an execution; None, and it is set aside, if its row is damaged."""
        try:
            if isinstance(record, DamagedRecord):
                raise record.error
            return environment_of(record)
        except CorruptRecord as error:
            self.put(record, damage_failure(error, remedy(record, ())))
            return None

    def put(self, record: ExecutionRecord, reason: Failure) -> None:
        """Set an execution aside, now or as soon as the store can be written."""
        if record.id in self._due:  # each look into the store finds it, and it is tried again by itself
            return
        try:
            self._write(record, reason)
        except RayflowError as error:
            log.warning("execution %s cannot be set aside now; it is tried again: %s", record.id, error)
            self._due.add(record.id)
            self._turns.later(AGAIN, partial(self._put_again, record, reason))

    def _put_again(self, record: ExecutionRecord, reason: Failure) -> None:
        self._due.discard(record.id)
        self.put(record, reason)

    def _write(self, record: ExecutionRecord, reason: Failure) -> None:
        if record.id not in self._told:
            log.error("execution %s is set aside: %s", record.id, reason.message)
        if isinstance(record, DamagedRecord):  # nothing can be written to it, and nobody takes it up
            self._told.add(record.id)
            return
        # The claim first: an append is told from another owner's by its epoch alone, which may be the same number.
        claim, *rest = setting_aside(record, reason, self._turns.now())
        for operations in ([claim], rest):
            refused = [answer.error for answer in self._ask("start", operations) if isinstance(answer, Refused)]
            if refused:
                log.warning("execution %s is not set aside, somebody else has it: %s", record.id, refused[0])
                break


def setting_aside(record: ExecutionRecord, reason: Failure, now: float) -> list[Claim | Append | Release]:
    """What is written of an execution that nobody can drive: it is paused, by an owner of its own, and given up.

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
