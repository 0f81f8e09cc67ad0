"""Examples in docstrings do what they show, and the Python in README.md and docs/ is Python."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from tests.architecture.tree import PURE, ROOT, modules

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)


def wrong_blocks(page: Path) -> list[str]:
    """The Python blocks of a Markdown page that do not compile, as "file:line: why"."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] in {"python", "py", "pycon"}:
            first = text.count("\n", 0, match.start("code")) + 1
            code = textwrap.dedent(match["code"])
            found += [f"{page.name}:{first + line}: {why}" for line, why in _errors(code)]
    return found


def _errors(code: str) -> list[tuple[int, str]]:
    if ">>> " in code:
        parts = [(example.lineno, example.source) for example in doctest.DocTestParser().get_examples(code)]
    else:
        parts = [(0, code)]
    found = []
    for line, source in parts:
        try:
            # Notebooks and `python -m asyncio` await at the top level, so examples may.
            compile(source, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        except SyntaxError as error:
            found.append((line + (error.lineno or 1) - 1, error.msg))
    return found


def failed_examples(module: ModuleType) -> list[str]:
    """The examples in a module's docstrings that do not do what they show."""
    runner = doctest.DocTestRunner(verbose=False)
    found: list[str] = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=found.append)
    return found


@pytest.mark.parametrize("name", [name for name, module in modules(ROOT).items() if module.floor <= PURE])
def test_docstring_examples_do_what_they_show(name: str) -> None:
    found = failed_examples(importlib.import_module(name))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_python_in_the_docs_compiles(page: Path) -> None:
    found = wrong_blocks(page)
    assert not found, "\n".join(found)


# --- the checks themselves ----------------------------------------------------------------------------------
def test_wrong_blocks_are_seen_with_their_lines(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n```python\nx = 1\nawait rf.now()\n```\n\n"
        "```sh\nnot python at all (\n```\n\n"
        "```python\nx = 1\ndef f(:\n```\n\n"
        "- in a list\n\n  ```python\n  y = 1\n  y y\n  ```\n\n"
        "```python\n>>> 1 + 1\n2\n>>> 1 +\n```\n"
    )
    assert [problem.partition(": ")[0] for problem in wrong_blocks(page)] == ["page.md:14", "page.md:21", "page.md:27"]


def test_a_failing_example_is_seen() -> None:
    module = ModuleType("wrong", "Adds.\n\n>>> 1 + 1\n2\n>>> 1 + 1\n3\n")
    [problem] = failed_examples(module)
    assert "Expected:\n    3\nGot:\n    2" in problem
