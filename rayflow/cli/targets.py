"""What ``rayflow run`` is told to run: a workflow in a module or a file, or one that was saved."""

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
from rayflow.cli.reader import read
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

_FORMS = "module:object, path/file.py:object, or the id of a saved workflow"


@dataclass(frozen=True, slots=True)
class Target:
    """What to run.

    Args:
        start: what the engine is told to start.
        definition: what the input has to fit; None where the code of a saved workflow is not at hand.
    """

    start: AnyWorkflow | SavedWorkflow
    definition: AnyWorkflow | None


def find_target(text: str, url: str) -> Target:
    """The workflow that is meant.

    Args:
        text: as given on the command line.
        url: the store, for the id of a saved workflow.

    Raises:
        UsageError: there is no such module, file or object, or it is no workflow.
        WorkflowNotRegistered: no saved workflow has that id.
    """
    place, colon, name = text.rpartition(":")
    if not colon:
        if text.endswith(".py") or os.sep in text:
            raise UsageError(f"say which object of {text} to run: {text}:NAME{_workflows_in(_import_file(Path(text)))}")
        return _saved(text, url)
    if not place:
        raise UsageError(f"{text!r} names no module or file: TARGET is {_FORMS}")
    is_file = place.endswith(".py") or os.sep in place
    module = _import_file(Path(place)) if is_file else _import_module(place)
    found = _object(module, place, name)
    return Target(found, found)


# --- modules ----------------------------------------------------------------------------------------------
def _import_module(name: str) -> ModuleType:
    _put_first(str(Path.cwd()))
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{name!r} is no module's name: TARGET is {_FORMS}")
    try:
        return _running(name, lambda: importlib.import_module(name))
    except UsageError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{name}.".startswith(f"{missing.name}."):
            hint = f"; for the file write {name}.py:NAME" if Path(f"{name}.py").exists() else ""
            raise UsageError(
                f"there is no module {missing.name!r}, neither in {Path.cwd()} nor installed{hint}"
            ) from None
        raise


def _import_file(path: Path) -> ModuleType:
    file = path.resolve()
    if not file.is_file():
        raise UsageError(f"there is no file {path} in {Path.cwd()}")
    name = file.stem
    if file.suffix != ".py" or "." in name or name.startswith("__"):
        raise UsageError(f"{path} cannot be imported under its own name: TARGET is {_FORMS}")
    known = sys.modules.get(name)
    if known is not None and _is_at(known, file):
        return known
    _check_free(name, path)
    _put_first(str(file.parent))
    module = _running(str(path), lambda: importlib.import_module(name))
    if not _is_at(module, file):
        raise UsageError(f"{path} was to be imported as {name!r}, but that is {module.__file__}: rename the file")
    return module


def _check_free(name: str, path: Path) -> None:
    """The module will be known by its file's name here and in every worker, so that has to mean this file only."""
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
    """Import, and tell what the module's own code raised, with its place."""
    try:
        return load()
    except SystemExit as error:
        raise UsageError(
            f"{what} ended the program while it was imported (exit {error.code}): put what it does when it is run "
            'under `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        hint = "; in a package, write module:object instead" if "relative import" in str(error) else ""
        raise UsageError(f"cannot import {what}: {type(error).__name__}: {error}{_where(error)}{hint}") from error


def _where(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    own = [f for f in frames if f.filename not in (__file__, importlib.__file__)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own and not isinstance(error, SyntaxError) else ""


# --- objects ----------------------------------------------------------------------------------------------
def _object(module: ModuleType, place: str, name: str) -> AnyWorkflow:
    found: object = module
    for part in name.split("."):
        if not part or not hasattr(found, part):
            raise UsageError(f"{place} has no {name!r}{_workflows_in(module)}")
        found = getattr(found, part)
    if isinstance(found, (WorkflowFunction, Workflow)):
        return found
    what = "a step" if isinstance(found, Step) else f"a {type(found).__name__}"
    raise UsageError(f"{place}:{name} is {what}, and no workflow (@rf.workflow or rf.Workflow){_workflows_in(module)}")


def _workflows_in(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, (WorkflowFunction, Workflow))]
    return f"; workflows in it: {', '.join(names)}" if names else "; there is no workflow in it"


# --- saved ones -------------------------------------------------------------------------------------------
def _saved(workflow_id: str, url: str) -> Target:
    async def look(store: Store) -> tuple[DefinitionRecord | None, bytes, tuple[str, ...]]:
        record = await store.definition(workflow_id)
        if record is None:
            return None, b"", tuple(sorted({known.workflow_id for known in await store.definitions()}))
        digest = json.loads(record.code)["digest"]
        return record, (await store.blob(digest) or b"") if digest else b"", ()

    try:
        record, blob, known = read(url, look)
    except RayflowError as error:
        raise UsageError(
            f"{workflow_id!r} is neither module:object nor file.py:object, and as an id: {error}"
        ) from error
    if record is None:
        raise WorkflowNotRegistered(workflow_id, known=known)
    return Target(SavedWorkflow(workflow_id), load_saved(record.code, record.environment, blob))


def load_saved(code: bytes, found_in: str, blob: bytes) -> AnyWorkflow | None:
    """A workflow as a store has it; None where its code is not at hand.

    Args:
        code: the reference to its code.
        found_in: the environment in which that is found.
        blob: the code itself, where it is kept by value.
    """
    environment.apply(environment.Environment.from_json(found_in))
    try:
        cache = CodeCache(allow_pickle=EngineConfig.load().allow_pickle)
        loaded: AnyWorkflow = cache.load(CodeRef.from_dict(json.loads(code)), lambda digest: blob)
    except IncompatibleVersion:
        return None  # it may well be found where it runs: on the cluster, or by another Python
    return loaded
