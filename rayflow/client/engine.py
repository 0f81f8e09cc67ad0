"""What both engines have in common: everything but where the actors run."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar, overload

from rayflow.client.code import ClientCode, reference_in
from rayflow.client.forks import Control
from rayflow.client.handle import ExecutionHandle, Watcher
from rayflow.client.pools import QueueBackpressure, portable
from rayflow.client.retention import PurgePasses, PurgeResult, meant
from rayflow.client.views import WorkflowInfo, workflow_infos
from rayflow.client.workflow_ids import WorkflowIds
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.options import EngineConfig, ExecutionOptions
from rayflow.definition.workflow import Workflow
from rayflow.errors import (
    CodecError,
    CorruptRecord,
    DefinitionError,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionTimeout,
    Failure,
    WorkflowNotRegistered,
)
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors.base import ActorSystem
from rayflow.runtime.code.environment import Environment, environment_id
from rayflow.runtime.large_values import put_value
from rayflow.runtime.settings import Settings
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec
from rayflow.storage.damage import check_payload, failure_or_damage
from rayflow.storage.model import DefinitionRecord, ExecutionRecord
from rayflow.storage.operations import AlreadyExists, Start
from rayflow.storage.rules.starts import check_same_start, new_record

log = logging.getLogger(__name__)


class _Chosen(NamedTuple):
    """The workflow that is started, the annotation of its result, and the fingerprint of its code."""

    definition: DefinitionRecord
    returns: Any
    fingerprint: str


P = ParamSpec("P")
R = TypeVar("R")


class Engine(Control):
    """Starts executions and steers them. Use :class:`DistributedEngine` or :class:`LocalEngine`.

    Args:
        system: where the actors are.
        config: the configuration.
        url: the store's URL.
        env: the code environment of this process.
    """

    def __init__(self, system: ActorSystem, config: EngineConfig, url: str, env: Environment) -> None:
        super().__init__(system, MsgpackCodec(allow_pickle=config.allow_pickle))
        self.config = config
        self._keeping = LargeValueEncoder(
            self._codec,
            lambda reference, data: put_value(self._persistence(), reference, data),
            config.large_value_bytes,
        )
        self.store = url
        self.watcher = Watcher(system)
        self._env = env
        self._nonce = uuid.uuid4().hex
        self._code = ClientCode(env, self._persistence)
        self._ids = WorkflowIds()
        self._registered: dict[tuple[str, str], DefinitionRecord] = {}
        self._room: QueueBackpressure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go. Executions go on where their actors outlive this process; LocalEngine stops with it."""
        self._closed = True
        self.watcher.close()

    def _settings(self) -> Settings:
        """What the actors are made with; the store has to be there."""
        config = self.config
        if config.pool.setup is not None:
            config = config.replace(pool=portable(config.pool, self._system, allow_pickle=config.allow_pickle))
        return Settings(url=self.store, config=config)

    # --- definitions ---------------------------------------------------------------------------------------
    def register(self, workflow: WorkflowFunction[..., Any] | Workflow) -> DefinitionRecord:
        """Save a workflow, so that it can be run by its id alone, from any process.

        What can be imported is saved as a reference, anything else by value, as it is now, with its steps and lambdas.

        Raises:
            DefinitionError: it can be neither imported nor pickled, or is to be pickled where that is not allowed; or
                another workflow has its id and version.
        """
        code = self._code.record(workflow, allow_pickle=self._codec.allow_pickle)
        known = self._registered.get((workflow.id, workflow.version))
        encoded = json.dumps(code.to_dict(), sort_keys=True).encode()
        if known is not None and known.code == encoded:
            return known
        if known is None:
            known = self._persistence().call("definition", workflow.id, workflow.version)
        self._ids.check(workflow, code, reference_in(known))
        record = DefinitionRecord(
            workflow_id=workflow.id,
            version=workflow.version,
            name=getattr(workflow, "name", "") or workflow.id,
            description=workflow.description,
            code=encoded,
            source_sha256=code.source_sha256,
            saved_at=self.clock.now(),
            environment=self._env.to_json(),
        )
        self._persistence().call("save_definition", record)
        self._registered[workflow.id, workflow.version] = record
        return record

    def workflows(self) -> list[WorkflowInfo]:
        """The versions of workflows, by id, newest first, each with the number of its unfinished executions."""
        return workflow_infos(self._persistence().call("definitions"), self._persistence().call("versions"))

    def delete_workflow(self, workflow_id: str) -> bool:
        """Forget a saved workflow; its executions keep what they need. Answers whether there was one."""
        self._registered.clear()
        self._ids.forget(workflow_id)
        gone: bool = self.ask_once("delete_definition", workflow_id)
        return gone

    # --- starting ------------------------------------------------------------------------------------------
    @overload
    def start(
        self,
        workflow: WorkflowFunction[P, R],
        *args: Any,
        id: str | None = None,
        options: ExecutionOptions | None = None,
        wait: bool = True,
        **kwargs: Any,
    ) -> ExecutionHandle[R]: ...
    @overload
    def start(
        self,
        workflow: Workflow,
        *args: Any,
        id: str | None = None,
        options: ExecutionOptions | None = None,
        wait: bool = True,
        **kwargs: Any,
    ) -> ExecutionHandle[dict[str, Any]]: ...
    @overload
    def start(
        self,
        workflow: str,
        *args: Any,
        id: str | None = None,
        options: ExecutionOptions | None = None,
        wait: bool = True,
        **kwargs: Any,
    ) -> ExecutionHandle[Any]: ...
    def start(
        self,
        workflow: WorkflowFunction[..., Any] | Workflow | str,
        *args: Any,
        id: str | None = None,
        options: ExecutionOptions | None = None,
        wait: bool = True,
        **kwargs: Any,
    ) -> ExecutionHandle[Any]:
        """Start an execution. It is durable once this returns.

        Args:
            workflow: the workflow, or the id of one that was registered or started before.
            args: the workflow's arguments.
            id: the execution's id; starting it again with the same workflow and input answers the same
                execution. None for a new one.
            options: how it runs; None takes ``config.execution``.
            wait: wait while the queue of the default pool is at its ``queue_limit``; False raises QueueFull.
            kwargs: the workflow's keyword arguments.

        Raises:
            QueueFull: see ``wait``; nothing was started.
            ExecutionAlreadyExists: the id belongs to another workflow or input.
            WorkflowNotRegistered: no workflow has that id.
            DefinitionError: the workflow cannot be registered.
            TypeError: the arguments do not fit.
            StorageUnavailable: the store cannot be written now. If it failed half way, the start may yet have been
                recorded: the same start under the same id is safe in any case.

        Example:
            >>> handle = engine.start(analyse, "…", id="doc-17")  # doctest: +SKIP
        """
        chosen = self._chosen(workflow, [(args, kwargs)])
        record = self._record(chosen, args, kwargs, id, options)
        self._room.make(wait=wait)
        [handle] = self._start([record], chosen.returns)
        return handle

    def start_many(
        self,
        workflow: WorkflowFunction[..., R] | Workflow | str,
        inputs: Iterable[Any],
        *,
        ids: Sequence[str] | None = None,
        options: ExecutionOptions | None = None,
        wait: bool = True,
    ) -> list[ExecutionHandle[Any]]:
        """Start one execution for each input, in one transaction.

        Args:
            workflow: as for :meth:`start`.
            inputs: one tuple of arguments each; anything but a tuple is the only argument.
            ids: as many ids, or None.
            options: how they run.
            wait: as for :meth:`start`, once for all of them.

        Raises:
            QueueFull: see ``wait``; nothing was started.
            ValueError: there are not as many ids as inputs.
        """
        arguments = [value if isinstance(value, tuple) else (value,) for value in inputs]
        if ids is not None and len(ids) != len(arguments):
            raise ValueError(f"start_many got {len(arguments)} inputs and {len(ids)} ids")
        if not arguments:
            return []
        chosen = self._chosen(workflow, [(args, {}) for args in arguments])
        records = [
            self._record(chosen, args, {}, None if ids is None else ids[position], options)
            for position, args in enumerate(arguments)
        ]
        self._room.make(wait=wait)
        return self._start(records, chosen.returns)

    def execute(
        self,
        workflow: WorkflowFunction[..., R] | Workflow | str,
        *args: Any,
        id: str | None = None,
        options: ExecutionOptions | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Start an execution and wait for its result: :meth:`start` and ``handle.result(timeout)`` in one."""
        return self.start(workflow, *args, id=id, options=options, **kwargs).result(timeout)

    def _chosen(
        self,
        workflow: WorkflowFunction[..., Any] | Workflow | str,
        arguments: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    ) -> _Chosen:
        returns = None
        if isinstance(workflow, str):
            definition = self._in_own_environment(self.saved(workflow))
        elif isinstance(workflow, WorkflowFunction | Workflow):
            for args, kwargs in arguments:
                workflow.bind(*args, **kwargs)
            definition, returns = self.register(workflow), workflow.returns
        else:
            raise DefinitionError(
                f"cannot start {workflow!r}: it needs a workflow (@rf.workflow or rf.Workflow) or the id of one"
            )
        return _Chosen(definition, returns, self._code.fingerprint(definition))

    def _in_own_environment(self, definition: DefinitionRecord) -> DefinitionRecord:
        """A saved workflow, with this process's variables and packages where its code is in the same place."""
        try:
            saved = Environment.from_json(definition.environment)
        except (ValueError, TypeError, KeyError):
            return definition  # whoever drives the execution says what is wrong with it
        return replace(definition, environment=self._env.to_json()) if self._env.has_code_of(saved) else definition

    def _record(
        self,
        chosen: _Chosen,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        execution_id: str | None,
        options: ExecutionOptions | None,
    ) -> ExecutionRecord:
        record = new_record(
            chosen.definition,
            args,
            kwargs,
            execution_id=execution_id or "",
            options=options or self.config.execution,
            encode=self._keeping.encode,
            nonce=f"{self._nonce}/{uuid.uuid4().hex}",
            now=self.clock.now(),
        )
        return replace(record, code_fingerprint=chosen.fingerprint, environment_id=environment_id(record.environment))

    def saved(self, workflow_id: str, version: str | None = None) -> DefinitionRecord:
        """A saved workflow: that version, or the one that was saved last. Raises WorkflowNotRegistered."""
        saved: DefinitionRecord | None = self._persistence().call("definition", workflow_id, version)
        if saved is None:
            infos = (info for info in self.workflows() if info.saved_at is not None)
            known = sorted({f"{info.workflow_id} (version {info.version})" for info in infos})
            what = workflow_id if version is None else f"{workflow_id} (version {version})"
            raise WorkflowNotRegistered(what, known=tuple(known))
        return saved

    def _start(self, records: Sequence[ExecutionRecord], returns: Any) -> list[ExecutionHandle[Any]]:
        answers = self._write([Start(record) for record in records])
        fresh = []
        for record, answer in zip(records, answers, strict=True):
            if isinstance(answer, AlreadyExists):
                check_same_start(record, answer.record)
            else:
                fresh.append(record)
        if fresh:
            self._supervisor().send("submit", fresh)
        return [ExecutionHandle(self, record.id, returns) for record in records]

    # --- deleting ------------------------------------------------------------------------------------------
    def purge(
        self,
        older_than: float | None = None,
        *,
        status: ExecutionStatus | str | Sequence[ExecutionStatus | str] = (),
        workflow: str | None = None,
        dry_run: bool = False,
    ) -> PurgeResult:
        """Delete executions that are over, with all that belongs to them. Totals and definitions stay.

        What is not over is never deleted, nor is a child of an execution that is under way or can be resumed.
        It happens in short transactions, beside whatever else goes on.

        Args:
            older_than: those that ended so many seconds ago, or earlier, whatever their retention; None for those
                whose own retention is over, which are deleted in the background anyway.
            status: only ``completed``, ``failed`` or ``cancelled`` ones, or several of these.
            workflow: only those of this workflow id.
            dry_run: delete nothing, and say what would be.

        Raises:
            DefinitionError: ``older_than`` is no number of seconds, or a status is none of something that is over.
            StorageUnavailable: the store cannot be written now; what was deleted by then is.

        Example:
            >>> engine.purge(older_than=30 * 86_400, status="completed").executions  # doctest: +SKIP
            1204
        """
        rounds = PurgePasses(meant(older_than, status, workflow, self.clock.now()), dry_run=dry_run)
        while rounds.next is not None:
            rounds.add(self.ask_once("collect", rounds.next, dry_run))  # else what it deletes might not be counted
        while rounds.deleted.executions and not dry_run and self._persistence().call("reclaim"):
            pass
        return rounds.deleted

    # --- looking -------------------------------------------------------------------------------------------
    def handle(self, execution_id: str) -> ExecutionHandle[Any]:
        """A handle on an execution, whoever started it. Raises ExecutionNotFound."""
        self.record(execution_id)
        return ExecutionHandle(self, execution_id)

    def outcome(self, record: ExecutionRecord, returns: Any = None) -> Any:
        """The result of an execution that is over, or its exception. Raises CorruptRecord where that is damaged."""
        if record.status is ExecutionStatus.COMPLETED:
            if record.result is None:
                raise CorruptRecord(record.id, "the result in its row is missing")
            try:
                return self._codec.decode(record.result, returns)
            except CodecError:
                check_payload(record.id, "the result in its row", record.result)
                raise
        failure = failure_or_damage(record) or Failure(type="unknown", message="")
        if record.status is ExecutionStatus.CANCELLED:
            raise ExecutionCancelled(record.id, reason=failure.message)
        if failure.matches(ExecutionTimeout):
            raise ExecutionTimeout(record.id, failure)
        raise ExecutionFailed(record.id, failure)
