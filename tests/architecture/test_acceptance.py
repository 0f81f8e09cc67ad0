"""Tests named in the documentation exist, and each of its numbers names a test or a missing feature."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

PAGE = ROOT / "docs" / "acceptance.md"
RELIABILITY = ROOT / "docs" / "reliability.md"
CASES, WEAKNESSES, GUARANTEES = 64, 26, 10

_ROW = re.compile(r"^\| (\d+) \|[^|]+\| (.*) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def named_tests(text: str) -> list[tuple[str, str]]:
    """Return (path, function) of each test that a page names."""
    return _TEST.findall(text)


def missing_tests(text: str, root: Path) -> list[str]:
    """Return the named tests that do not exist."""
    return [f"{path}::{name}" for path, name in named_tests(text) if name not in _functions(root / path)]


def _functions(file: Path) -> set[str]:
    if not file.exists():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return functions | {name for node in tree.body for name in _machines(node)}


def _machines(node: ast.stmt) -> list[str]:
    """Return the names of test cases of state machines."""
    match node:
        case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)) if name.startswith("Test"):
            return [name]
    return []


def bare_rows(text: str) -> list[str]:
    """Return the numbers of rows that name neither a test nor a missing feature."""
    return [number for number, shown in _ROW.findall(text) if not _TEST.search(shown) and "not here yet: " not in shown]


def test_every_number_has_its_row_in_order() -> None:
    numbers = [int(number) for number, _ in _ROW.findall(PAGE.read_text(encoding="utf-8"))]
    assert numbers == [*range(1, CASES + 1), *range(1, WEAKNESSES + 1)]


@pytest.mark.parametrize("page", [PAGE, RELIABILITY], ids=lambda page: page.stem)
def test_each_named_test_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("`tests/") - 1 == len(named_tests(text)), "a test is not named as `tests/file.py::test_name`"
    assert missing_tests(text, ROOT) == []


def test_each_guarantee_is_shown_by_something() -> None:
    guaranteed = RELIABILITY.read_text(encoding="utf-8").partition("## Not guaranteed")[0]
    guarantees = re.split(r"^\*\*(\d+)\. ", guaranteed, flags=re.MULTILINE)
    numbers, paragraphs = guarantees[1::2], guarantees[2::2]
    assert [int(number) for number in numbers] == list(range(1, GUARANTEES + 1))
    assert [number for number, text in zip(numbers, paragraphs, strict=True) if not named_tests(text)] == []


def test_each_row_shows_something() -> None:
    assert bare_rows(PAGE.read_text(encoding="utf-8")) == []


# --- the checks themselves ----------------------------------------------------------------------------------
def test_a_test_that_is_not_there_is_seen(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        "def test_one(): ...\nclass C:\n    async def test_two(self): ...\nTestMachine = Machine.TestCase\n"
    )
    text = "| 1 | x | `tests/test_a.py::test_one`<br>`tests/test_a.py::test_two`<br>`tests/test_a.py::test_three` |\n"
    text += "`tests/test_a.py::TestMachine`"
    assert missing_tests(text + "`tests/test_b.py::test_one`", tmp_path) == [
        "tests/test_a.py::test_three",
        "tests/test_b.py::test_one",
    ]


def test_a_row_that_shows_nothing_is_seen() -> None:
    assert bare_rows("| 1 | x | `tests/a.py::b` |\n| 2 | y | not here yet: z |\n| 3 | y | some day |\n") == ["3"]
