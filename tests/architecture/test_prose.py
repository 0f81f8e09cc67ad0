"""The package and its pages are written in plain English: few of the phrases that `prose` counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture.prose import Found, measure, phrases, prose_of, rate, worst
from tests.architecture.tree import ROOT

#: Phrases per 10,000 words over all files, at most.
CEILING = 15


def test_the_prose_is_plain() -> None:
    proses = measure(ROOT)
    assert rate(proses) <= CEILING, (
        f"{rate(proses):.1f} phrases per 10,000 words, at most {CEILING}. "
        f"See each with: python -m tests.architecture.prose FILE\n{worst(proses)}"
    )


# --- the counter itself -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "Whoever calls it waits.",
        "Nobody drives it",
        "It is for who has the lease.",
        "Delete what is finished.",
        "It is no store.",
        "There is none.",
        "It is not driven any more.",
        "It answers the rows.",
        "Reads the store and answers which",
        "The supervisor is told.",
        "They are told so.",
        "The execution goes on.",
        "It is going on",
        "An engine takes up the rest.",
        "It takes it up.",
        "Executions are taken\n    up elsewhere.",
        "The actor is made anew.",
        "The execution was set aside.",
        "It sets executions aside.",
        "A lease that was given up.",
        "The pool sees to it.",
        "It looks after schedules.",
        "So many at once.",
        "It takes so long.",
        "A step that failed for good.",
        "It continues by itself.",
        "They have clients of their own.",
        "Meanwhile it waits.",
        "The code at hand.",
        "A file beside it.",
        "The execution is over.",
    ],
)
def test_a_phrase_is_counted_once(text: str) -> None:
    assert len(phrases(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "The answers are kept.",
        "Late answers, and questions and answers.",
        "Who is there? What is it, and who has it?",
        "A person answers a question.",
        "The value is no longer needed.",
        "`what is over` and ``nobody``",
        "The limit is over 5 MB.",
        "It takes as long as the store needs, so long as it is open.",
        "Besides, the goal is set.",
    ],
)
def test_other_words_are_not_counted(text: str) -> None:
    assert phrases(text) == []


def test_lines_of_phrases() -> None:
    assert phrases("One.\nTwo is\nover. Three?\n\nFour goes on.") == [(1, "is over"), (4, "goes on")]
    assert phrases("Is it\nover, or what is it?\nNobody knows.") == [(2, "Nobody")]


def test_prose_of_python_is_docstrings_comments_and_messages(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        '"""It goes on.\n'
        "\n"
        ">>> whoever = 'what is'\n"
        '"""\n'
        "x = 'nobody'  # noqa: nobody\n"
        "# One comment that goes\n"
        "# on, over two lines.\n"
        "y = 1  # nobody\n"
        "z = 2  # knows\n"
        "def f(log):\n"
        "    log.warning('it was set aside: %s', 'for good')\n"
        "    raise ValueError(f'{x} is over, ' 'as somebody said')\n"
        "class E(Exception):\n"
        "    def __init__(self, name):\n"
        "        super().__init__(f'{name} is no store')\n"
    )
    prose = prose_of(file, tmp_path)
    assert prose.found == (
        Found(1, "goes on"),
        Found(6, "goes on"),
        Found(8, "nobody"),
        Found(11, "for good"),
        Found(11, "set aside"),
        Found(12, "is over"),
        Found(12, "somebody"),
        Found(15, "is no"),
    )
    assert prose.words == 3 + 8 + 2 + 7 + 5 + 3
    assert prose.rate == pytest.approx(10_000 * 8 / prose.words)


def test_prose_of_a_page_is_without_code(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "# Nobody\n\n```python\nwhat = 'what is'  # anew\n```\n\n"
        "- in a list\n\n  ```\n  anew\n  ```\n\n"
        "[pools](pools.md#so-many)  \n\n| it goes on | anew |\n"
    )
    prose = prose_of(page, tmp_path)
    assert prose.found == (Found(1, "Nobody"), Found(15, "anew"), Found(15, "goes on"))
    assert prose.words == 1 + 3 + 1 + 4


def test_all_pages_and_modules_are_measured_and_the_worst_come_first(tmp_path: Path) -> None:
    for name, text in {
        "README.md": "Plain words.",
        "docs/a.md": "Nobody knows what is over, so it goes on.",
        "rayflow/a.py": "# nobody\n",
        "rayflow/core/README.md": "Plain.",
        "tests/a.py": "# nobody is measured in tests\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    proses = measure(tmp_path)
    assert [str(prose.path) for prose in proses] == ["docs/a.md", "rayflow/a.py", "README.md", "rayflow/core/README.md"]
    assert rate(proses) == pytest.approx(10_000 * 4 / (2 + 9 + 1 + 1))
    assert worst(proses, 1).splitlines()[1].split() == ["3", "3333", "9", "docs/a.md"]
    assert rate([]) == 0.0
