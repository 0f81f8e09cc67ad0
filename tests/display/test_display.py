"""Executions and metrics as text, HTML and JSON."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import html.parser
import json
import uuid
from collections import namedtuple
from dataclasses import dataclass, replace
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayflow.cli.cluster import metrics_text
from rayflow.cli.show import workflows_text
from rayflow.client.views import workflow_infos
from rayflow.core.cluster.metrics import DistributedMetrics
from rayflow.core.execution.snapshot import ExecutionSnapshot, StageSnapshot, StepSnapshot
from rayflow.display import (
    Style,
    duration_text,
    list_text,
    snapshot_text,
    to_html,
    to_json,
    value_text,
)
from rayflow.display.formatting import Column, clip, pad, table, visible, width
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus
from rayflow.storage.model import DefinitionRecord

UTC = Style(tz=dt.UTC)
ESCAPE = "\x1b"


def snapshot(**changes: Any) -> ExecutionSnapshot:
    made = ExecutionSnapshot(
        execution_id="doc-17",
        workflow_id="analyse",
        version="2",
        status=ExecutionStatus.COMPLETED,
        created_at=1_000_000_000.0,
        updated_at=1_000_000_012.34,
        epoch=3,
        coordinator="rayflow:coordinator:ab:cd",
        steps=[
            StepSnapshot(
                1, "extract", "completed", 2, "text", None, 1_000_000_001.0, 1_000_000_001.5, None, "rayflow:worker:w1"
            ),
            StepSnapshot(2, "names", "failed", 4, None, Failure("ValueError", "bad\nworse", "Traceback…"), 5.0, 6.0),
        ],
        result={"mood": "fine", "names": ["Ada"]},
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("日本", 4), ("e\u0301", 1), ("\U0001f600", 2), ("ﾃ", 1), ("", 0), ("a\u200db", 2)],
)
def test_width_is_that_of_a_terminal(text: str, columns: int) -> None:
    assert width(text) == columns


@given(st.text(), st.integers(0, 40))
def test_what_is_clipped_fits(text: str, columns: int) -> None:
    shown = visible(text)
    cut = clip(shown, columns)
    assert width(cut) <= columns
    assert cut == shown or width(shown) > columns
    assert width(pad(cut, columns)) == columns


@given(st.text())
def test_what_is_visible_moves_no_cursor(text: str) -> None:
    shown = visible(text)
    assert not any(character in shown for character in "\x1b\r\n\b\x07\u202e\u2028")
    assert visible(shown) == shown


def first(row: list[str], style: Style) -> str:
    return row[0]


def second(row: list[str], style: Style) -> str:
    return row[1]


def third(row: list[str], style: Style) -> str:
    return row[2]


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=5), st.integers(20, 80))
def test_a_table_fits_and_its_columns_stand_below_each_other(rows: list[tuple[str, str]], columns: int) -> None:
    shown = [[visible(a), visible(b), "|"] for a, b in rows]
    titled = [Column("A", first, least=5), Column("B", second, right=True, least=5), Column("C", third)]
    lines = table(titled, shown, Style(width=columns)).split("\n")
    assert len(lines) == len(rows) + 1
    assert all(width(line) <= columns for line in lines)
    assert len({width(line) for line in lines[1:]}) <= 1


def test_columns_without_anything_in_them_are_left_out() -> None:
    assert table([Column("A", first), Column("B", second), Column("C", third)], [["1", "", "3"]]) == "A  C\n1  3"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"), (0.0042, "4 ms"), (0.9996, "1.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (61, "1 min 01 s"),
        (599.6, "10 min"), (3599, "1 h 00 min"), (3725, "1 h 02 min"), (200_000, "2 d 07 h"), (-1, "0 ms"),
    ],
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_list_is_a_table() -> None:
    failed = snapshot(
        execution_id="doc-18", status=ExecutionStatus.FAILED, error=Failure("builtins.ValueError", "no\nmore")
    )
    running = snapshot(execution_id="doc-19", status=ExecutionStatus.RUNNING)
    assert list_text([snapshot(), failed, running], replace(UTC, now=1_000_003_725.0)).splitlines() == [
        "ID      WORKFLOW  STATUS     CREATED                DURATION  REASON",
        "doc-17  analyse   completed  2001-09-09 01:46:40      12.3 s",
        "doc-18  analyse   failed     2001-09-09 01:46:40      12.3 s  builtins.ValueError: no",
        "doc-19  analyse   running    2001-09-09 01:46:40  1 h 02 min",
    ]
    assert list_text([]) == "no executions"


def test_a_list_fits_a_narrow_screen() -> None:
    long = snapshot(execution_id="a-very-long-execution-id-" * 4, error=Failure("ValueError", "why " * 50))
    lines = list_text([long, snapshot()], replace(UTC, width=90)).splitlines()
    assert max(map(width, lines)) <= 90
    assert "…" in lines[1]
    assert lines[2].startswith("doc-17 ")


def test_a_snapshot_shows_what_there_is() -> None:
    assert snapshot_text(snapshot(), UTC).splitlines() == [
        "execution    doc-17",
        "workflow     analyse (version 2)",
        "status       completed",
        "created      2001-09-09 01:46:40",
        "changed      2001-09-09 01:46:52",
        "duration     12.3 s",
        "priority     5",
        "coordinator  rayflow:coordinator:ab:cd (epoch 3)",
        "",
        "STEP  NAME     STATUS     ATTEMPTS  DURATION  WORKER  ERROR",
        "   1  extract  completed         2    500 ms  w1",
        "   2  names    failed            4     1.0 s          ValueError: bad",
        "",
        'result: {"mood": "fine", "names": ["Ada"]}',
    ]


def test_only_the_last_steps_are_shown_unless_all_are_asked_for() -> None:
    many = snapshot(steps=[StepSnapshot(n, f"s{n}", "completed", 1, n) for n in range(1, 101)])
    brief = snapshot_text(many, UTC)
    assert "s80 " not in brief
    assert "s81 " in brief
    assert "… and 80 earlier ones; --steps shows all" in brief
    assert "s1 " in snapshot_text(many, UTC, detail="steps")
    assert "step 7 s7: result: 7" in snapshot_text(many, UTC, detail="full")


def test_a_long_value_is_cut_unless_all_of_it_is_asked_for() -> None:
    value = [f"{'line ' * 30}{n}" for n in range(50)]
    cut = value_text("result", value, UTC, whole=False).splitlines()
    assert cut[0] == "result"
    assert cut[-1] == "  … and 40 more lines; --full shows all"
    assert max(map(width, cut)) <= 100
    assert json.loads(value_text("", value, UTC)) == value


def test_colours_come_only_when_they_are_wanted() -> None:
    one = snapshot(stages=[StageSnapshot(0, "first", "skipped")])
    assert ESCAPE not in snapshot_text(one) + list_text([one])
    coloured = replace(UTC, colour=True)
    assert f"{ESCAPE}[32mcompleted" in list_text([one], coloured)
    assert f"{ESCAPE}[31mfailed" in snapshot_text(one, coloured)
    for style in (UTC, coloured):
        plain = list_text([one], style).replace(f"{ESCAPE}[32m", "").replace(f"{ESCAPE}[0m", "")
        assert plain == list_text([one], UTC)


def test_data_cannot_draw_on_the_screen() -> None:
    evil = f"{ESCAPE}[2Jx\r\n\u202ey"
    one = snapshot(
        version=evil,
        coordinator=evil,
        error=Failure(evil, evil, evil),
        steps=[StepSnapshot(1, evil, "failed", 1, None, Failure(evil, evil, evil), worker=evil)],
        stages=[StageSnapshot(0, evil, "failed")],
        state={evil: evil},
        result=evil,
    )
    shown = snapshot_text(one, UTC, detail="full") + list_text([one], UTC) + value_text("", evil)
    assert not any(character in shown for character in f"{ESCAPE}\r\u202e")


def test_metrics_are_listed_one_to_a_line() -> None:
    lines = metrics_text(DistributedMetrics(executions_started=1200, avg_task_duration=0.25)).splitlines()
    assert lines[0] == "executions started    1,200"
    assert "avg task duration     250 ms" in lines
    assert len(lines) == 16


def test_saved_workflows_are_a_table() -> None:
    code = json.dumps({"kind": "value", "module": "__main__", "qualname": "analyse"}).encode()
    saved = DefinitionRecord("analyse", "2", "Analyse", "Reads.\nMore.", code, "", 1_000_000_000.0, "{}")
    infos = workflow_infos([saved], [("analyse", "1", 3), ("analyse", "2", 1)])
    assert [line.rstrip() for line in workflows_text(infos, UTC).splitlines()] == [
        "ID       VERSION  UNFINISHED  SAVED                CODE                         ABOUT",
        "analyse  2                 1  2001-09-09 01:46:40  __main__:analyse (by value)  Reads.",
        "analyse  1                 3  no",
    ]
    assert [to_json(info)["unfinished"] for info in infos] == [1, 3]
    assert workflows_text([]) == "no workflows"


class Tags(html.parser.HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    return tags


def test_html_shows_steps_and_result_and_closes_its_tags() -> None:
    tags = parsed(to_html(snapshot(), UTC))
    assert sorted(tags.opened) == sorted(tags.closed)
    for said in (
        "doc-17",
        "analyse (version 2)",
        "completed",
        "12.3 s",
        "extract",
        "ValueError: bad",
        '"mood": "fine"',
    ):
        assert said in tags.text


def test_html_escapes_whatever_the_data_hold() -> None:
    evil = "<script>alert('x')</script>&\""
    one = snapshot(
        execution_id=evil, workflow_id=evil, version=evil, coordinator=evil, error=Failure(evil, evil),
        steps=[StepSnapshot(1, evil, "failed", 1, None, Failure(evil, evil))],
        stages=[StageSnapshot(0, evil, evil)], state={evil: evil}, result=evil,
    )  # fmt: skip
    page = to_html(one, UTC)
    assert "script" not in parsed(page).opened
    assert "<script" not in page
    assert parsed(page).text.count("<script>alert('x')</script>&\"") >= 8


def test_html_of_a_large_execution_stays_small() -> None:
    many = snapshot(steps=[StepSnapshot(n, f"s{n}") for n in range(5_000)], result="x" * 1_000_000)
    page = to_html(many, UTC)
    assert len(page) < 100_000
    assert "… and 4800 earlier ones" in page


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    YES = "y"


@dataclass
class Point:
    x: int
    y: float


class Model(pydantic.BaseModel):
    when: dt.date


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - this very kind is what is tried


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (3, 3),
        ("é", "é"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (b"a\xff", "a\\xff"),
        ((1, [2, {3}]), [1, [2, [3]]]),
        ({"b", "a"}, ["a", "b"]),
        ({1: 2, (1, 2): 3, None: 4}, {"1": 2, "(1, 2)": 3, "None": 4}),
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00+00:00"),
        (dt.timedelta(seconds=90), "0:01:30"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Word.YES, "y"),
        (Colour.RED, "red"),
        (Pair(1, 2), [1, 2]),
    ],
)
def test_values_become_plain_json(value: object, plain: object) -> None:
    assert to_json(value) == plain
    json.dumps(to_json(value), allow_nan=False)


def test_objects_become_dictionaries_with_their_class() -> None:
    module = Point.__module__
    assert to_json([Point(1, 2.0)]) == [{"__type__": f"{module}:Point", "x": 1, "y": 2.0}]
    assert to_json(Model(when=dt.date(2026, 1, 2))) == {"__type__": f"{module}:Model", "when": "2026-01-02"}
    assert str(to_json(lambda: None)).startswith("<pickled ")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    )
)
def test_any_value_can_be_shown_in_each_way(value: Any) -> None:
    json.loads(json.dumps(to_json(value), allow_nan=False))
    one = snapshot(result=value, state={"key": value})
    assert snapshot_text(one, UTC, detail="full")
    assert to_html(one, UTC)


def test_the_keys_of_a_snapshot_are_stable() -> None:
    found = to_json(snapshot(stages=[StageSnapshot(0, "first", "completed", Point(1, 2.0))]))
    json.dumps(found, allow_nan=False)
    assert list(found) == [
        "execution_id", "workflow_id", "version", "status", "created_at", "updated_at", "duration", "deadline",
        "priority", "epoch", "coordinator", "run", "parent", "forked_from", "parked", "wakes_at", "waiting_for",
        "attributes",
        "error", "completed_steps", "current_steps", "state", "stages", "steps", "children",
        "unconsumed_signals", "result",
    ]  # fmt: skip
    assert list(found["steps"][0]) == [
        "seq", "name", "kind", "status", "attempts", "result", "error", "began", "ended", "duration", "retry_at",
        "worker", "progress", "waits_for",
    ]  # fmt: skip
    assert found["steps"][1]["error"]["message"] == "bad\nworse"
    assert found["stages"][0]["result"]["x"] == 1
    assert found["completed_steps"] == [0]
    assert found["duration"] == pytest.approx(12.34)
    assert to_json(snapshot(status=ExecutionStatus.RUNNING))["duration"] is None
