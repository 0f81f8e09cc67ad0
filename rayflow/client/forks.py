"""Durable control from outside: signals, forks, locks for scripts, schedules. A part of both engines."""

from __future__ import annotations

import abc
import importlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from rayflow.client.handle import ExecutionHandle
from rayflow.client.locks import Lease, Locks
from rayflow.client.queries import ExecutionQueries
from rayflow.client.schedules import Schedules
from rayflow.core.events import Entry, Forked
from rayflow.core.execution.forks import ForkPlan, plan_fork
from rayflow.core.execution.requests import WaitsFor
from rayflow.definition.checks import check_name, fitted, misfits
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.options import EngineConfig, ExecutionOptions
from rayflow.definition.workflow import Workflow
from rayflow.errors import CodecError, CorruptRecord, ExecutionAlreadyExists, InvalidTransition
from rayflow.runtime.actors.base import ActorSystem
from rayflow.runtime.code.environment import Environment, environment_id
from rayflow.storage.codec.journal import decode_entry, encode_entry
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec
from rayflow.storage.damage import DamagedRecord, options_of, readable, remedy
from rayflow.storage.model import DefinitionRecord, ExecutionRecord, JournalRow
from rayflow.storage.operations import AlreadyExists, Deliver, Start
from rayflow.storage.rules.starts import carried_rows, fresh_record, identity_of, signal_row

AnyWorkflow = WorkflowFunction[..., Any] | Workflow


class Control(ExecutionQueries, abc.ABC):
    """See the module's docstring.

    Args:
        system: where the actors are.
        codec: reads and writes payloads.

    Attributes:
        locks: the locks and semaphores, and who has them.
        schedules: what is started by itself, and when.
    """

    #: The engine's.
    config: EngineConfig
    #: Writes what is recorded.
    _keeping: LargeValueEncoder
    #: The code environment of this process.
    _env: Environment

    def __init__(self, system: ActorSystem, codec: MsgpackCodec) -> None:
        super().__init__(system, codec)
        self.locks = Locks(self)
        self.schedules = Schedules(self, codec)

    # --- signals -------------------------------------------------------------------------------------------
    def signal(self, execution_id: str, name: str, payload: Any = None, *, key: str | None = None) -> None:
        """Send a signal. It is durable when this returns, and the execution receives it exactly once, in order.

        It may be sent before the execution waits for it, and while it is parked or paused.

        Args:
            execution_id: to whom.
            name: the signal's name.
            payload: anything that the codec can write.
            key: another signal with the same key is the same signal, and is not received again; None for a new one.

        Raises:
            ExecutionNotFound: there is no such execution.
            InvalidTransition: it is over.
            CodecError: the payload cannot be written, or is not what the execution waits for.

        Example:
            >>> engine.signal("doc-17", "review", Verdict(ok=True), key="review-17")  # doctest: +SKIP
        """
        record = self.record(execution_id)
        self._check_fits(record, check_name("signal name", name), self._codec.encode(payload))
        row = signal_row(name, self._keeping.encode(payload), f"signal/{key or uuid.uuid4().hex}", self.clock.now())
        self._write([Deliver(execution_id, row)])
        self._supervisor().send("nudge", (execution_id,), self._code.fingerprint_now(record))

    def _check_fits(self, record: ExecutionRecord, name: str, data: bytes) -> None:
        """Whether a payload is what the execution waits for, as far as that can be told here."""
        for awaited, place in WaitsFor.from_text(record.waits).signals:
            cls = _class_at(place) if awaited == name else None
            if cls is None:
                continue
            try:
                fitted(self._codec.decode(data, cls), cls)
            except Exception as error:
                why = misfits(error) if isinstance(error, ValidationError) else error
                raise CodecError(
                    f"execution {record.id!r} waits for a signal {name!r} with a {place}, and this payload is none: "
                    f"{why}"
                ) from error

    # --- forks ---------------------------------------------------------------------------------------------
    def fork(
        self,
        execution_id: str,
        *,
        before: str | int,
        id: str | None = None,
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        workflow: AnyWorkflow | None = None,
        version: str | None = None,
        options: ExecutionOptions | None = None,
        allow_reacquire: bool = False,
    ) -> ExecutionHandle[Any]:
        """Start an execution that takes over what another one recorded, and does the rest again.

        Results that were recorded later of steps before that one are taken over as well; signals that came later are
        not.

        Args:
            execution_id: the other execution, whatever its status; it stays as it is.
            before: the step from which on all is done again: its name (the first one of that name) or its number.
            id: the new execution's id; None for a new one. The same fork under the same id is the same execution.
            args: other arguments of the workflow; None leaves them.
            kwargs: the same, by name.
            state: keys of ``rf.state`` to be set there.
            workflow: another version of the workflow to go on with.
            version: the same, by the version of one that was saved.
            options: how it runs; None as the other one, from the beginning of its time.
            allow_reacquire: fork also where locks are held, children run or compensations are registered at that
                point: locks are acquired again, children are started again as the fork's own, compensations are the
                fork's to run.

        Raises:
            ExecutionNotFound: there is no such execution.
            InvalidTransition: it has not come to that step, or something is open there (see ``allow_reacquire``).
            CorruptRecord: its journal is damaged before that step; it says which steps come before the damage.
            WorkflowNotRegistered: there is no such version.
            ExecutionAlreadyExists: the id is taken by another execution.

        Example:
            >>> engine.fork("doc-17", before="review", state={"reviewer": "ada"}).result()  # doctest: +SKIP
        """
        source, plan = self._fork_plan(execution_id, before, allow_reacquire=allow_reacquire)
        other = self._other_version(source, workflow, version)
        given, identity = self._given(source, args, kwargs)
        made = fresh_record(
            other or source,
            given,
            identity,
            execution_id=id or "",
            options=options or options_of(source).replace(deadline=None, singleton=None),
            nonce=uuid.uuid4().hex,
            now=self.clock.now(),
        )
        made = replace(
            made,
            run=source.run,
            forked_from=source.id,
            code_fingerprint=self._code.fingerprint(other or source),
            environment_id=environment_id(made.environment),
        )
        return self._start_fork(made, plan, state or {})

    def _fork_plan(
        self, execution_id: str, before: str | int, *, allow_reacquire: bool
    ) -> tuple[ExecutionRecord, ForkPlan]:
        source = self.record(execution_id)
        if isinstance(source, DamagedRecord):
            raise source.error
        rows: list[JournalRow] = self._persistence().call("journal", execution_id)
        entries, damage = readable(execution_id, rows, source.last_seq)
        try:
            plan = plan_fork(execution_id, entries, before)
        except InvalidTransition as error:
            if damage is None:
                raise
            raise CorruptRecord(execution_id, f"{damage.detail}. {remedy(source, rows)}") from error
        if plan.open and not allow_reacquire:
            raise InvalidTransition(
                execution_id,
                status=f"at a point where {', '.join(dict.fromkeys(plan.open))} is open",
                action="fork",
                hint="Fork it before that, or with allow_reacquire=True (--allow-reacquire): "
                "locks are acquired, children started again",
            )
        return source, plan

    def _given(
        self, source: ExecutionRecord, args: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[bytes, str]:
        """The input of a fork, and its digest."""
        if args is None and kwargs is None:
            return source.input, source.identity
        old_args, old_kwargs = self._codec.decode(source.input)
        chosen = (old_args if args is None else args, dict(old_kwargs if kwargs is None else kwargs))
        return self._keeping.encode(chosen), identity_of(source.workflow_id, *chosen)

    def _other_version(
        self, source: ExecutionRecord, workflow: AnyWorkflow | None, version: str | None
    ) -> DefinitionRecord | None:
        if workflow is None and version is None:
            return None
        found = self.register(workflow) if workflow is not None else self.saved(source.workflow_id, version)
        if found.workflow_id != source.workflow_id:
            raise InvalidTransition(
                source.id, status=f"of workflow {source.workflow_id!r}", action="fork",
                hint=f"Workflow {found.workflow_id!r} is no version of it",
            )  # fmt: skip
        return found

    @abc.abstractmethod
    def register(self, workflow: AnyWorkflow) -> DefinitionRecord:
        """Save a workflow."""

    @abc.abstractmethod
    def saved(self, workflow_id: str, version: str | None = None) -> DefinitionRecord:
        """A saved workflow: that version, or the one that was saved last."""

    @abc.abstractmethod
    def handle(self, execution_id: str) -> ExecutionHandle[Any]:
        """A handle on an execution."""

    def _start_fork(self, record: ExecutionRecord, plan: ForkPlan, state: Mapping[str, Any]) -> ExecutionHandle[Any]:
        encoded = {check_name("state key", key): self._keeping.encode(value) for key, value in state.items()}
        last = len(plan.entries) + 1
        at = max([record.created_at, *(entry.event.at for entry in plan.entries[-1:])])
        entries = [*plan.entries, Entry(last, Forked(at, record.forked_from, plan.to, encoded))]
        rows = tuple(JournalRow(entry.seq, encode_entry(entry)) for entry in entries)
        # Its own signals are numbered after those that it takes over.
        record = replace(record, last_seq=last, inbox_last=plan.inbox, inbox_done=plan.inbox)
        [answer] = self._write([Start(record, rows, carried_rows(plan.carried, "fork"))])
        if isinstance(answer, AlreadyExists) and not self._is_that_fork(answer.record, record, rows):
            raise ExecutionAlreadyExists(record.id, reason="a fork needs an id of its own")
        self._supervisor().send("submit", [self.record(record.id)])
        return self.handle(record.id)

    def _is_that_fork(self, there: ExecutionRecord, asked: ExecutionRecord, rows: Sequence[JournalRow]) -> bool:
        """Whether an execution is the very fork that is asked for, so that asking twice makes one."""
        if there.start_nonce == asked.start_nonce:
            return True
        same = ("workflow_id", "version", "input", "forked_from", "run")
        if any(getattr(there, name) != getattr(asked, name) for name in same):
            return False
        found: list[JournalRow] = self._persistence().call("journal", there.id)
        *prefix, last = rows
        if found[: len(prefix)] != prefix or len(found) < len(rows):
            return False
        forked, asked_for = (decode_entry(there.id, row.seq, row.body).event for row in (found[len(prefix)], last))
        return isinstance(forked, Forked) and replace(forked, at=asked_for.at) == asked_for

    # --- locks ---------------------------------------------------------------------------------------------
    def lock(self, name: str, *, ttl: float = 30.0, timeout: float | None = None) -> Lease:
        """A lock for scripts, shared with the workflows that use ``rf.lock(name)``: ``with engine.lock("ledger"):``.

        It is a lease: renewed while this process lives, and given to the next one ``ttl`` seconds after it died.

        Args:
            name: the lock's name.
            ttl: seconds that the lease lasts without being renewed.
            timeout: seconds to wait for it at most; None for as long as it takes, 0 not to wait.

        Raises:
            LockUnavailable: in ``with``: it was not free in that time.

        Example:
            >>> with engine.lock("ledger") as lease:  # doctest: +SKIP
            ...     book(entry, token=lease.token)
        """
        return self.semaphore(name, 1, ttl=ttl, timeout=timeout)

    def semaphore(self, name: str, permits: int, *, ttl: float = 30.0, timeout: float | None = None) -> Lease:
        """A lock that so many have at a time; see :meth:`lock`."""
        return Lease(self, name, permits, ttl, timeout)


def _class_at(place: str) -> type | None:
    """A class by ``module:qualname``; None if it is not at hand here."""
    module, _, qualname = place.partition(":")
    if not qualname:
        return None
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # noqa: BLE001 - a module may raise anything; then the receiver checks it
        return None
    return found if isinstance(found, type) else None
