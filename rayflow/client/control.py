"""Control of executions: pause, resume, cancel, signal. Everything goes through inboxes of the store."""

from __future__ import annotations

import importlib
import logging
import time
import uuid
from typing import Any

from pydantic import ValidationError

from rayflow.client.backend import Backend
from rayflow.client.code import ClientCode
from rayflow.client.rewind import RewindPlanner, UnsettledError
from rayflow.core.events import CancelRequested, Entry, Event, Paused, Resumed
from rayflow.core.execution.requests import WaitsFor
from rayflow.definition.checks import check_name, fitted, misfits
from rayflow.errors import CodecError, CorruptRecord, InvalidTransition
from rayflow.ids import ExecutionStatus
from rayflow.storage.codec.journal import encode_entry
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec
from rayflow.storage.damage import blob_damage, code_of, failure_or_damage, find_damage, remedy
from rayflow.storage.model import ExecutionRecord, InboxRow
from rayflow.storage.operations import Deliver, Done, Rewind
from rayflow.storage.rules.starts import signal_row

log = logging.getLogger(__name__)

#: Seconds that pause() waits until the coordinator has applied it.
_PAUSE_TIMEOUT = 30.0

#: Seconds that resume() waits for cancelled children to end.
SETTLE_TIMEOUT = 30.0


class ExecutionCommands:
    """Controls executions for an engine; ``engine`` documents each method.

    Args:
        backend: where operations are written.
        codec: decodes payloads, to check what a signal carries.
        encoder: encodes the recorded values.
        code: fingerprints the code that a resume or signal wakes.
        settle_timeout: seconds that resume() waits for cancelled children to end.
    """

    def __init__(
        self,
        backend: Backend,
        codec: MsgpackCodec,
        encoder: LargeValueEncoder,
        code: ClientCode,
        *,
        settle_timeout: float = SETTLE_TIMEOUT,
    ) -> None:
        self._backend = backend
        self._codec = codec
        self._encoder = encoder
        self._code = code
        self._settle_timeout = settle_timeout

    def pause(self, execution_id: str, *, reason: str = "") -> None:
        """Pause an execution, and wait until no new step can start."""
        record = self._backend.record(execution_id)
        if record.status is ExecutionStatus.PAUSED and record.inbox_done == record.inbox_last:
            return
        number = self._deliver(execution_id, "pause", Paused(self._backend.clock.now(), reason))
        give_up = time.monotonic() + _PAUSE_TIMEOUT
        while time.monotonic() < give_up:
            record = self._backend.record(execution_id)
            if record.status is ExecutionStatus.PAUSED and (record.inbox_done >= number or record.owner == ""):
                return
            if record.status.terminal:
                raise InvalidTransition(execution_id, status=record.status, action="pause")
            time.sleep(0.01)
        log.warning("execution %s: not paused yet; it pauses as soon as a coordinator drives it", execution_id)

    def resume(self, execution_id: str) -> None:
        """Continue an execution that is paused, interrupted or failed."""
        record = self._backend.record(execution_id)
        self._check_intact(record)
        match record.status:
            case ExecutionStatus.PAUSED:
                event = Resumed(self._backend.clock.now())
                self._deliver(execution_id, "resume", event, code=self._code.fingerprint_if_known(record))
            case ExecutionStatus.FAILED:
                self._rewind(record)
            case ExecutionStatus.PENDING | ExecutionStatus.RUNNING:
                if record.inbox_done < record.inbox_last:  # a pause may be on its way
                    self._deliver(execution_id, "resume", Resumed(self._backend.clock.now()))
                self._backend.recover([execution_id])
            case _:
                raise InvalidTransition(
                    execution_id, status=record.status, action="resume", hint="Start it again under another id"
                )

    def _check_intact(self, record: ExecutionRecord) -> None:
        """Raise CorruptRecord if the execution is quarantined for damage that is still there."""
        reason = failure_or_damage(record) if record.status is ExecutionStatus.PAUSED else None
        if reason is None or not reason.matches(CorruptRecord):
            return
        rows = self._backend.journal(record.id)
        damage = find_damage(record, rows, self._backend.inbox(record.id))
        if damage is None and (code := code_of(record)).digest:
            damage = blob_damage(record.id, code.digest, self._backend.blob(code.digest))
        if damage is not None:
            raise CorruptRecord(record.id, f"{damage.detail}. {remedy(record, rows)}")

    def cancel(self, execution_id: str, *, reason: str = "") -> None:
        """Cancel an execution."""
        self._deliver(execution_id, "cancel", CancelRequested(self._backend.clock.now(), reason))

    def signal(self, execution_id: str, name: str, payload: Any = None, *, key: str | None = None) -> None:
        """Send a signal."""
        record = self._backend.record(execution_id)
        self._check_fits(record, check_name("signal name", name), self._codec.encode(payload))
        nonce = uuid.uuid4().hex if key is None else check_name("signal key", key)
        row = signal_row(name, self._encoder.encode(payload), f"signal/{nonce}", self._backend.clock.now())
        self._backend.write([Deliver(execution_id, row)])
        self._backend.notify([execution_id], code=self._code.fingerprint_if_known(record))

    def _check_fits(self, record: ExecutionRecord, name: str, data: bytes) -> None:
        """Raise CodecError if the payload does not fit what the execution waits for, as far as known here."""
        for awaited, place in WaitsFor.from_text(record.waits).signals:
            cls = _class_at(place) if awaited == name else None
            if cls is None:
                continue
            try:
                fitted(self._codec.decode(data, cls), cls)
            except Exception as error:
                why = misfits(error.errors()) if isinstance(error, ValidationError) else error
                raise CodecError(
                    f"execution {record.id!r} waits for a signal {name!r} with a {place}; "
                    f"the payload does not fit: {why}"
                ) from error

    def _deliver(self, execution_id: str, kind: str, event: Event, *, code: str = "") -> int:
        row = InboxRow(f"{kind}/{uuid.uuid4().hex}", kind, encode_entry(Entry(0, event)), event.at)
        [answer] = self._backend.write([Deliver(execution_id, row)])
        self._backend.notify([execution_id], code=code)
        return answer.inbox_last if isinstance(answer, Done) else 0

    def _rewind(self, record: ExecutionRecord) -> None:
        operation = self._plan_rewind(record)
        self._backend.write([operation])
        self._backend.submit([self._backend.record(record.id)], code=self._code.fingerprint_if_known(record))
        self._backend.notify([child.execution_id for child in operation.children])

    def _plan_rewind(self, record: ExecutionRecord) -> Rewind:
        """Return the rewind; wait until the children that the execution cancelled have ended."""
        clock = self._backend.clock
        give_up = clock.monotonic() + self._settle_timeout
        while True:
            try:
                return RewindPlanner(self._backend, record, clock.now()).plan()
            except UnsettledError as child:
                if clock.monotonic() >= give_up:
                    raise InvalidTransition(
                        record.id,
                        status=f"failed, and its cancelled child {str(child)!r} has not ended yet",
                        action="resume",
                        hint="Resume it when the child has ended",
                    ) from None
            clock.sleep(0.02)


def _class_at(place: str) -> type | None:
    """Return a class by ``module:qualname``; None if it cannot be imported here."""
    module, _, qualname = place.partition(":")
    if not qualname:
        return None
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # noqa: BLE001 - a module may raise anything; the receiver checks the payload then
        return None
    return found if isinstance(found, type) else None
