"""Tables and JSON of schedules, locks, worker pools and attempts."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import fields, replace
from typing import Any

import pytest

import rayflow as rf
from rayflow.cli.locks import locks_text
from rayflow.cli.pools import pool_size_text, pools_text
from rayflow.cli.schedules import schedule_text, schedules_text
from rayflow.cli.show import tasks_text
from rayflow.client.locks import LockInfo, lock_info
from rayflow.client.schedules import ScheduleInfo
from rayflow.core.cluster.metrics import PoolStatus
from rayflow.core.execution.snapshot import TaskState, TaskStatus
from rayflow.core.locks.machine import Claimant, Lock, acquire
from rayflow.definition.options import PoolConfig, RateLimit
from rayflow.display import Style, to_json
from rayflow.display.formatting import width
from rayflow.errors import Failure

UTC = Style(tz=dt.UTC)
NOW = 1_000_000_000.0
ESCAPE = "\x1b"
EVIL = "\x1b[2Jx\r\n\u202e<script>y"
WHY = "it needs 1 GPU, and no node has any; the nodes have 2 CPU | 8 CPU"


def schedule(**changes: Any) -> ScheduleInfo:
    made = ScheduleInfo(
        name="nightly", schedule=rf.Schedule(cron="30 2 * * *", timezone="Europe/Berlin"), workflow_id="report",
        version="", args=("x",), kwargs={}, options=rf.ExecutionOptions(priority=7), paused=False,
        next_due=NOW + 3600, last_due=None, last_execution=None, running=(), queued_due=None, runs=1200, missed=2,
        skipped=3, created_at=NOW,
    )  # fmt: skip
    return replace(made, **changes)


def test_schedules_are_a_table_with_their_next_due_times() -> None:
    found = [
        schedule(running=("a", "b")),
        schedule(name="late", next_due=NOW - 60, schedule=rf.Schedule(every=90)),
        schedule(name="still", paused=True, next_due=None),
        schedule(name="ended", next_due=None),
    ]
    assert schedules_text(found, replace(UTC, now=NOW)).splitlines() == [
        "NAME     WORKFLOW  WHEN                      NEXT                 RUNS  MISSED  SKIPPED  RUNNING",
        "nightly  report    30 2 * * * Europe/Berlin  in 1 h 00 min       1,200       2        3        2",
        "late     report    every 1 min 30 s          due 1 min 00 s ago  1,200       2        3        0",
        "still    report    30 2 * * * Europe/Berlin  paused              1,200       2        3        0",
        "ended    report    30 2 * * * Europe/Berlin  ended               1,200       2        3        0",
    ]
    assert "  2001-09-09 02:46:40  " in schedules_text(found, UTC), "without now, as a moment"
    assert schedules_text([]) == "no schedules"


def test_a_schedule_shows_all_that_is_known_of_it() -> None:
    spec = rf.Schedule(every=90, start_at=NOW, end_at=NOW + 86_400, max_runs=1, jitter=5, overlap="queue_one")
    one = schedule(
        schedule=spec, version="2", last_due=NOW - 90, last_execution="nightly@x", running=("nightly@x",),
        queued_due=NOW, runs=1,
    )  # fmt: skip
    assert schedule_text(one, replace(UTC, now=NOW)).splitlines() == [
        "schedule  nightly",
        "workflow  report (version 2)",
        "when      every 1 min 30 s",
        "from      2001-09-09 01:46:40",
        "until     2001-09-10 01:46:40",
        "at most   1 run",
        "overlap   queue_one",
        "catch up  due times up to 1 h 00 min late",
        "jitter    5.0 s",
        "priority  7",
        "created   2001-09-09 01:46:40",
        "next      in 1 h 00 min (2001-09-09 02:46:40)",
        "queued    2001-09-09 01:46:40",
        "last due  2001-09-09 01:45:10",
        "newest    nightly@x",
        "running   nightly@x",
        "counts    1 run, 2 missed, 3 skipped",
        "",
        'input: {"args": ["x"], "kwargs": {}}',
    ]
    assert "input" not in schedule_text(schedule(args=()), UTC)


def test_the_keys_of_a_schedule_are_stable() -> None:
    found = to_json(schedule())
    json.dumps(found, allow_nan=False)
    assert list(found) == [
        "name", "schedule", "workflow_id", "version", "input", "options", "paused", "next_due", "last_due",
        "last_execution", "running", "queued_due", "runs", "missed", "skipped", "created_at", "damage",
    ]  # fmt: skip
    assert found["schedule"]["cron"] == "30 2 * * *"
    assert (found["input"], found["options"]) == ({"args": ["x"], "kwargs": {}}, {"priority": 7})


def lock() -> LockInfo:
    made: Lock | None = None
    for claimant, ttl in (
        (Claimant("book-1", 3), None), (Claimant(lease="host/17/ab"), 30.0), (Claimant("book-2", 1), None),
    ):  # fmt: skip
        made = acquire(made, "ledger", 2, claimant, NOW, ttl=ttl).lock
    assert made is not None
    return lock_info(made)


@pytest.mark.parametrize(
    ("now", "said"),
    [(NOW + 10, "20.0 s left"), (NOW + 90, "expired 1 min 00 s ago"), (None, "until 2001-09-09 01:47:10")],
)
def test_locks_are_a_table_of_claims(now: float | None, said: str) -> None:
    assert [line.rstrip() for line in locks_text([lock()], replace(UTC, now=now, width=120)).splitlines()] == [
        "LOCK    TAKEN   CLAIM    CLAIMANT          STEP  TOKEN  SINCE                LEASE",
        "ledger  2 of 2  held     book-1               3      1  2001-09-09 01:46:40",
        f"                held     lease host/17/ab            2  2001-09-09 01:46:40  {said}",
        "                waiting  book-2               1         2001-09-09 01:46:40",
    ]
    assert locks_text([]) == "no locks are held or waited for"


def test_the_keys_of_a_lock_are_stable() -> None:
    found = to_json(lock())
    json.dumps(found, allow_nan=False)
    assert list(found) == ["name", "permits", "holders", "waiting"]
    assert found["holders"][1] == {
        "execution_id": "", "step": 0, "lease": "host/17/ab", "token": 2, "since": NOW, "expires_at": NOW + 30,
        "ttl": 30.0,
    }  # fmt: skip
    assert [claim["execution_id"] for claim in found["waiting"]] == ["book-2"]


def test_schedules_and_locks_cannot_draw_on_the_screen() -> None:
    claim = replace(lock().holders[1], lease=EVIL)
    texts = [
        schedule_text(schedule(version=EVIL, workflow_id=EVIL, running=(EVIL,), args=(EVIL,)), UTC),
        schedules_text([schedule(name=EVIL, workflow_id=EVIL)], UTC),
        locks_text([LockInfo(EVIL, 1, (claim,), ())], UTC),
    ]
    assert [text for text in texts if any(character in text for character in "\x1b\r\u202e")] == []


def test_pools_are_a_table() -> None:
    gpu = PoolStatus(
        "gpu", PoolConfig(name="gpu", max_workers=8), queued=1200, oldest_waiting=65, full=True, wanted=4, workers=3,
        starting=1, leaving=2, busy=12, idle=1, problem=f"no node fits:\n{WHY}",
    )  # fmt: skip
    quiet = PoolStatus(oldest_waiting=3.0, wanted=4, workers=4, idle=16)
    assert pools_text([quiet, gpu], replace(UTC, width=130)).splitlines() == [
        "NAME     WORKERS                         PER ENVIRONMENT  BUSY SLOTS        QUEUED      OLDEST  PROBLEM",
        "default  4 of 4                          4                   0 of 16             0",
        "gpu      3 of 4 (1 starting, 2 leaving)  0-8                12 of 13  1,200 (full)  1 min 05 s  no node fits:",
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
    found = to_json(PoolStatus("gpu", config, queued=3, problem="none"))
    assert list(found) == [field.name for field in fields(PoolStatus)]
    assert (found["queued"], found["problem"]) == (3, "none")
    assert found["config"] == json.loads(config.model_dump_json())


def test_a_pool_whose_setup_is_no_text_can_be_shown_as_json_too() -> None:
    json.dumps(to_json(PoolStatus(config=PoolConfig(setup=lambda: None))))


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
    found = [to_json(task) for task in TASKS]
    json.dumps(found, allow_nan=False)
    assert set(found[0]) == {field.name for field in fields(TaskStatus)} | {"duration"}
    assert [task["status"] for task in found] == ["lost", "completed", "running", "waiting", "dropped"]
    assert [task["duration"] for task in found] == [0.5, 2.5, None, None, None]
    assert [task["last_error"] and task["last_error"]["message"] for task in found] == [
        "died", "died", "no\nmore", None, None,
    ]  # fmt: skip
