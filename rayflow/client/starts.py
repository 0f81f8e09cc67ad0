"""Starts of executions and saved workflows."""

from __future__ import annotations

import json
import uuid
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from rayflow.client.backend import Backend
from rayflow.client.handle import ExecutionHandle, Handles
from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import by_value, reference
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.options import EngineConfig
from rayflow.definition.start_options import SavedWorkflow, WorkflowCall
from rayflow.definition.workflow import Workflow
from rayflow.errors import InvalidArgument
from rayflow.runtime.code.environment import Environment
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec
from rayflow.storage.model import DefinitionRecord, ExecutionRecord
from rayflow.storage.operations import AlreadyExists, Start
from rayflow.storage.rules.starts import check_same_start, new_record


class Starter:
    """Saves workflows and starts executions for an engine.

    Args:
        backend: where records are written.
        handles: makes handles.
        config: the engine's configuration.
        codec: says whether code may be pickled.
        encoder: encodes inputs.
        environment: the code environment of this process.
        new_seed: returns a seed for an execution id and a nonce.
    """

    def __init__(
        self,
        backend: Backend,
        handles: Handles,
        *,
        config: EngineConfig,
        codec: MsgpackCodec,
        encoder: LargeValueEncoder,
        environment: Environment,
        new_seed: Callable[[str, str], int],
    ) -> None:
        self._backend = backend
        self._handles = handles
        self._config = config
        self._codec = codec
        self._encoder = encoder
        self._environment = environment
        self._new_seed = new_seed
        self._nonce = uuid.uuid4().hex
        # With the steps that a declared workflow had: more can be added until it is registered again.
        self._registered: weakref.WeakKeyDictionary[Any, tuple[object, DefinitionRecord]] = weakref.WeakKeyDictionary()

    def register(self, workflow: WorkflowDefinition) -> DefinitionRecord:
        """Save a workflow unless it is saved already, and return its definition."""
        if not isinstance(workflow, WorkflowFunction | Workflow):
            raise InvalidArgument(f"{workflow!r} is not a workflow: pass an @rf.workflow function or an rf.Workflow")
        steps = workflow.steps if isinstance(workflow, Workflow) else None
        known = self._registered.get(workflow)
        if known is not None and known[0] is steps:
            return known[1]
        code = reference(workflow)
        if code is None:
            code, blob = by_value(workflow, allow_pickle=self._codec.allow_pickle)
            self._backend.put_blob(code.digest, blob)
        record = DefinitionRecord(
            workflow_id=workflow.id,
            version=workflow.version,
            name=getattr(workflow, "name", "") or workflow.id,
            description=workflow.description,
            code=json.dumps(code.to_dict(), sort_keys=True).encode(),
            source_sha256=code.source_sha256,
            saved_at=self._backend.clock.now(),
            environment=self._environment.to_json(),
        )
        self._backend.save_definition(record)
        self._registered[workflow] = (steps, record)
        return record

    def delete(self, workflow_id: str) -> bool:
        """Delete a saved workflow; return whether there was one."""
        self._registered.clear()
        return self._backend.delete_definition(workflow_id)

    def definition(self, workflow: WorkflowDefinition | SavedWorkflow) -> DefinitionRecord:
        """Return the definition of a workflow; save it first if it is not a saved one."""
        if isinstance(workflow, SavedWorkflow):
            return self._backend.definition(workflow.id, workflow.version)
        return self.register(workflow)

    def start(self, calls: Sequence[WorkflowCall[Any]]) -> list[ExecutionHandle[Any]]:
        """Start an execution for each call, in one transaction, and return their handles."""
        records = [self._record(call) for call in calls]
        answers = self._backend.write([Start(each) for each in records])
        pairs = list(zip(records, answers, strict=True))
        self._backend.submit([record for record, answer in pairs if not isinstance(answer, AlreadyExists)])
        for record, answer in pairs:
            if isinstance(answer, AlreadyExists):
                check_same_start(record, answer.record)
        returns = [getattr(call.configured.workflow, "returns", None) for call in calls]
        return [self._handles.of(record.id, kind) for record, kind in zip(records, returns, strict=True)]

    def _record(self, call: WorkflowCall[Any]) -> ExecutionRecord:
        chosen: Any = call.configured
        if chosen.on_parent_end is not None:
            raise InvalidArgument(
                f"workflow {chosen.workflow.id!r}: on_parent_end applies to children only; leave it out"
            )
        nonce = f"{self._nonce}/{uuid.uuid4().hex}"
        return new_record(
            self.definition(chosen.workflow),
            call.args,
            dict(call.kwargs),
            execution_id=chosen.id or "",
            options=self._config.execution.replace(**chosen.changes),
            encode=self._encoder.encode,
            nonce=nonce,
            seed=self._new_seed(chosen.id or "", nonce),
            now=self._backend.clock.now(),
        )
