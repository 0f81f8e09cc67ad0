"""Sizes: lines of code a file, lines a function, files an actor, and no class that is spread by inheritance."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

FOLDERS = ("rayflow", "tests", "benchmarks", "examples")
#: Without docstrings, comments and blank lines: explaining more never makes a file too long.
FILE_LINES = 600
#: Without the docstring.
FUNCTION_LINES = 40
#: Modules in the folder of one actor, without its ``__init__``.
ACTOR_FILES = 15
ACTORS = ("coordinator", "pool", "store", "supervisor", "worker")

#: "file" or "file::function" that may be longer, with the reason.
EXCEPTIONS: dict[str, str] = {}

_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def too_long(root: Path) -> dict[str, str]:
    """Return each file and function that is too long, by its key in EXCEPTIONS, with a message."""
    found = {}
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            path, text = file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")
            lines = code_lines(text)
            if lines > FILE_LINES:
                found[path] = f"{path}: {lines} lines of code, at most {FILE_LINES}. Which two things does it do?"
            for name, line, length in _functions(ast.parse(text)):
                if length > FUNCTION_LINES:
                    found[f"{path}::{name}"] = (
                        f"{path}:{line}: {name} has {length} lines, at most {FUNCTION_LINES}. Name its parts"
                    )
    return found


def code_lines(text: str) -> int:
    """Return the number of lines that hold code: no docstrings, no comments, no blank lines."""
    documented = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and (docstring := _docstring(node)) is not None
        for line in range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1)
    }
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _LAYOUT
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - documented)


def crowded_actors(root: Path) -> list[str]:
    """Return a message for each actor whose folder has more than ACTOR_FILES modules."""
    folders = {name: root / "rayflow" / "runtime" / name for name in ACTORS}
    counts = {
        name: len([file for file in folder.glob("*.py") if file.stem != "__init__"]) for name, folder in folders.items()
    }
    return [
        f"rayflow/runtime/{name}: {count} files, at most {ACTOR_FILES}. Which of them are slices of one thing?"
        for name, count in counts.items()
        if count > ACTOR_FILES
    ]


def spread_classes(root: Path) -> list[str]:
    """Return a message for each class of rayflow that inherits code from more than one class of rayflow in a row.

    A base of a base is the sign of a class that was cut into slices. Errors are a tree on purpose, and events and
    declared steps are flat families.
    """
    bases: dict[str, list[str]] = {}
    places = {}
    for file in sorted((root / "rayflow").rglob("*.py")):
        if file.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
                places[node.name] = f"{file.relative_to(root).as_posix()}:{node.lineno}"

    def depth(name: str, seen: frozenset[str]) -> int:
        known = [base for base in bases.get(name, ()) if base in bases and base not in seen]
        return max((1 + depth(base, seen | {base}) for base in known), default=0)

    return [
        f"{place}: {name} has {found} classes of rayflow above it, at most 2. Compose them instead"
        for name, place in places.items()
        if (found := depth(name, frozenset({name}))) > 2
    ]


def _functions(node: ast.AST, prefix: str = "") -> list[tuple[str, int, int]]:
    """Return (qualified name, first line, lines without docstring) of each function in a tree."""
    found = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found += _functions(child, prefix)
            continue
        name = prefix + child.name
        if not isinstance(child, ast.ClassDef):
            docstring = _docstring(child)
            length = _span(child) - (0 if docstring is None else _span(docstring))
            found.append((name, child.lineno, length))
        found += _functions(child, f"{name}.")
    return found


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.stmt | None:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
            return docstring
    return None


def _span(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_files_and_functions_are_short() -> None:
    found = [message for key, message in too_long(ROOT).items() if key not in EXCEPTIONS]
    assert not found, "\n".join(found)


def test_each_exception_is_still_needed_and_has_its_reason() -> None:
    assert set(EXCEPTIONS) - set(too_long(ROOT)) == set()
    assert all(EXCEPTIONS.values())


def test_an_actor_has_few_files() -> None:
    found = crowded_actors(ROOT)
    assert not found, "\n".join(found)


def test_no_class_is_spread_by_inheritance() -> None:
    found = spread_classes(ROOT)
    assert not found, "\n".join(found)


# --- the checks themselves ----------------------------------------------------------------------------------
def function(lines: int, *, docstring: int = 0, indent: str = "") -> str:
    words = [f'{indent}    """', *["word"] * (docstring - 2), f'{indent}    """'] if docstring else []
    return "\n".join([f"{indent}def f():", *words, *[f"{indent}    pass"] * (lines - 1)]) + "\n"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_long_file_is_seen(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder / "inner").mkdir(parents=True)
    (tmp_path / folder / "at_the_limit.py").write_text('"""Words."""\n\n# more\n' + "x = 1\n" * FILE_LINES)
    (tmp_path / folder / "inner" / "over.py").write_text("x = 1\n" * (FILE_LINES + 1))
    assert list(too_long(tmp_path)) == [f"{folder}/inner/over.py"]
    assert "601 lines of code, at most 600" in too_long(tmp_path)[f"{folder}/inner/over.py"]


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


def test_lines_of_code_are_those_with_code() -> None:
    text = '"""Doc.\n\nMore.\n"""\n\n# why\nx = (\n    1,\n    # here\n)\n\n'
    text += 'def f():\n    "Doc."\n    return """a\nb"""\n'
    assert code_lines(text) == 6


def test_a_crowded_actor_is_seen(tmp_path: Path) -> None:
    for name in ACTORS:
        (tmp_path / "rayflow" / "runtime" / name).mkdir(parents=True)
    for number in range(ACTOR_FILES + 1):
        (tmp_path / "rayflow" / "runtime" / "pool" / f"m{number}.py").write_text("")
    [problem] = crowded_actors(tmp_path)
    assert problem.startswith("rayflow/runtime/pool: 16 files, at most 15")


def test_a_spread_class_is_seen(tmp_path: Path) -> None:
    (tmp_path / "rayflow").mkdir()
    (tmp_path / "rayflow" / "a.py").write_text(
        "class A: ...\nclass B(A): ...\nclass C(B): ...\nclass D(C): ...\nclass E(list[int]): ...\n"
    )
    [problem] = spread_classes(tmp_path)
    assert problem == "rayflow/a.py:4: D has 3 classes of rayflow above it, at most 2. Compose them instead"
