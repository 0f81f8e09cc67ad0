"""Worker pools, attempts and the progress of steps as text, HTML and JSON."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import fields, replace

import pytest

from rayflow.core.cluster.metrics import PoolStatus
from rayflow.core.execution.snapshot import ExecutionSnapshot, StepSnapshot, TaskState, TaskStatus
from rayflow.definition.options import PoolConfig, RateLimit
from rayflow.display import (
    Style,
    pool_json,
    pool_size_text,
    pools_text,
    snapshot_text,
    task_json,
    tasks_text,
    to_html,
    to_json,
)
from rayflow.display.tables import width
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus

UTC = Style(tz=dt.UTC)
ESCAPE = "\x1b"
EVIL = f"{ESCAPE}[2Jx\r\n\u202ey"
WHY = "it needs 1 GPU, and no node has any; the nodes have 2 CPU | 8 CPU"


# --- pools ------------------------------------------------------------------------------------------------------
def test_pools_are_a_table() -> None:
    gpu = PoolStatus(
        "gpu", PoolConfig(name="gpu", max_workers=8), queued=1200, oldest_waiting=65, full=True, wanted=4, workers=3,
        starting=1, leaving=2, busy=12, idle=1, problem=f"its workers cannot be placed:\n{WHY}",
    )  # fmt: skip
    quiet = PoolStatus(oldest_waiting=3.0, wanted=4, workers=4, idle=16)
    assert pools_text([quiet, gpu], replace(UTC, width=120)).splitlines() == [
        "NAME     WORKERS                         SIZE  SLOTS        QUEUED      OLDEST  PROBLEM",
        "default  4 of 4                          4      0/16             0",
        "gpu      3 of 4 (1 starting, 2 leaving)  0-8   12/13  1,200 (full)  1 min 05 s  its workers cannot be placed:",
    ]
    assert pools_text([]) == "no worker pools"


def test_pools_fit_a_narrow_screen_and_cannot_draw_on_it() -> None:
    shown = pools_text([PoolStatus("a" * 60, problem=EVIL + WHY)], replace(UTC, width=72))
    assert max(map(width, shown.splitlines())) <= 72
    assert not any(character in shown for character in f"{ESCAPE}\r\u202e")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (PoolConfig(workers=4), "4"),
        (PoolConfig(workers=4, min_workers=2), "2-4"),
        (PoolConfig(max_workers=8), "0-8"),
        (PoolConfig(min_workers=3, max_workers=3), "3-3"),
    ],
)
def test_the_size_of_a_pool(config: PoolConfig, text: str) -> None:
    assert pool_size_text(config) == text


def test_a_pool_as_json_is_its_whole_status() -> None:
    config = PoolConfig(
        name="gpu", rate_limit=RateLimit(count=5, per=2), resources={"tpu": 1}, runtime_env={"env_vars": {"A": "b"}}
    )
    found = pool_json(PoolStatus("gpu", config, queued=3, problem="none"))
    assert list(found) == [field.name for field in fields(PoolStatus)]
    assert (found["queued"], found["problem"]) == (3, "none")
    assert found["config"] == json.loads(config.model_dump_json())


def test_a_pool_whose_setup_is_no_text_can_be_shown_as_json_too() -> None:
    json.dumps(pool_json(PoolStatus(config=PoolConfig(setup=lambda: None))))


# --- attempts ---------------------------------------------------------------------------------------------------
TASKS = [
    TaskStatus(1, "fetch", 1, TaskState.LOST, "w1", 1_000_000_000.0, 1_000_000_000.5, 0, Failure("Lost", "died")),
    TaskStatus(
        1, "fetch", 2, TaskState.COMPLETED, "rayflow:worker:w2", 1_000_000_001.0, 1_000_000_003.5, 0,
        Failure("Lost", "died"),
    ),
    TaskStatus(2, "pay", 2, TaskState.RUNNING, "w1", 1_000_000_010.0, None, 1, Failure("builtins.OSError", "no\nmore")),
    TaskStatus(3, "tell", 1, TaskState.WAITING),
    TaskStatus(4, "log", 1, TaskState.DROPPED),
]  # fmt: skip


def test_attempts_are_a_table_in_their_order() -> None:
    assert tasks_text(TASKS, replace(UTC, now=1_000_000_075.0, width=140)).splitlines() == [
        "STEP  NAME   ATTEMPT  STATUS     WORKER  STARTED                DURATION  RETRIES  ERROR",
        "   1  fetch        1  lost       w1      2001-09-09 01:46:40      500 ms        0  Lost: died",
        "   1  fetch        2  completed  w2      2001-09-09 01:46:41       2.5 s        0",
        "   2  pay          2  running    w1      2001-09-09 01:46:50  1 min 05 s        1  builtins.OSError: no",
        "   3  tell         1  waiting                                                   0",
        "   4  log          1  dropped                                                   0",
    ]
    assert tasks_text([]) == "no steps so far"


def test_without_a_clock_what_runs_has_no_duration() -> None:
    assert "1 min" not in tasks_text(TASKS, UTC)


def test_attempts_have_the_colours_of_their_states_where_wanted() -> None:
    coloured = tasks_text(TASKS, replace(UTC, colour=True))
    assert f"{ESCAPE}[33mlost" in coloured
    assert f"{ESCAPE}[36mrunning" in coloured
    assert ESCAPE not in tasks_text(TASKS, UTC)


def test_attempts_cannot_draw_on_the_screen() -> None:
    shown = tasks_text([TaskStatus(1, EVIL, 1, TaskState.FAILED, EVIL, last_error=Failure(EVIL, EVIL))], UTC)
    assert not any(character in shown for character in f"{ESCAPE}\r\u202e")


def test_an_attempt_as_json_has_all_its_fields_and_its_duration() -> None:
    found = [task_json(task) for task in TASKS]
    json.dumps(found, allow_nan=False)
    assert set(found[0]) == {field.name for field in fields(TaskStatus)} | {"duration"}
    assert [task["status"] for task in found] == ["lost", "completed", "running", "waiting", "dropped"]
    assert [task["duration"] for task in found] == [0.5, 2.5, None, None, None]
    assert [task["last_error"] and task["last_error"]["message"] for task in found] == [
        "died", "died", "no\nmore", None, None,
    ]  # fmt: skip


# --- progress ---------------------------------------------------------------------------------------------------
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
