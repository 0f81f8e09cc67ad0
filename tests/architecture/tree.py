"""The package as its source says it is: modules, their floors, and what they import.

Everything here takes the root folder as an argument, so that the tests can also show it trees that are wrong.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Files directly in rayflow/ that belong to the ground floor; the others there are faces.
GROUND = ("errors", "ids")
FLOORS = {"definition": 1, "core": 2, "storage": 3, "runtime": 4}
FACES = 5
#: Floors up to this one are pure: no Ray, no clock, no randomness.
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


@dataclass(frozen=True)
class Import:
    """One imported module, as far as it can be told from the source.

    Args:
        name: dotted.
        line: where.
        at_load: it happens when the importing module is loaded: not in a function, not for type checkers only.
    """

    name: str
    line: int
    at_load: bool


def floor_of(module: str) -> int:
    """The floor of a module of rayflow, by its dotted name."""
    first = module.split(".")[1] if "." in module else ""
    return 0 if first in GROUND else FLOORS.get(first, FACES)


def modules(root: Path) -> dict[str, Module]:
    """The modules of root/rayflow, by name."""
    found = {}
    for file in sorted((root / "rayflow").rglob("*.py")):
        path = file.relative_to(root)
        parts = path.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(file.read_text(encoding="utf-8"), str(path)))
    return found


def imports(module: Module, known: dict[str, Module]) -> Iterator[Import]:
    """What a module imports; ``from package import name`` counts as the submodule where there is one."""
    yield from _imports(module.tree, known, at_load=True)


def _imports(node: ast.AST, known: dict[str, Module], *, at_load: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import():
                for alias in child.names:
                    yield Import(alias.name, child.lineno, at_load)
            case ast.ImportFrom(module=base) if base is not None:
                names = {f"{base}.{alias.name}" for alias in child.names}
                for name in sorted(name if name in known else base for name in names):
                    yield Import(name, child.lineno, at_load)
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if _imports_by_name(child.func):
                yield Import(name, child.lineno, at_load=False)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _imports(child, known, at_load=False)
            case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
                yield from _imports(child, known, at_load=False)
            case _:
                yield from _imports(child, known, at_load=at_load)


def _imports_by_name(function: ast.expr) -> bool:
    return ast.unparse(function).rpartition(".")[2] in {"import_module", "__import__"}
