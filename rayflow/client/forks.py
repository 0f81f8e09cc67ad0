"""Forks: executions that take over a recorded prefix of another one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayflow.client.backend import Backend
from rayflow.client.code import ClientCode
from rayflow.client.handle import ExecutionHandle, Handles
from rayflow.client.starts import Starter
from rayflow.core.events import Entry, Forked
from rayflow.core.execution.forks import ForkPlan, plan_fork
from rayflow.definition.checks import check_name
from rayflow.definition.options import ExecutionOptions
from rayflow.definition.start_options import SavedWorkflow
from rayflow.definition.workflow import AnyWorkflow
from rayflow.errors import CorruptRecord, ExecutionAlreadyExists, InvalidTransition
from rayflow.runtime.code.environment import environment_id
from rayflow.storage.codec.journal import decode_entry, encode_entry
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec
from rayflow.storage.damage import DamagedRecord, options_of, readable, remedy
from rayflow.storage.model import DefinitionRecord, ExecutionRecord, JournalRow
from rayflow.storage.operations import AlreadyExists, Start
from rayflow.storage.rules.starts import carried_rows, identity_of, new_execution


class Forks:
    """Forks executions for an engine.

    Args:
        backend: where journals are read and forks are written.
        starter: finds other versions of workflows.
        handles: makes handles.
        codec: decodes inputs.
        encoder: encodes inputs and state.
        code: fingerprints the code that a fork runs.
        new_seed: returns a seed for an execution id and a nonce.
    """

    def __init__(
        self,
        backend: Backend,
        starter: Starter,
        handles: Handles,
        *,
        codec: MsgpackCodec,
        encoder: LargeValueEncoder,
        code: ClientCode,
        new_seed: Callable[[str, str], int],
    ) -> None:
        self._backend = backend
        self._starter = starter
        self._handles = handles
        self._codec = codec
        self._encoder = encoder
        self._code = code
        self._new_seed = new_seed

    def fork(
        self,
        execution_id: str,
        *,
        before: str | int,
        id: str | None,
        args: tuple[Any, ...] | None,
        kwargs: Mapping[str, Any] | None,
        state: Mapping[str, Any] | None,
        workflow: AnyWorkflow | SavedWorkflow | None,
        options: ExecutionOptions | None,
        allow_reacquire: bool,
    ) -> ExecutionHandle[Any]:
        """Start a fork; ``engine.fork`` documents the arguments."""
        source, plan = self._plan(execution_id, before, allow_reacquire=allow_reacquire)
        other = self._other_version(source, workflow)
        given, identity = self._input(source, args, kwargs)
        nonce = uuid.uuid4().hex
        made = new_execution(
            other or source,
            given,
            identity,
            execution_id=id or "",
            options=options or options_of(source).replace(deadline=None, singleton=None),
            nonce=nonce,
            seed=source.seed,  # recorded results depend on the numbers that the source has drawn
            now=self._backend.clock.now(),
        )
        made = replace(
            made,
            run=source.run,
            forked_from=source.id,
            code_fingerprint=self._code.fingerprint(other or source),
            environment_id=environment_id(made.environment),
        )
        return self._start(made, plan, state or {}, self._new_seed(made.id, nonce))

    def _plan(self, execution_id: str, before: str | int, *, allow_reacquire: bool) -> tuple[ExecutionRecord, ForkPlan]:
        source = self._backend.record(execution_id)
        if isinstance(source, DamagedRecord):
            raise source.error
        rows = self._backend.journal(execution_id)
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
                hint="Fork it before that, or with allow_reacquire=True (--allow-reacquire): locks are acquired and "
                "children started again",
            )
        return source, plan

    def _input(
        self, source: ExecutionRecord, args: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[bytes, str]:
        """Return the encoded input of the fork and its digest."""
        if args is None and kwargs is None:
            return source.input, source.identity
        old_args, old_kwargs = self._codec.decode(source.input)
        chosen = (old_args if args is None else args, dict(old_kwargs if kwargs is None else kwargs))
        return self._encoder.encode(chosen), identity_of(source.workflow_id, *chosen)

    def _other_version(
        self, source: ExecutionRecord, workflow: AnyWorkflow | SavedWorkflow | None
    ) -> DefinitionRecord | None:
        if workflow is None:
            return None
        found = self._starter.definition(workflow)
        if found.workflow_id != source.workflow_id:
            raise InvalidTransition(
                source.id, status=f"of workflow {source.workflow_id!r}", action="fork",
                hint=f"Workflow {found.workflow_id!r} is not a version of it",
            )  # fmt: skip
        return found

    def _start(
        self, record: ExecutionRecord, plan: ForkPlan, state: Mapping[str, Any], seed: int
    ) -> ExecutionHandle[Any]:
        encoded = {check_name("state key", key): self._encoder.encode(value) for key, value in state.items()}
        last = len(plan.entries) + 1
        at = max([record.created_at, *(entry.event.at for entry in plan.entries[-1:])])
        entries = [*plan.entries, Entry(last, Forked(at, record.forked_from, plan.to, encoded, plan.before, seed))]
        rows = tuple(JournalRow(entry.seq, encode_entry(entry)) for entry in entries)
        # Its own signals are numbered after those that it takes over.
        record = replace(record, last_seq=last, inbox_last=plan.inbox, inbox_done=plan.inbox)
        [answer] = self._backend.write([Start(record, rows, carried_rows(plan.carried, "fork"))])
        if isinstance(answer, AlreadyExists) and not self._is_that_fork(answer.record, record, rows):
            raise ExecutionAlreadyExists(record.id, reason="a fork needs an id that no execution has")
        self._backend.submit([self._backend.record(record.id)])
        return self._handles.of(record.id)

    def _is_that_fork(self, there: ExecutionRecord, asked: ExecutionRecord, rows: Sequence[JournalRow]) -> bool:
        """Return whether an execution is the very fork that is requested, so that a repeated request makes one."""
        if there.start_nonce == asked.start_nonce:
            return True
        same = ("workflow_id", "version", "input", "forked_from", "run")
        if any(getattr(there, name) != getattr(asked, name) for name in same):
            return False
        found = self._backend.journal(there.id)
        *prefix, last = rows
        if found[: len(prefix)] != prefix or len(found) < len(rows):
            return False
        forked, asked_for = (decode_entry(there.id, row.seq, row.body).event for row in (found[len(prefix)], last))
        return (
            isinstance(forked, Forked)
            and isinstance(asked_for, Forked)
            and replace(forked, at=asked_for.at, seed=asked_for.seed) == asked_for
        )
