"""Examples in docstrings do what they show; Python on the pages compiles, and their links and paths lead somewhere."""

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
_LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
#: A path below the root or rayflow/, with or without the name of a test.
_PATH = re.compile(
    r"`((?:rayflow|tests|docs|client|core|definition|cli|display|runtime|storage|testing)/[\w/.-]*?)/?(?:::\w+)?`"
)

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def wrong_blocks(page: Path) -> list[str]:
    """Return the Python blocks of a Markdown page that do not compile, as "file:line: why"."""
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


def dead_links(page: Path, root: Path) -> list[str]:
    """Return the relative links of a page whose file or heading does not exist."""
    found = []
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        if not linked.is_relative_to(root) or not linked.exists() or (anchor and anchor not in anchors(linked)):
            found.append(target)
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as a forge makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_paths(page: Path, root: Path) -> list[str]:
    """Return the paths of modules and pages in code spans that exist neither below the root nor below rayflow/."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [path for path in _PATH.findall(text) if not any((root / base / path).exists() for base in ("", "rayflow"))]


def failed_examples(module: ModuleType) -> list[str]:
    """Return the examples in a module's docstrings that do not do what they show."""
    runner = doctest.DocTestRunner(verbose=False)
    found: list[str] = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=found.append)
    return found


@pytest.mark.parametrize("name", [name for name, module in modules(ROOT).items() if module.floor <= PURE])
def test_docstring_examples_do_what_they_show(name: str) -> None:
    found = failed_examples(importlib.import_module(name))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_is_right(page: Path) -> None:
    assert wrong_blocks(page) == []
    assert dead_links(page, ROOT) == []
    assert dead_paths(page, ROOT) == []


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


def test_dead_links_and_paths_are_seen(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "rayflow" / "core").mkdir(parents=True)
    (tmp_path / "rayflow" / "core" / "a.py").touch()
    (tmp_path / "docs" / "other.md").write_text("# Pause, `resume`!\n\n```\n# no heading\n```\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#pause-resume) [c](#title) [d](http://example.org/x) [e](../docs/)\n# Title\n"
        "[f](gone.md) [g](other.md#no-heading) [h](#other)\n"
        "`rayflow/core/a.py` `core/a.py` `rayflow/core/` `core/a.py::test_x` `rayflow/b.py` `core/b.py` `other/b.py`\n"
    )
    assert dead_links(page, tmp_path) == ["gone.md", "other.md#no-heading", "#other"]
    assert dead_paths(page, tmp_path) == ["rayflow/b.py", "core/b.py"]


def test_a_failing_example_is_seen() -> None:
    module = ModuleType("wrong", "Adds.\n\n>>> 1 + 1\n2\n>>> 1 + 1\n3\n")
    [problem] = failed_examples(module)
    assert "Expected:\n    3\nGot:\n    2" in problem
