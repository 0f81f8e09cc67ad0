"""Modules of the package as their source declares them: floors, imports, rooms and import circles.

A *room* of a folder is one module or one subfolder directly in it. An *arrow* is an import of one room by another.

Every function takes the root folder or its modules as an argument, so that the tests can also pass wrong trees.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Files directly in rayflow/ that belong to the ground floor; the others there are on the top floor.
GROUND = ("errors", "ids")
FLOORS = {"definition": 1, "core": 2, "storage": 3, "runtime": 4}
TOP = 5
#: Floors up to this one are pure: no Ray, no clock, no random numbers.
PURE = 3


@dataclass(frozen=True)
class Module:
    """One module of the package.

    Args:
        name: dotted, as it is imported; a package by its own name.
        path: relative to the root.
        tree: its parsed source.
    """

    name: str
    path: Path
    tree: ast.Module

    @property
    def floor(self) -> int:
        return floor_of(self.name)

    @property
    def folder(self) -> str:
        """Return the dotted name of the package that holds the module; a package holds its own ``__init__``."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Import:
    """One imported module, as far as the source tells: also in functions, and also for type checkers only."""

    name: str
    line: int


def floor_of(module: str) -> int:
    """Return the floor of a module of rayflow, by its dotted name."""
    first = module.split(".")[1] if "." in module else ""
    return 0 if first in GROUND else FLOORS.get(first, TOP)


@functools.cache
def modules(root: Path) -> Mapping[str, Module]:
    """Return the modules of root/rayflow, by name; each folder is read once."""
    found = {}
    for file in sorted((root / "rayflow").rglob("*.py")):
        path = file.relative_to(root)
        parts = path.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(file.read_text(encoding="utf-8"), str(path)))
    return found


def imports(module: Module, known: Mapping[str, Module]) -> Iterator[Import]:
    """Yield each import of a module; ``from package import name`` counts as the submodule where one exists."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(alias.name, node.lineno)
            case ast.ImportFrom(module=base) if base is not None:
                names = {f"{base}.{alias.name}" for alias in node.names}
                for name in sorted({name if name in known else base for name in names}):
                    yield Import(name, node.lineno)
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if _imports_by_name(node.func):
                yield Import(name, node.lineno)


def _imports_by_name(function: ast.expr) -> bool:
    return ast.unparse(function).rpartition(".")[2] in {"import_module", "__import__"}


def module_graph(known: Mapping[str, Module]) -> dict[str, frozenset[str]]:
    """Return the modules that each module imports."""
    return {
        name: frozenset(found.name for found in imports(module, known) if found.name in known) - {name}
        for name, module in known.items()
    }


def room_graphs(known: Mapping[str, Module]) -> dict[str, dict[str, frozenset[str]]]:
    """Return for each folder its rooms, and the rooms of the same folder that each of them imports."""
    graph = module_graph(known)
    found = {}
    folders = {module.folder for module in known.values()}
    for folder in sorted(
        {"rayflow"} | {".".join(name.split(".")[:length]) for name in folders for length in range(1, 9)}
    ):
        rooms: dict[str, set[str]] = {}
        for name, targets in graph.items():
            if (room := _room(name, folder)) is not None:
                inside = {_room(target, folder) for target in targets} - {None, room}
                rooms.setdefault(room, set()).update(target for target in inside if target is not None)
        found[folder] = {room: frozenset(targets) for room, targets in rooms.items()}
    return found


def _room(module: str, folder: str) -> str | None:
    inside = module.removeprefix(f"{folder}.")
    return None if inside == module else inside.partition(".")[0]


def circles(graph: Mapping[str, frozenset[str]]) -> list[tuple[str, ...]]:
    """Return the groups of names that reach each other, each as one circle of imports that closes where it began."""
    reached = {name: _reachable(graph, name) for name in graph}
    groups = {frozenset(other for other in reached[name] if name in reached.get(other, ())) for name in graph} - {
        frozenset()
    }
    return [_circle(graph, group) for group in sorted(groups, key=min)]


def floors(graph: Mapping[str, frozenset[str]]) -> int:
    """Return the number of floors: the longest chain of imports, where a circle counts once."""
    reached = {name: _reachable(graph, name) for name in graph}
    heights: dict[str, int] = {}
    # A name reaches all that its imports reach; so each comes after the names below it, except in its own circle.
    for name in sorted(graph, key=lambda name: len(reached[name] | {name})):
        below = [heights[target] for target in reached[name] if target in heights and name not in reached[target]]
        heights[name] = 1 + max(below, default=0)
    return max(heights.values(), default=0)


def _reachable(graph: Mapping[str, frozenset[str]], start: str) -> set[str]:
    found: set[str] = set()
    pending = [start]
    while pending:
        new = graph.get(pending.pop(), frozenset()) - found
        found |= new
        pending += new
    return found


def _circle(graph: Mapping[str, frozenset[str]], group: frozenset[str]) -> tuple[str, ...]:
    """Return the shortest circle through the first name of a group."""
    start = min(group)
    paths: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    for path in paths:
        for target in sorted(graph[path[-1]] & group):
            if target == start:
                return (*path, start)
            if target not in seen:
                seen.add(target)
                paths.append((*path, target))
    return ()
