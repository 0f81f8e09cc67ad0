"""Views of waits, parents and children, runs and forks."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from typing import Any

import pytest

from rayflow.client.views import ExecutionTree, summary
from rayflow.core.execution.requests import WaitsFor
from rayflow.core.execution.snapshot import ChildSnapshot, ExecutionSnapshot, StepSnapshot
from rayflow.display import Style, list_text, snapshot_text, to_html, to_json, tree_text
from rayflow.display.formatting import width
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus
from rayflow.storage.model import ExecutionRecord
from tests.display.test_display import parsed

UTC = Style(tz=dt.UTC)
NOW = 1_000_000_000.0
EVIL = "\x1b[2Jx\r\n\u202e<script>y"


def snapshot(**changes: Any) -> ExecutionSnapshot:
    made = ExecutionSnapshot(
        "book-1", "book", "1", ExecutionStatus.RUNNING, created_at=NOW, updated_at=NOW + 1, epoch=1, coordinator="c"
    )
    return replace(made, **changes)


def record(**changes: Any) -> ExecutionRecord:
    made = ExecutionRecord(
        "book-1", "book", "1", ExecutionStatus.RUNNING, 5, NOW, NOW + 1, b"", "", "", b"", b"", "", epoch=1
    )
    return replace(made, **changes)


def facts(one: ExecutionSnapshot, style: Style = UTC) -> dict[str, str]:
    header = snapshot_text(one, style).split("\n\n")[0]
    return {line[:11].rstrip(): line[13:] for line in header.splitlines()}


WAITING = snapshot(
    run=3, parent="library", forked_from="book-0", parked=True, wakes_at=NOW + 60,
    waiting_for=["signal review", "child book-1.2"], unconsumed_signals=["stop", "go"],
)  # fmt: skip


def test_text_page_and_json_say_what_it_waits_for_and_where_it_comes_from() -> None:
    found = facts(WAITING)
    expected = {
        "waits": "signal review, child book-1.2; until 2001-09-09 01:47:40 (parked)",
        "run": "3",
        "parent": "library",
        "forked from": "book-0",
        "unread": "signal stop, signal go",
    }
    assert {name: found[name] for name in expected} == expected
    page = parsed(to_html(WAITING, UTC)).text
    assert [said for name, fact in expected.items() for said in (name, fact) if said not in page] == []
    document = to_json(WAITING)
    assert document["waiting_for"] == ["signal review", "child book-1.2"]
    assert (document["parked"], document["wakes_at"], document["run"]) == (True, NOW + 60, 3)
    assert (document["parent"], document["forked_from"]) == ("library", "book-0")
    assert document["unconsumed_signals"] == ["stop", "go"]


def test_what_does_not_apply_is_left_out() -> None:
    assert not {"waits", "run", "parent", "forked from", "unread", "reason"}.intersection(facts(snapshot()))
    page = parsed(to_html(snapshot(), UTC)).text
    assert [
        word for word in ("waits", "run", "parent", "forked", "unread") if word in page.replace("running", "")
    ] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"waiting_for": ["lock ledger"]}, "lock ledger"),
        ({"waiting_for": ["lock ledger"], "parked": True}, "lock ledger (parked)"),
        ({"wakes_at": NOW + 60, "parked": True}, "until 2001-09-09 01:47:40 (parked)"),
        ({"wakes_at": NOW + 0.5, "parked": True}, None),  # the execution is due now
        ({"parked": True}, None),  # paused or interrupted: shown by the status and the reason
    ],
)
def test_waits_are_told_in_a_few_words(changes: dict[str, Any], said: str | None) -> None:
    assert facts(snapshot(**changes)).get("waits") == said


def test_a_list_says_why_each_is_where_it_is() -> None:
    failed = snapshot(execution_id="b", status=ExecutionStatus.FAILED, error=Failure("ValueError", "no"))
    delayed = snapshot(execution_id="c", status=ExecutionStatus.PENDING, wakes_at=NOW + 60)
    lines = list_text([WAITING, failed, delayed], replace(UTC, width=140)).splitlines()
    assert [line[lines[0].index("REASON") :] for line in lines] == [
        "REASON",
        "waits: signal review, child book-1.2; until 2001-09-09 01:47:40",
        "ValueError: no",
        "until 2001-09-09 01:47:40",
    ]


def test_steps_that_are_no_steps_say_what_they_are_and_have_no_attempts() -> None:
    steps = [
        StepSnapshot(1, "draft", "completed", 2),
        StepSnapshot(2, "page", "completed", kind="child", worker="book-1.2"),
        StepSnapshot(3, "ledger", "released", kind="lock"),
        StepSnapshot(4, "go", "completed", kind="signal"),
        StepSnapshot(5, "refund", "failed", 4, kind="undo"),
    ]
    lines = snapshot_text(snapshot(steps=steps), UTC).split("\n\n")[1].splitlines()
    assert [line.rstrip() for line in lines] == [
        "STEP  NAME         STATUS     ATTEMPTS  WORKER",
        "   1  draft        completed         2",
        "   2  child page   completed            book-1.2",
        "   3  lock ledger  released",
        "   4  signal go    completed",
        "   5  undo refund  failed            4",
    ]
    page = parsed(to_html(snapshot(steps=steps), UTC)).text
    assert [said for said in ("child page", "lock ledger", "signal go", "undo refund") if said not in page] == []


CHILDREN = [
    ChildSnapshot(1, "book-1.1", "page", ExecutionStatus.COMPLETED),
    ChildSnapshot(0, "left", "page", ExecutionStatus.RUNNING),
]


def test_children_are_listed_in_text_page_and_json() -> None:
    one = snapshot(children=CHILDREN)
    lines = snapshot_text(one, UTC).split("\n\n")[-1].splitlines()
    assert [line.split() for line in lines] == [
        ["CHILD", "WORKFLOW", "STATUS", "STEP"],
        ["book-1.1", "page", "completed", "1"],
        ["left", "page", "running"],
    ]
    assert "CHILD" not in snapshot_text(one, UTC, children=False)
    page = parsed(to_html(one, UTC))
    assert sorted(page.opened) == sorted(page.closed)
    assert [said for said in ("book-1.1", "left", "page", "completed") if said not in page.text] == []
    assert to_json(one)["children"] == [
        {"step": 1, "execution_id": "book-1.1", "workflow_id": "page", "status": "completed"},
        {"step": 0, "execution_id": "left", "workflow_id": "page", "status": "running"},
    ]


def test_of_many_children_the_last_are_shown_unless_all_are_asked_for() -> None:
    many = [ChildSnapshot(n, f"c{n}", "page", ExecutionStatus.COMPLETED) for n in range(1, 1001)]
    one = snapshot(children=many)
    assert "… and 980 earlier ones; --steps shows all" in snapshot_text(one, UTC)
    assert "c1 " in snapshot_text(one, UTC, detail="steps")
    assert "… and 800 earlier ones" in parsed(to_html(one, UTC)).text


def tree() -> ExecutionTree:
    failed = snapshot(
        execution_id="book-1.1.1", workflow_id="leaf", status=ExecutionStatus.FAILED, error=Failure("ValueError", "no")
    )
    first = ExecutionTree(
        snapshot(execution_id="book-1.1", workflow_id="page", status=ExecutionStatus.COMPLETED),
        1,
        (ExecutionTree(failed, 1),),
    )
    second = ExecutionTree(snapshot(execution_id="left", workflow_id="page", waiting_for=["signal go"]), 0, more=True)
    return ExecutionTree(snapshot(), 0, (first, second))


def test_a_tree_is_drawn_with_what_each_waits_for_or_failed_by() -> None:
    assert tree_text(tree(), UTC).splitlines() == [
        "EXECUTION         WORKFLOW  STATUS     STEP  DURATION  REASON",
        "book-1            book      running",
        "├─ book-1.1       page      completed     1     1.0 s",
        "│  └─ book-1.1.1  leaf      failed        1     1.0 s  ValueError: no",
        "└─ left           page      running                    waits: signal go",
        "   └─ … and more                                       rayflow list --parent left",
    ]


def test_a_tree_fits_a_narrow_screen() -> None:
    lines = tree_text(tree(), replace(UTC, width=76, now=NOW + 5)).splitlines()
    assert max(map(width, lines)) <= 76
    assert "5.0 s" in lines[1]


def test_a_tree_as_json_is_what_a_list_has_with_children() -> None:
    found = to_json(tree())
    json.dumps(found, allow_nan=False)
    assert [child["execution_id"] for child in found["children"]] == ["book-1.1", "left"]
    assert [child["more_children"] for child in found["children"]] == [False, True]
    assert found["children"][0]["children"][0]["error"]["message"] == "no"
    assert found["children"][0]["step"] == 1


@pytest.mark.parametrize(
    ("changes", "parked"),
    [
        ({}, True),
        ({"owner": "somebody"}, False),
        ({"status": ExecutionStatus.PAUSED}, True),
        ({"status": ExecutionStatus.PENDING}, False),
        ({"status": ExecutionStatus.COMPLETED}, False),
    ],
)
def test_parked_executions_are_unfinished_and_have_no_owner(changes: dict[str, Any], parked: bool) -> None:  # noqa: FBT001 - a case
    assert summary(record(**changes)).parked is parked


def test_a_summary_shows_waits_of_unfinished_executions_only() -> None:
    waits = WaitsFor((("review", "flows:Verdict"),), ("ledger",), ("book-1.2",)).to_text()
    one = record(waits=waits, runnable_at=NOW + 60, run=2, parent="library", forked_from="book-0")
    found = summary(one)
    assert found.waiting_for == ["signal review", "lock ledger", "child book-1.2"]
    assert (found.wakes_at, found.run, found.parent, found.forked_from) == (NOW + 60, 2, "library", "book-0")
    over = summary(replace(one, status=ExecutionStatus.CANCELLED))
    assert (over.waiting_for, over.wakes_at) == ([], None)


def test_data_can_neither_draw_on_the_screen_nor_become_part_of_a_page() -> None:
    child = ChildSnapshot(1, EVIL, EVIL, ExecutionStatus.RUNNING)
    one = snapshot(
        parent=EVIL, forked_from=EVIL, waiting_for=[EVIL], unconsumed_signals=[EVIL], children=[child],
        steps=[StepSnapshot(1, EVIL, kind="child", worker=EVIL)],
    )  # fmt: skip
    texts = [
        snapshot_text(one, UTC, detail="full"),
        list_text([one], UTC),
        tree_text(ExecutionTree(one, 0, (ExecutionTree(one, 1, more=True),)), UTC),
    ]
    assert [text for text in texts if any(character in text for character in "\x1b\r\u202e")] == []
    page = to_html(one, UTC)
    assert "<script" not in page
    assert parsed(page).text.count("<script>y") >= 6
