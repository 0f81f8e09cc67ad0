"""Modules are nouns, a name stands for one thing, and each folder's README.md names its modules."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, Module, modules

_PARTICIPLE = re.compile(r"ing$|ed$|^(?:begun|built|done|driven|given|held|kept|lost|made|sent|taken|told)$")

#: Modules whose names are participles, with the reason.
PARTICIPLES = {
    "rayflow.cli.blocked": "the word of `rayflow list` for executions that only wait: nothing is blocking",
    "rayflow.client.distributed": "named for the public `DistributedEngine`",
    "rayflow.display.formatting": "the noun for what the module does to values",
    "rayflow.testing": "public: users import it",
}

#: Names of several modules, with the one thing that each of them stands for.
SHARED = {
    "actor": "the Ray actor of this folder: its mailbox and methods",
    "actors": "the actor system: base and Ray's in runtime/, the one for tests in testing/",
    "base": "the contract that the other modules of the folder implement",
    "cluster": "the nodes as one: placement and recovery rules in core/, joining and starting in runtime/",
    "code": "references to code: their form in definition/, loading in runtime/",
    "coordinator": "the actor that drives executions",
    "dead_letters": "steps that failed permanently",
    "engine": "the object through which a program uses rayflow",
    "errors": "exception classes, and errors of Ray turned into them",
    "executions": "runs of workflows: their commands, their views, their rules in the store",
    "forks": "executions that begin with a recorded prefix of another one",
    "journal": "the record of an execution: its events in core/, their encoding in storage/",
    "large_values": "values that are stored once, by content",
    "locks": "durable locks",
    "machine": "the pure state machine of this folder",
    "pool": "a named set of workers: rules in core/, actor in runtime/",
    "pools": "the pools of a namespace",
    "recovery": "continuing executions whose processes died",
    "retention": "purging finished executions",
    "schedules": "starts by the calendar",
    "setup": "the setup function of a pool's workers",
    "slots": "places for one attempt: a coordinator's leases in core/, a worker's in runtime/",
    "starts": "new executions: the engine's side, and the store's rules",
    "store": "where executions are kept",
    "supervisor": "the actor that assigns executions to coordinators and repairs",
}

#: Names of several modules that mean different things; each is a name to improve.
TWO_THINGS = {
    "local": "the engine without a cluster in client/, a Ray cluster on this machine in runtime/cluster/",
    "options": "options of workflows and steps in definition/, options of the command line in cli/",
}

#: Folders whose README.md does not name each module yet.
NOT_YET: tuple[str, ...] = ()


def participles(known: Iterable[str]) -> list[str]:
    """Return the modules whose last word is a gerund or a participle."""
    return sorted(name for name in known if _PARTICIPLE.search(name.rpartition(".")[2].rpartition("_")[2]))


def shared_names(known: Iterable[str]) -> dict[str, list[str]]:
    """Return each name that several modules have, with these; a folder and a module inside it are one thing."""
    found = defaultdict(list)
    for name in sorted(known):
        parent, _, stem = name.rpartition(".")
        if parent.rpartition(".")[2] != stem:
            found[stem].append(name)
    return {stem: names for stem, names in found.items() if len(names) > 1}


def unnamed_modules(root: Path, known: Mapping[str, Module]) -> list[str]:
    """Return the path of each module that is not named on the README.md of its folder or of one above it.

    The page of the folder itself names it as `machine.py`; one above it as `pool/machine.py`, or as `machine.py` below
    a heading that names the folder.
    """
    return [
        module.path.as_posix()
        for module in known.values()
        if module.path.name != "__init__.py" and not _is_named(root, module.path)
    ]


def _is_named(root: Path, path: Path) -> bool:
    for folder in path.parents[:-1]:
        page = root / folder / "README.md"
        if page.exists():
            text, inside = page.read_text(encoding="utf-8"), path.relative_to(folder)
            if inside.as_posix() in text if len(inside.parts) > 1 else _names(text, path.name):
                return True
            sections = re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]
            if any(_heads(section, inside.parent.as_posix()) and _names(section, path.name) for section in sections):
                return True
    return False


def _names(text: str, file: str) -> bool:
    return re.search(rf"(?<![\w./]){re.escape(file)}\b", text) is not None


def _heads(section: str, folder: str) -> bool:
    return re.search(rf"(?<![\w/]){re.escape(folder)}(?![\w])", section.partition("\n")[0]) is not None


def _top(path: str) -> str:
    parts = Path(path).parts
    return parts[1] if len(parts) > 2 else "rayflow"


# --- the package --------------------------------------------------------------------------------------------
def test_modules_are_nouns() -> None:
    assert set(participles(modules(ROOT))) == set(PARTICIPLES)
    assert all(PARTICIPLES.values())


def test_a_name_of_several_modules_stands_for_one_thing() -> None:
    shared = shared_names(modules(ROOT))
    explained = SHARED.keys() | TWO_THINGS.keys()
    assert {name: places for name, places in shared.items() if name not in explained} == {}, "what does it stand for?"
    assert explained - shared.keys() == set(), "these are names of one module: remove them from the list"
    assert SHARED.keys() & TWO_THINGS.keys() == set()


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(folder, marks=pytest.mark.xfail(reason="its page is not written yet"))
        if folder in NOT_YET
        else folder
        for folder in sorted({_top(module.path.as_posix()) for module in modules(ROOT).values()})
    ],
)
def test_each_module_is_named_on_its_page(folder: str) -> None:
    assert [path for path in unnamed_modules(ROOT, modules(ROOT)) if _top(path) == folder] == []


# --- the checks themselves ----------------------------------------------------------------------------------
def test_participles_are_seen() -> None:
    names = ["a.locking", "a.kept", "a.declared", "a.task_loading", "a.declared_steps", "a.king_pin", "a.need", "a.b"]
    assert participles(names) == ["a.declared", "a.kept", "a.locking", "a.need", "a.task_loading"]


def test_shared_names_are_seen() -> None:
    names = ["a.pool", "a.pool.pool", "a.core.pool", "a.core.locks", "a.b"]
    assert shared_names(names) == {"pool": ["a.core.pool", "a.pool"]}


def test_modules_without_a_line_on_their_page_are_seen(tmp_path: Path) -> None:
    pages = {
        "core/README.md": "`events.py`, `pool/ledger.py`\n\n## `locks/`\n\n`deadlocks.py`\n\n## More\n\n`last.py`",
        "core/cluster/README.md": "# Cluster\n\n[`metrics.py`](metrics.py)",
    }
    files = [
        *("core/__init__.py", "core/events.py", "core/other.py", "core/pool/ledger.py", "core/pool/events.py"),
        *("core/locks/deadlocks.py", "core/locks/last.py", "core/cluster/metrics.py", "core/cluster/ledger.py"),
        "display/text.py",
    ]
    for name, text in {**dict.fromkeys(files, ""), **pages}.items():
        (tmp_path / "rayflow" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rayflow" / name).write_text(text)
    assert unnamed_modules(tmp_path, modules(tmp_path)) == [
        "rayflow/core/cluster/ledger.py",
        "rayflow/core/locks/last.py",
        "rayflow/core/other.py",
        "rayflow/core/pool/events.py",
        "rayflow/display/text.py",
    ]
