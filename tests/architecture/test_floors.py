"""Imports point downwards, without circles; one package imports Ray; floors 0-3 read no clock, draw no numbers."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import PURE, ROOT, Module, circles, floors, imports, module_graph, modules, room_graphs

RAY_SEAM = Path("rayflow/runtime/actors/ray_system")

_CLOCK = "take the time as an argument (`now: float`, or an `ids.Clock`)"
_RANDOM = "take a seeded random.Random as an argument"
_IDS = "take the id as an argument, or make it from a seeded random.Random"

#: What floors 0-3 do not touch, and what they do instead. A name ending in ``.*`` stands for a whole module.
FORBIDDEN = {
    **dict.fromkeys(
        [
            f"time.{name}{unit}"
            for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime")
            for unit in ("", "_ns")
        ],
        _CLOCK,
    ),
    "time.sleep": "return when to be called again, and let the runtime wait",
    "datetime.datetime.now": _CLOCK,
    "datetime.datetime.utcnow": _CLOCK,
    "datetime.datetime.today": _CLOCK,
    "datetime.date.today": _CLOCK,
    "random.*": _RANDOM,
    "secrets.*": _RANDOM,
    "os.urandom": _RANDOM,
    "os.getrandom": _RANDOM,
    "uuid.uuid1": _IDS,
    "uuid.uuid4": _IDS,
}

#: Uses of forbidden names that stand, with the reason.
ALLOWED = {
    ("rayflow/core/interpreter/sandbox.py", "time.sleep"): "replaced by a function that refuses the call, in workflows",
}


def upward_imports(root: Path) -> list[str]:
    known = modules(root)
    return [
        f"{module.path}:{found.line}: floor {module.floor} imports {found.name} of floor {known[found.name].floor}. "
        "Imports point downwards: move what is needed down, or have it passed in by the floor above"
        for module in known.values()
        for found in imports(module, known)
        if found.name in known and known[found.name].floor > module.floor
    ]


def import_circles(root: Path) -> list[str]:
    """Return a message for each circle of imports: of modules, and of the rooms of one folder."""
    known = modules(root)
    found = [
        f"import circle: {' -> '.join(circle)}. Move what both need into a module of its own"
        for circle in circles(module_graph(known))
    ]
    for folder, graph in room_graphs(known).items():
        found += [
            f"import circle in {folder}: {' -> '.join(circle)}. Move what both need into a room below both"
            for circle in circles(graph)
        ]
    return found


def ray_imports(root: Path) -> list[str]:
    known = modules(root)
    return [
        f"{module.path}:{found.line}: imports {found.name}. Only {RAY_SEAM} imports ray: add there what is missing"
        for module in known.values()
        for found in imports(module, known)
        if found.name.split(".")[0] == "ray" and RAY_SEAM not in module.path.parents
    ]


def impurities(root: Path) -> list[tuple[str, str, str]]:
    """Return (file, forbidden name, message) for each use of a clock or of random numbers in floors 0-3."""
    found = []
    for module in modules(root).values():
        if module.floor <= PURE:
            for name, line, instead in _forbidden_uses(module):
                message = f"{module.path}:{line}: floor {module.floor} uses {name}. Instead, {instead}"
                found.append((module.path.as_posix(), name, message))
    return found


def _forbidden_uses(module: Module) -> Iterator[tuple[str, int, str]]:
    names = _imported_names(module.tree)
    inner: set[ast.AST] = set()  # parts of a longer dotted name, which was checked as a whole
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and _dotted(node.func, names) == "random.Random" and not node.args:
            yield "random.Random()", node.lineno, "give it a seed"
        if isinstance(node, (ast.Attribute, ast.Name)) and node not in inner:
            inner.update(ast.walk(node))
            name = _dotted(node, names)
            if name is not None and (instead := _instead(name)) is not None:
                yield name, node.lineno, instead
        if isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if (instead := _instead(name)) is not None:
                    yield name, node.lineno, instead


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Return the dotted name that each imported name of a module stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Attribute(value=value, attr=attr):
            base = _dotted(value, names)
            return f"{base}.{attr}" if base else None
    return None


def _instead(name: str) -> str | None:
    if name.startswith("random.Random"):
        return None
    module, dot, _ = name.partition(".")
    return FORBIDDEN.get(name) or (FORBIDDEN.get(f"{module}.*") if dot else None)


# --- the package --------------------------------------------------------------------------------------------
def test_imports_point_downwards() -> None:
    found = upward_imports(ROOT)
    assert not found, "\n".join(found)


def test_imports_form_no_circle() -> None:
    found = import_circles(ROOT)
    assert not found, "\n".join(found)


def test_only_the_seam_imports_ray() -> None:
    found = ray_imports(ROOT)
    assert not found, "\n".join(found)


def test_pure_floors_have_no_clock_and_draw_no_numbers() -> None:
    found = [message for file, name, message in impurities(ROOT) if (file, name) not in ALLOWED]
    assert not found, "\n".join(found)


def test_each_exception_is_still_needed() -> None:
    used = {(file, name) for file, name, _ in impurities(ROOT)}
    assert set(ALLOWED) - used == set()


# --- the checks themselves, on trees that are wrong -----------------------------------------------------------
Write = Callable[[dict[str, str]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            file = tmp_path / "rayflow" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("errors.py", "from rayflow.definition import options\n"),
        ("definition/a.py", "import rayflow.core.machine\n"),
        ("core/a.py", "from rayflow.storage.base import Store\n"),
        ("core/a.py", "def late():\n    from rayflow.storage import base\n"),
        ("core/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rayflow.storage import base\n"),
        ("storage/a.py", "import importlib\nbase = importlib.import_module('rayflow.runtime.pool')\n"),
        ("storage/a.py", "from rayflow.engine import DistributedEngine\n"),
        ("storage/a.py", "from rayflow import DistributedEngine\n"),
        ("runtime/a.py", "from rayflow.engine import DistributedEngine\n"),
    ],
)
def test_an_upward_import_is_seen(write: Write, file: str, text: str) -> None:
    files = ["__init__", "definition/options", "core/machine", "storage/base", "runtime/pool", "engine"]
    root = write({**{f"{name}.py": "" for name in files}, file: text})
    [problem] = upward_imports(root)
    assert problem.startswith(f"rayflow/{file}:{text.count(chr(10))}: floor ")


def test_downward_and_level_imports_are_fine(write: Write) -> None:
    root = write(
        {
            "errors.py": "",
            "ids.py": "from rayflow.errors import DefinitionError\n",
            "definition/__init__.py": "",
            "definition/options.py": "from rayflow import errors, ids\nimport asyncio, json\n",
            "definition/steps.py": "from rayflow.definition import options\n",
            "engine.py": "def up():\n    from rayflow.runtime import pool\n",
            "runtime/pool.py": "from rayflow.definition.options import PoolConfig\n",
        }
    )
    assert upward_imports(root) == []
    assert import_circles(root) == []


CIRCLES = {
    "at load": "from rayflow.core.a import x\n",
    "for types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rayflow.core.a import x\n",
    "in a function": "def late():\n    from rayflow.core import a\n",
    "by name": "import importlib\na = importlib.import_module('rayflow.core.a')\n",
}


@pytest.mark.parametrize("text", CIRCLES.values(), ids=CIRCLES)
def test_a_circle_is_seen_with_its_path(write: Write, text: str) -> None:
    root = write(
        {
            "core/a.py": "from rayflow.core.b import x\n",
            "core/b.py": "try:\n    from rayflow.core import c\nexcept ImportError:\n    raise\n",
            "core/c.py": text,
            "core/d.py": "from rayflow.core import a, b\n",
        }
    )
    ours, rooms = import_circles(root)
    assert ours.startswith("import circle: rayflow.core.a -> rayflow.core.b -> rayflow.core.c -> rayflow.core.a. ")
    assert rooms.startswith("import circle in rayflow.core: a -> b -> c -> a. ")


def test_a_circle_of_rooms_without_a_circle_of_modules_is_seen(write: Write) -> None:
    root = write(
        {
            "core/pool/__init__.py": "",
            "core/pool/low.py": "",
            "core/pool/high.py": "from rayflow.core.locks import machine\n",
            "core/locks/machine.py": "from rayflow.core.pool import low\n",
        }
    )
    [problem] = import_circles(root)
    assert problem.startswith("import circle in rayflow.core: locks -> pool -> locks. ")


def test_floors_are_counted_and_a_circle_counts_once() -> None:
    graph = {"a": "bc", "b": "c", "c": "d", "d": "c", "e": "", "f": "e"}
    assert floors({name: frozenset(targets) for name, targets in graph.items()}) == 3
    assert floors({}) == 0


@pytest.mark.parametrize(
    "text",
    [
        "import ray",
        "import ray.util.metrics as m",
        "from ray import remote",
        "def late():\n    import ray",
        "__import__('ray')",
    ],
)
def test_an_import_of_ray_is_seen_beside_the_seam_only(write: Write, text: str) -> None:
    root = write({"runtime/actors/ray_system/actors.py": text, "runtime/pool.py": text, "ids.py": "import raymond\n"})
    [problem] = ray_imports(root)
    assert problem.startswith(f"rayflow/runtime/pool.py:{1 + text.count(chr(10))}: imports ray")
    assert str(RAY_SEAM) in problem


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import time\ntime.time()", "time.time"),
        ("import time as t\nclock = t.monotonic", "time.monotonic"),
        ("\nfrom time import perf_counter as p", "time.perf_counter"),
        ("import time\ntime.sleep(1)", "time.sleep"),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ("import datetime as dt\ndt.datetime.utcnow()", "datetime.datetime.utcnow"),
        ("import datetime\ndatetime.date.today()", "datetime.date.today"),
        ("import random\nrandom.uniform(0, 1)", "random.uniform"),
        ("import random\nrandom.SystemRandom()", "random.SystemRandom"),
        ("\nfrom random import shuffle", "random.shuffle"),
        ("import random\nrandom.Random()", "random.Random()"),
        ("import uuid\nmake = uuid.uuid4", "uuid.uuid4"),
        ("import os\nos.urandom(8)", "os.urandom"),
        ("import secrets\nsecrets.token_hex()", "secrets.token_hex"),
    ],
)
def test_clock_and_random_numbers_are_seen_in_pure_floors_only(write: Write, text: str, name: str) -> None:
    root = write({"core/a.py": text, "runtime/a.py": text, "engine.py": text})
    [(file, used, message)] = impurities(root)
    assert (file, used) == ("rayflow/core/a.py", name)
    assert message.startswith(f"rayflow/core/a.py:2: floor 2 uses {name}. Instead, ")


def test_what_is_given_or_seeded_is_fine(write: Write) -> None:
    text = (
        "import datetime, random, time, uuid\n"
        "def draw(rng: random.Random, now: float) -> float:\n"
        "    return rng.uniform(0, 1) + now\n"
        "seeded = random.Random(7)\n"
        "day = datetime.datetime.fromtimestamp(0, tz=datetime.timezone.utc)\n"
        "known = uuid.UUID(int=seeded.getrandbits(128), version=4)\n"
        "text = time.strftime('%Y', time.gmtime(0))\n"
    )
    assert impurities(write({"core/a.py": text})) == []
