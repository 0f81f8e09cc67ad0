"""Views of the progress of steps."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from rayflow.core.execution.snapshot import ExecutionSnapshot, StepSnapshot
from rayflow.display import Style, snapshot_text, to_html, to_json
from rayflow.ids import ExecutionStatus

UTC = Style(tz=dt.UTC)
ESCAPE = "\x1b"


def under_way(*steps: StepSnapshot) -> ExecutionSnapshot:
    return ExecutionSnapshot(
        "doc-17", "analyse", "2", ExecutionStatus.RUNNING, 1_000_000_000.0, 1_000_000_001.0, steps=list(steps)
    )


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        ({"page": 3, "of": 10}, '{"page": 3, "of": 10}'),
        ("half\nway", "half"),
        (0.5, "0.5"),
        (0, "0"),
        (f"{ESCAPE}[2J", "\\x1b[2J"),
        ("x" * 200, "x" * 79 + "…"),
    ],
)
def test_the_progress_of_a_running_step_is_one_short_line(progress: object, shown: str) -> None:
    running = under_way(StepSnapshot(1, "read", progress=progress))
    lines = snapshot_text(running, replace(UTC, width=140)).splitlines()[-2:]
    assert lines[0].split() == ["STEP", "NAME", "STATUS", "ATTEMPTS", "PROGRESS"]
    assert lines[1] == f"   1  read  running         0  {shown}"


def test_what_a_step_waits_for_is_told_with_its_progress() -> None:
    waits = under_way(StepSnapshot(1, "train", waits_for="it needs 1 GPU"), StepSnapshot(2, "read", progress="half"))
    both = under_way(StepSnapshot(1, "train", waits_for="it needs 1 GPU", progress="half"))
    assert [line[30:] for line in snapshot_text(waits, UTC).splitlines()[-2:]] == ["  waits: it needs 1 GPU", "  half"]
    assert snapshot_text(both, UTC).endswith("  waits: it needs 1 GPU; half")
    assert "<td>waits: it needs 1 GPU; half</td>" in to_html(both, UTC)


def test_progress_on_a_page_is_escaped() -> None:
    page = to_html(under_way(StepSnapshot(1, "read", progress="<script>", waits_for="<b>")), UTC)
    assert "<td>waits: &lt;b&gt;; &lt;script&gt;</td>" in page


@pytest.mark.parametrize("status", ["completed", "failed", "dropped"])
def test_a_step_that_is_over_has_no_progress(status: str) -> None:
    over = under_way(StepSnapshot(1, "read", status, 1, progress="half", waits_for="a GPU"))
    shown = snapshot_text(over, UTC)
    assert "PROGRESS" not in shown
    assert "half" not in shown + to_html(over, UTC)
    assert "a GPU" not in shown


def test_progress_as_json_is_the_value_itself() -> None:
    [step] = to_json(under_way(StepSnapshot(1, "read", progress={"page": {3}}, waits_for="a GPU")))["steps"]
    assert (step["progress"], step["waits_for"]) == ({"page": [3]}, "a GPU")
