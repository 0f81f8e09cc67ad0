"""Each test that docs/acceptance.md names is there, and each of its numbers has one or says what is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.architecture.tree import ROOT

PAGE = ROOT / "docs" / "acceptance.md"
CASES, WEAKNESSES = 64, 26

_ROW = re.compile(r"^\| (\d+) \|[^|]+\| (.*) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def named_tests(text: str) -> list[tuple[str, str]]:
    """(path, function) of each test that a page names."""
    return _TEST.findall(text)


def missing_tests(text: str, root: Path) -> list[str]:
    """Those of them that are not in the tree."""
    return [f"{path}::{name}" for path, name in named_tests(text) if name not in _functions(root / path)]


def _functions(file: Path) -> set[str]:
    if not file.exists():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def bare_rows(text: str) -> list[str]:
    """Numbers of the rows that neither name a test nor say what is not here yet."""
    return [number for number, shown in _ROW.findall(text) if not _TEST.search(shown) and "not here yet: " not in shown]


def test_every_number_has_its_row_in_order() -> None:
    numbers = [int(number) for number, _ in _ROW.findall(PAGE.read_text(encoding="utf-8"))]
    assert numbers == [*range(1, CASES + 1), *range(1, WEAKNESSES + 1)]


def test_each_named_test_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("`tests/") - 1 == len(named_tests(text)), "a test is not named as `tests/file.py::test_name`"
    assert missing_tests(text, ROOT) == []


def test_each_row_shows_something() -> None:
    assert bare_rows(PAGE.read_text(encoding="utf-8")) == []


# --- the checks themselves ----------------------------------------------------------------------------------
def test_a_test_that_is_not_there_is_seen(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_one(): ...\nclass C:\n    async def test_two(self): ...\n")
    text = "| 1 | x | `tests/test_a.py::test_one`<br>`tests/test_a.py::test_two`<br>`tests/test_a.py::test_three` |\n"
    assert missing_tests(text + "`tests/test_b.py::test_one`", tmp_path) == [
        "tests/test_a.py::test_three",
        "tests/test_b.py::test_one",
    ]


def test_a_row_that_shows_nothing_is_seen() -> None:
    assert bare_rows("| 1 | x | `tests/a.py::b` |\n| 2 | y | not here yet: z |\n| 3 | y | some day |\n") == ["3"]
