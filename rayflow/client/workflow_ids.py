"""One workflow for each id and version: two that would take turns under one id are refused."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from typing import Any

import cloudpickle

from rayflow.definition.code import CodeRef, source_hash
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.workflow import Workflow
from rayflow.errors import DefinitionError
from rayflow.runtime.code.sources import ModuleFinder

AnyWorkflow = WorkflowFunction[..., Any] | Workflow


class WorkflowIds:
    """The workflows that an engine has recorded, by id and version.

    An edit of a workflow in its place is the same workflow. Two places, or one function with other values in its
    closure, are two workflows.
    """

    def __init__(self) -> None:
        self._closures: dict[tuple[str, str], tuple[str, str]] = {}

    def check(self, workflow: AnyWorkflow, code: CodeRef, earlier: CodeRef | None) -> None:
        """Check that a workflow is the only one of its id and version.

        Args:
            workflow: the workflow.
            code: where it is found.
            earlier: where the one that was recorded last is found; None if there is none.

        Raises:
            DefinitionError: there is another one; it says where both are.
        """
        if earlier is not None:
            if twin := _twin(workflow):
                raise _ambiguous(workflow, f"{code.place} and {workflow_module(workflow)}:{twin}")
            if _is_elsewhere(workflow, code, earlier):
                raise _ambiguous(workflow, f"{earlier.place}, which was recorded first, and {code.place}")
        self._check_closure(workflow, code)

    def forget(self, workflow_id: str) -> None:
        """Forget the workflows of an id."""
        for known in [known for known in self._closures if known[0] == workflow_id]:
            del self._closures[known]

    def _check_closure(self, workflow: AnyWorkflow, code: CodeRef) -> None:
        if not isinstance(workflow, WorkflowFunction) or "<locals>" not in code.qualname:
            return
        key, seen = (workflow.id, workflow.version), (source_hash(workflow), _closure_digest(workflow))
        source, closure = self._closures.get(key, seen)
        if source == seen[0] and closure != seen[1]:
            names = ", ".join(workflow.fn.__code__.co_freevars)
            raise _ambiguous(workflow, f"{code.place} with one value of {names}, and the same function with another")
        self._closures[key] = seen


def _ambiguous(workflow: AnyWorkflow, places: str) -> DefinitionError:
    return DefinitionError(
        f"workflow id {workflow.id!r} (version {workflow.version!r}) belongs to two workflows: {places}. A start by "
        "that id would run the one that was recorded last. Give each an id of its own, as in @rf.workflow(id=…), or "
        "another version; if one replaces the other, delete that, or call "
        f"engine.delete_workflow({workflow.id!r}) first"
    )


def workflow_module(workflow: AnyWorkflow) -> str:
    """Return the name of the module that a workflow stands in."""
    return str(getattr(workflow.fn, "__module__", "") or workflow.home)


def _twin(workflow: AnyWorkflow) -> str:
    """Return the name of another workflow of the same id and version in the same module; "" if there is none."""
    module = sys.modules.get(workflow_module(workflow))
    for name, value in list(vars(module).items()) if module is not None else ():
        if value is not workflow and _is_same(value, workflow) and name != getattr(workflow.fn, "__qualname__", ""):
            return name
    return ""


def _is_same(value: object, workflow: AnyWorkflow) -> bool:
    return isinstance(value, WorkflowFunction | Workflow) and (value.id, value.version) == (
        workflow.id,
        workflow.version,
    )


def _is_elsewhere(workflow: AnyWorkflow, code: CodeRef, earlier: CodeRef) -> bool:
    """Whether the earlier one is another workflow of this project, which still is there."""
    if (earlier.module, earlier.qualname) == (code.module, code.qualname):
        return False
    module = sys.modules.get(earlier.module)
    if module is None and earlier.module != "__main__":
        files = dict(ModuleFinder().files(earlier.module))
        if earlier.module not in files or _is_file_of(workflow, files[earlier.module]):
            return False  # it was moved, belongs to another project, or is this very file, run as a script
        try:
            module = importlib.import_module(earlier.module)
        except Exception:  # noqa: BLE001 - a module may raise anything while it is imported
            return False
    if module is None or _is_file_of(workflow, str(getattr(module, "__file__", ""))):
        return False
    found: object = module
    for part in earlier.qualname.split("."):
        found = getattr(found, part, None)
    return found is not workflow and _is_same(found, workflow)


def _is_file_of(workflow: AnyWorkflow, file: str) -> bool:
    own = str(getattr(sys.modules.get(workflow_module(workflow)), "__file__", None) or "")
    return bool(own and file) and os.path.realpath(own) == os.path.realpath(file)


def _closure_digest(workflow: WorkflowFunction[..., Any]) -> str:
    cells = workflow.fn.__closure__ or ()
    try:
        return hashlib.sha256(cloudpickle.dumps([cell.cell_contents for cell in cells])).hexdigest()
    except Exception:  # noqa: BLE001 - what cannot be pickled says so where the workflow is
        return ""
