"""Target of ``rayflow run``: a workflow in a module or a file, or a saved workflow."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rayflow.cli.exit_codes import UsageError
from rayflow.cli.open_engine import read_store
from rayflow.definition.code import CodeCache, CodeRef
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.options import EngineConfig
from rayflow.definition.start_options import SavedWorkflow
from rayflow.definition.step import Step
from rayflow.definition.workflow import Workflow
from rayflow.errors import IncompatibleVersion, RayflowError, WorkflowNotRegistered
from rayflow.runtime.code import environment
from rayflow.storage.base import Store
from rayflow.storage.model import DefinitionRecord

AnyWorkflow = WorkflowFunction[..., Any] | Workflow

#: Forms of a target, for help and messages.
TARGET_FORMS = "module:object, path/file.py:object, or the id of a saved workflow"


@dataclass(frozen=True, slots=True)
class Target:
    """Workflow to run.

    Args:
        start: what to pass to the engine.
        definition: the workflow that the input must fit; None if the code of a saved workflow cannot be loaded here.
    """

    start: AnyWorkflow | SavedWorkflow
    definition: AnyWorkflow | None


def find_target(text: str, url: str) -> Target:
    """Return the workflow that a command line names.

    Args:
        text: the target on the command line.
        url: the store, for the id of a saved workflow.

    Raises:
        UsageError: if the module, file or object does not exist, or is not a workflow.
        WorkflowNotRegistered: if no saved workflow has that id.
    """
    place, colon, name = text.rpartition(":")
    if not colon:
        if text.endswith(".py") or os.sep in text:
            raise UsageError(
                f"{text} needs the name of a workflow: {text}:NAME{_workflows_in(_import_file(Path(text)))}"
            )
        return _saved(text, url)
    if not place:
        raise UsageError(f"{text!r} does not name a module or file: TARGET is {TARGET_FORMS}")
    is_file = place.endswith(".py") or os.sep in place
    module = _import_file(Path(place)) if is_file else _import_module(place)
    found = _object(module, place, name)
    return Target(found, found)


def _import_module(name: str) -> ModuleType:
    _put_first(str(Path.cwd()))
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{name!r} is not the name of a module: TARGET is {TARGET_FORMS}")
    try:
        return _running(name, lambda: importlib.import_module(name))
    except UsageError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{name}.".startswith(f"{missing.name}."):
            hint = f"; for the file write {name}.py:NAME" if Path(f"{name}.py").exists() else ""
            raise UsageError(
                f"no module is named {missing.name!r}, neither in {Path.cwd()} nor installed{hint}"
            ) from None
        raise


def _import_file(path: Path) -> ModuleType:
    file = path.resolve()
    if not file.is_file():
        raise UsageError(f"no file {path} exists in {Path.cwd()}")
    name = file.stem
    if file.suffix != ".py" or "." in name or name.startswith("__"):
        raise UsageError(f"{path} cannot be imported under its own name: TARGET is {TARGET_FORMS}")
    known = sys.modules.get(name)
    if known is not None and _is_at(known, file):
        return known
    _check_free(name, path)
    _put_first(str(file.parent))
    module = _running(str(path), lambda: importlib.import_module(name))
    if not _is_at(module, file):
        raise UsageError(f"{path} must be importable as {name!r}, but that is {module.__file__}: rename the file")
    return module


def _check_free(name: str, path: Path) -> None:
    """Refuse a file whose name is taken: the name must mean this file here and in every worker."""
    if name in sys.stdlib_module_names:
        raise UsageError(f"{path} has the name of Python's own module {name!r} and would hide it: rename the file")
    known = sys.modules.get(name)
    if known is None:
        spec = importlib.util.find_spec(name)
        places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
        installed = [place for place in places if _installed(place)]
    else:
        installed = [getattr(known, "__file__", None) or "built in"]
    if installed:
        raise UsageError(
            f"{path} has the name of another module, {name!r} ({installed[0]}), and would hide it: rename the file"
        )


def _installed(place: str) -> bool:
    paths = sysconfig.get_paths()
    return any(Path(place).is_relative_to(paths[kind]) for kind in ("purelib", "platlib"))


def _is_at(module: ModuleType, file: Path) -> bool:
    return module.__file__ is not None and Path(module.__file__).resolve() == file


def _put_first(folder: str) -> None:
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
        importlib.invalidate_caches()


def _running(what: str, load: Callable[[], ModuleType]) -> ModuleType:
    """Import a module, and report an error in its code with the place."""
    try:
        return load()
    except SystemExit as error:
        raise UsageError(
            f"{what} ended the program during its import (exit {error.code}): put the code that runs it as a program "
            'under `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        hint = "; in a package, write module:object instead" if "relative import" in str(error) else ""
        raise UsageError(f"cannot import {what}: {type(error).__name__}: {error}{_where(error)}{hint}") from error


def _where(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    own = [f for f in frames if f.filename not in (__file__, importlib.__file__)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own and not isinstance(error, SyntaxError) else ""


def _object(module: ModuleType, place: str, name: str) -> AnyWorkflow:
    found: object = module
    for part in name.split("."):
        if not part or not hasattr(found, part):
            raise UsageError(f"{place} has no {name!r}{_workflows_in(module)}")
        found = getattr(found, part)
    if isinstance(found, (WorkflowFunction, Workflow)):
        return found
    kind = "step" if isinstance(found, Step) else type(found).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    raise UsageError(
        f"{place}:{name} is {article} {kind}, not a workflow (@rf.workflow or rf.Workflow){_workflows_in(module)}"
    )


def _workflows_in(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, (WorkflowFunction, Workflow))]
    return f"; workflows in it: {', '.join(names)}" if names else "; it has no workflows"


def _saved(workflow_id: str, url: str) -> Target:
    async def query(store: Store) -> tuple[DefinitionRecord | None, bytes, tuple[str, ...]]:
        record = await store.definition(workflow_id)
        if record is None:
            return None, b"", tuple(sorted({known.workflow_id for known in await store.definitions()}))
        digest = json.loads(record.code)["digest"]
        return record, (await store.blob(digest) or b"") if digest else b"", ()

    try:
        record, blob, known = read_store(url, query)
    except RayflowError as error:
        raise UsageError(
            f"{workflow_id!r} is neither module:object nor file.py:object, and as an id: {error}"
        ) from error
    if record is None:
        raise WorkflowNotRegistered(workflow_id, known=known)
    return Target(SavedWorkflow(workflow_id), load_saved(record.code, record.environment, blob))


def load_saved(code: bytes, found_in: str, blob: bytes) -> AnyWorkflow | None:
    """Load a saved workflow; return None if its code cannot be loaded here.

    Args:
        code: the reference to the code.
        found_in: the code environment of the reference.
        blob: the code itself, if the store has it by value.
    """
    environment.apply(environment.Environment.from_json(found_in))
    try:
        cache = CodeCache(allow_pickle=EngineConfig.load().allow_pickle)
        loaded: AnyWorkflow = cache.load(CodeRef.from_dict(json.loads(code)), lambda digest: blob)
    except IncompatibleVersion:
        return None  # workers may be able to load it: on the cluster, or with another Python
    return loaded
