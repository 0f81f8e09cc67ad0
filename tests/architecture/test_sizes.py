"""A file beyond 400 lines or a function beyond 40 is asking to be two; those that stand say why."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

FOLDERS = ("rayflow", "tests", "benchmarks", "examples")
FILE_LINES = 400
#: Without the docstring: explaining more never makes a function too long.
FUNCTION_LINES = 40

#: "file" or "file::function" that may be longer, with the reason.
EXCEPTIONS: dict[str, str] = {}


def too_long(root: Path) -> dict[str, str]:
    """Each file and function that is too long, by its key in EXCEPTIONS, with a message."""
    found = {}
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            path, text = file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")
            lines = len(text.splitlines())
            if lines > FILE_LINES:
                found[path] = f"{path}: {lines} lines, at most {FILE_LINES}. Which two things does it do?"
            for name, line, length in _functions(ast.parse(text)):
                if length > FUNCTION_LINES:
                    found[f"{path}::{name}"] = (
                        f"{path}:{line}: {name} has {length} lines, at most {FUNCTION_LINES}. Name its parts"
                    )
    return found


def _functions(node: ast.AST, prefix: str = "") -> list[tuple[str, int, int]]:
    """(qualified name, first line, lines without docstring) of each function in a tree."""
    found = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found += _functions(child, prefix)
            continue
        name = prefix + child.name
        if not isinstance(child, ast.ClassDef):
            found.append((name, child.lineno, _lines(child)))
        found += _functions(child, f"{name}.")
    return found


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    length = _span(function)
    match function.body[0]:
        case ast.Expr(value=ast.Constant(value=str())) as docstring:
            length -= _span(docstring)
    return length


def _span(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_files_and_functions_are_short() -> None:
    found = [message for key, message in too_long(ROOT).items() if key not in EXCEPTIONS]
    assert not found, "\n".join(found)


def test_each_exception_is_still_needed_and_has_its_reason() -> None:
    assert set(EXCEPTIONS) - set(too_long(ROOT)) == set()
    assert all(EXCEPTIONS.values())


# --- the checks themselves ----------------------------------------------------------------------------------
def function(lines: int, *, docstring: int = 0, indent: str = "") -> str:
    words = [f'{indent}    """', *["word"] * (docstring - 2), f'{indent}    """'] if docstring else []
    return "\n".join([f"{indent}def f():", *words, *[f"{indent}    pass"] * (lines - 1)]) + "\n"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_long_file_is_seen(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder / "inner").mkdir(parents=True)
    (tmp_path / folder / "at_the_limit.py").write_text("x = 1\n" * FILE_LINES)
    (tmp_path / folder / "inner" / "over.py").write_text("x = 1\n" * (FILE_LINES + 1))
    assert list(too_long(tmp_path)) == [f"{folder}/inner/over.py"]
    assert "401 lines, at most 400" in too_long(tmp_path)[f"{folder}/inner/over.py"]


def test_a_long_function_is_seen_by_its_name_and_line(tmp_path: Path) -> None:
    (tmp_path / "rayflow").mkdir()
    (tmp_path / "rayflow" / "a.py").write_text(
        "class C:\n"
        + function(FUNCTION_LINES + 1, indent="    ")
        + function(FUNCTION_LINES).replace("def f", "async def at_the_limit")
        + "if True:\n"
        + function(FUNCTION_LINES + 2, docstring=3, indent="    ").replace("def f", "async def g")
    )
    assert too_long(tmp_path) == {
        "rayflow/a.py::C.f": "rayflow/a.py:2: C.f has 41 lines, at most 40. Name its parts",
        "rayflow/a.py::g": "rayflow/a.py:84: g has 42 lines, at most 40. Name its parts",
    }


def test_a_docstring_does_not_make_a_function_long(tmp_path: Path) -> None:
    (tmp_path / "rayflow").mkdir()
    (tmp_path / "rayflow" / "a.py").write_text(function(FUNCTION_LINES, docstring=30))
    assert too_long(tmp_path) == {}
