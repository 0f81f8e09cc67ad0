"""Starts of executions and saved workflows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rayflow.client.backend import Backend
from rayflow.client.code import ClientCode, code_reference
from rayflow.client.handle import ExecutionHandle, Handles
from rayflow.client.workflow_ids import WorkflowIds
from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.options import EngineConfig
from rayflow.definition.start_options import SavedWorkflow, WorkflowCall
from rayflow.definition.workflow import Workflow
from rayflow.errors import InvalidArgument
from rayflow.runtime.code.environment import Environment, environment_id
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec
from rayflow.storage.model import DefinitionRecord, ExecutionRecord
from rayflow.storage.operations import AlreadyExists, Start
from rayflow.storage.rules.starts import check_same_start, new_record


class _Chosen(NamedTuple):
    """A workflow to start, and the fingerprint of its code."""

    definition: DefinitionRecord
    fingerprint: str


class Starter:
    """Saves workflows and starts executions for an engine.

    Args:
        backend: where records are written.
        handles: makes handles.
        config: the engine's configuration.
        codec: says whether code may be pickled.
        encoder: encodes inputs.
        code: records and fingerprints the code of workflows.
        environment: the code environment of this process.
        new_seed: returns a seed for an execution id and a nonce.

    Attributes:
        environment: as given; replaced when the digest of its variables is known.
    """

    def __init__(
        self,
        backend: Backend,
        handles: Handles,
        *,
        config: EngineConfig,
        codec: MsgpackCodec,
        encoder: LargeValueEncoder,
        code: ClientCode,
        environment: Environment,
        new_seed: Callable[[str, str], int],
    ) -> None:
        self._backend = backend
        self._handles = handles
        self._config = config
        self._codec = codec
        self._encoder = encoder
        self._code = code
        self.environment = environment
        self._new_seed = new_seed
        self._nonce = uuid.uuid4().hex
        self._ids = WorkflowIds()
        self._registered: dict[tuple[str, str], DefinitionRecord] = {}

    def register(self, workflow: WorkflowDefinition) -> DefinitionRecord:
        """Save a workflow as it is now unless it is saved already, and return its definition."""
        if not isinstance(workflow, WorkflowFunction | Workflow):
            raise InvalidArgument(f"{workflow!r} is not a workflow: pass an @rf.workflow function or an rf.Workflow")
        code = self._code.record(workflow, allow_pickle=self._codec.allow_pickle)
        encoded = json.dumps(code.to_dict(), sort_keys=True).encode()
        known = self._registered.get((workflow.id, workflow.version))
        if known is not None and known.code == encoded:
            return known
        if known is None:
            known = self._backend.find_definition(workflow.id, workflow.version)
        self._ids.check(workflow, code, code_reference(known))
        record = DefinitionRecord(
            workflow_id=workflow.id,
            version=workflow.version,
            name=getattr(workflow, "name", "") or workflow.id,
            description=workflow.description,
            code=encoded,
            source_sha256=code.source_sha256,
            saved_at=self._backend.clock.now(),
            environment=self.environment.to_json(),
        )
        self._backend.save_definition(record)
        self._registered[workflow.id, workflow.version] = record
        return record

    def delete(self, workflow_id: str) -> bool:
        """Delete a saved workflow; return whether there was one."""
        self._registered.clear()
        self._ids.forget(workflow_id)
        return self._backend.delete_definition(workflow_id)

    def definition(self, workflow: WorkflowDefinition | SavedWorkflow) -> DefinitionRecord:
        """Return the definition of a workflow; save it first if it is not a saved one."""
        if isinstance(workflow, SavedWorkflow):
            return self._backend.definition(workflow.id, workflow.version)
        return self.register(workflow)

    def start(self, calls: Sequence[WorkflowCall[Any]]) -> list[ExecutionHandle[Any]]:
        """Start an execution for each call, in one transaction, and return their handles."""
        chosen: dict[int, _Chosen] = {}
        for call in calls:
            workflow: Any = call.configured.workflow
            if id(workflow) not in chosen:
                chosen[id(workflow)] = self._choose(workflow)
        records = [self._record(call, chosen[id(call.configured.workflow)]) for call in calls]
        answers = self._backend.write([Start(each) for each in records])
        pairs = list(zip(records, answers, strict=True))
        self._backend.submit([record for record, answer in pairs if not isinstance(answer, AlreadyExists)])
        for record, answer in pairs:
            if isinstance(answer, AlreadyExists):
                check_same_start(record, answer.record)
        returns = [getattr(call.configured.workflow, "returns", None) for call in calls]
        return [self._handles.of(record.id, kind) for record, kind in zip(records, returns, strict=True)]

    def _choose(self, workflow: WorkflowDefinition | SavedWorkflow) -> _Chosen:
        definition = self.definition(workflow)
        if isinstance(workflow, SavedWorkflow):
            definition = self._in_this_environment(definition)
        return _Chosen(definition, self._code.fingerprint(definition))

    def _in_this_environment(self, definition: DefinitionRecord) -> DefinitionRecord:
        """Return a saved workflow, with the environment of this process where that imports the same code."""
        try:
            saved = Environment.from_json(definition.environment)
        except (ValueError, TypeError, KeyError):
            return definition  # the supervisor reports the damage
        if not self.environment.has_code_of(saved):
            return definition
        return replace(definition, environment=self.environment.to_json())

    def _record(self, call: WorkflowCall[Any], chosen: _Chosen) -> ExecutionRecord:
        configured: Any = call.configured
        if configured.on_parent_end is not None:
            raise InvalidArgument(
                f"workflow {configured.workflow.id!r}: on_parent_end applies to children only; leave it out"
            )
        nonce = f"{self._nonce}/{uuid.uuid4().hex}"
        record = new_record(
            chosen.definition,
            call.args,
            dict(call.kwargs),
            execution_id=configured.id or "",
            options=self._config.execution.replace(**configured.changes),
            encode=self._encoder.encode,
            nonce=nonce,
            seed=self._new_seed(configured.id or "", nonce),
            now=self._backend.clock.now(),
        )
        return replace(record, code_fingerprint=chosen.fingerprint, environment_id=environment_id(record.environment))
