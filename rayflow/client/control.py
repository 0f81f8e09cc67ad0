"""Steering executions: pause, resume, cancel. The part of an engine that writes into inboxes."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from rayflow.client.code import ClientCode
from rayflow.client.rewind import RewindPlanner, UnsettledError
from rayflow.core.events import CancelRequested, Entry, Event, Paused, Resumed
from rayflow.core.locks.machine import Lock
from rayflow.errors import CorruptRecord, ExecutionNotFound, InvalidTransition
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import Actor, ActorSystem, RetryingActor
from rayflow.storage.codec.journal import encode_entry
from rayflow.storage.damage import blob_damage, code_of, failure_or_damage, find_damage, remedy
from rayflow.storage.model import ExecutionRecord, InboxRow, JournalRow
from rayflow.storage.operations import Answer, Deliver, Done, Operation, Rejected, Rewind

log = logging.getLogger(__name__)

#: Seconds that pause() waits for the coordinator to have heard of it.
_PAUSE_PATIENCE = 30.0


class ExecutionCommands:
    """Looks at executions and steers them; the base of both engines.

    Args:
        system: where the actors are.

    Attributes:
        clock: the time that executions go by.
    """

    #: The engine's.
    _code: ClientCode
    #: Seconds that resume() waits for children that were given up to end.
    _settle_patience = 30.0

    def __init__(self, system: ActorSystem) -> None:
        self._system = system
        self._closed = False
        self.clock = system.clock

    def record(self, execution_id: str) -> ExecutionRecord:
        """The execution's row. Raises ExecutionNotFound."""
        record: ExecutionRecord | None = self._persistence().call("execution", execution_id)
        if record is None:
            raise ExecutionNotFound(execution_id)
        return record

    def pause(self, execution_id: str, *, reason: str = "") -> None:
        """Pause: running steps finish and are recorded, no new one starts, until :meth:`resume`.

        Returns once no new step can start any more.

        Raises:
            ExecutionNotFound: there is no such execution.
            InvalidTransition: it is over.
        """
        record = self.record(execution_id)
        if record.status is ExecutionStatus.PAUSED and record.inbox_done == record.inbox_last:
            return
        number = self._deliver(execution_id, "pause", Paused(self.clock.now(), reason))
        give_up = time.monotonic() + _PAUSE_PATIENCE
        while time.monotonic() < give_up:
            record = self.record(execution_id)
            if record.status is ExecutionStatus.PAUSED and (record.inbox_done >= number or record.owner == ""):
                return
            if record.status.terminal:
                raise InvalidTransition(execution_id, status=record.status, action="pause")
            time.sleep(0.01)
        log.warning("execution %s is not paused yet; it will be as soon as a coordinator drives it", execution_id)

    def resume(self, execution_id: str) -> None:
        """Let an execution go on: a paused one, an interrupted one, or a failed one from its failure.

        A failed execution goes on before the failure that ended it: that step is tried again with fresh
        retries, everything recorded before it stays as it is. Children that it gave up because of that failure go on
        with it, as do those that failed themselves.

        Raises:
            ExecutionNotFound: there is no such execution.
            InvalidTransition: it is completed or cancelled, or what it or a child had done was undone.
            CorruptRecord: it is set aside because a record of it is damaged, which still is so; it says which one, and
                what can be done.
        """
        record = self.record(execution_id)
        self._check_whole(record)
        match record.status:
            case ExecutionStatus.PAUSED:
                self._deliver(execution_id, "resume", Resumed(self.clock.now()), self._code.fingerprint_now(record))
            case ExecutionStatus.FAILED:
                self._rewind(record)
            case ExecutionStatus.PENDING | ExecutionStatus.RUNNING:
                if record.inbox_done < record.inbox_last:  # a pause may be on its way
                    self._deliver(execution_id, "resume", Resumed(self.clock.now()))
                self._supervisor().call("recover", [execution_id])
            case _:
                raise InvalidTransition(
                    execution_id, status=record.status, action="resume", hint="Start it anew under another id"
                )

    def _check_whole(self, record: ExecutionRecord) -> None:
        """Check that an execution is not set aside for damage that is still there. Raises CorruptRecord."""
        reason = failure_or_damage(record) if record.status is ExecutionStatus.PAUSED else None
        if reason is None or not reason.matches(CorruptRecord):
            return
        rows: list[JournalRow] = self._persistence().call("journal", record.id)
        damage = find_damage(record, rows, self._persistence().call("inbox", record.id))
        if damage is None and (code := code_of(record)).digest:
            damage = blob_damage(record.id, code.digest, self._persistence().call("blob", code.digest))
        if damage is not None:
            raise CorruptRecord(record.id, f"{damage.detail}. {remedy(record, rows)}")

    def cancel(self, execution_id: str, *, reason: str = "") -> None:
        """Cancel: the workflow's code gets a CancelledError, may clean up, and ends as cancelled.

        Raises:
            ExecutionNotFound: there is no such execution.
            InvalidTransition: it is over.
        """
        self._deliver(execution_id, "cancel", CancelRequested(self.clock.now(), reason))

    def _deliver(self, execution_id: str, kind: str, event: Event, code: str = "") -> int:
        row = InboxRow(f"{kind}/{uuid.uuid4().hex}", kind, encode_entry(Entry(0, event)), event.at)
        [answer] = self._write([Deliver(execution_id, row)])
        self._supervisor().send("nudge", (execution_id,), code)
        return answer.inbox_last if isinstance(answer, Done) else 0

    def _rewind(self, record: ExecutionRecord) -> None:
        operation = self._planned(record)
        self._write([operation])
        self._supervisor().send("submit", [self.record(record.id)], self._code.fingerprint_now(record))
        self.nudge([child.execution_id for child in operation.children])

    def _planned(self, record: ExecutionRecord) -> Rewind:
        """How it goes on; waits until the children that it has given up have ended."""
        give_up = self.clock.monotonic() + self._settle_patience
        while True:
            try:
                return RewindPlanner(self.ask, record, self.clock.now()).plan()
            except UnsettledError as child:
                if self.clock.monotonic() >= give_up:
                    raise InvalidTransition(
                        record.id,
                        status=f"failed, and its child {str(child)!r}, which it has given up, has not ended yet",
                        action="resume",
                        hint="Resume it when that has ended",
                    ) from None
            self.clock.sleep(0.02)

    # --- for the other parts of an engine --------------------------------------------------------------------
    def write(self, operations: Sequence[Operation]) -> Sequence[Answer]:
        """Have operations written. Raises the error of one that is refused."""
        return self._write(operations)

    def send(self, operations: Sequence[Operation]) -> Sequence[Answer]:
        """Have operations written; answers also what was refused. What was applied already is recognised."""
        answers: Sequence[Answer] = self._persistence().call("start", list(operations))
        return answers

    def ask(self, method: str, *args: object) -> Any:
        """Call a method of the store's actor that may be called twice: again while that restarts."""
        return self._persistence().call(method, *args)

    def ask_once(self, method: str, *args: object) -> Any:
        """The same of a method that must not be called twice: that the store's actor restarts is an error."""
        return self._system.find(actor_names.PERSISTENCE).call(method, *args)

    def supervise(self, method: str, *args: object) -> Any:
        """Call a method of the supervisor."""
        return self._supervisor().call(method, *args)

    def actor(self, name: str) -> Actor:
        """An actor of the engine's namespace, by its name. Raises ActorLost."""
        return self._system.find(name)

    def nudge(self, ids: Sequence[str]) -> None:
        """These executions have something new: have it read."""
        if ids:
            self._supervisor().send("nudge", tuple(ids))

    def read_locks(self, names: Sequence[str] | None) -> list[Lock]:
        """The locks of these names; None for all that somebody has or waits for."""
        found: list[Lock] = self._persistence().call("locks", names)
        return found

    # --- actors --------------------------------------------------------------------------------------------
    def _write(self, operations: Sequence[Operation]) -> Sequence[Answer]:
        answers = self.send(operations)
        for answer in answers:
            if isinstance(answer, Rejected):
                raise answer.error
        return answers

    def _persistence(self) -> Actor:
        return RetryingActor(self._system, actor_names.PERSISTENCE, lambda: self._closed)

    def _supervisor(self) -> Actor:
        return RetryingActor(self._system, actor_names.SUPERVISOR, lambda: self._closed)
