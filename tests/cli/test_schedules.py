"""``rayflow schedule``: creating, showing, pausing, triggering, backfilling and deleting schedules."""

from __future__ import annotations

import datetime as dt
import sys
import time
from typing import Any

import pytest

import rayflow as rf
from rayflow.cli import exit_codes, schedules, watch
from rayflow.client.local import LocalEngine
from tests.cli.project import Project

_FLOWS = """

@rf.workflow
async def report(kind: str, pages: int = 1) -> str:
    return await loud(f"{kind} {pages}")
"""

NIGHTLY = ("--cron", "30 2 * * MON-FRI", "--timezone", "Europe/Berlin", "--input", '{"kind": "nightly", "pages": 3}')

#: Nothing comes due while a test runs.
YEARLY = ("--cron", "0 0 1 1 *")


@pytest.fixture
def reporting(project: Project) -> Project:
    project.file.write_text(project.file.read_text() + _FLOWS)
    return project


@pytest.fixture
def nightly(reporting: Project) -> Project:
    """A store with the schedule "nightly"."""
    assert create(reporting, "nightly", *NIGHTLY)["name"] == "nightly"
    return reporting


def create(project: Project, name: str, *words: str, target: str = "report") -> Any:
    """Create a schedule, and return its JSON."""
    done = project("schedule", "create", name, f"{project.file.name}:{target}", "--local", "--json", *words)
    assert done.code == exit_codes.COMPLETED, done.err
    return done.json


def listed(project: Project) -> list[str]:
    return [schedule["name"] for schedule in project("schedule", "list", "--json").json]


def started(project: Project, name: str) -> list[str]:
    rows = project("list", "--schedule", name, "--json").json["executions"]
    return sorted(row["execution_id"] for row in rows)


def test_create_shows_the_schedule_and_notes_that_an_engine_is_needed(reporting: Project) -> None:
    made = reporting("schedule", "create", "nightly", f"{reporting.file.name}:report", *NIGHTLY, "--local")
    assert made.code == exit_codes.COMPLETED
    facts, given = made.out.rstrip().split("\n\n")
    found = dict(line.split(maxsplit=1) for line in facts.splitlines())
    assert (found["schedule"], found["workflow"]) == ("nightly", "report")
    assert found["when"] == "30 2 * * MON-FRI Europe/Berlin"
    assert found["next"].startswith("in ")
    assert found["counts"] == "0 runs, 0 missed, 0 skipped"
    assert given == 'input: {"args": ["nightly", 3], "kwargs": {}}'
    assert made.err == ("a schedule starts executions only while an engine is open on its store\n")


def test_create_takes_all_options(reporting: Project) -> None:
    start = dt.datetime(2900, 1, 1, tzinfo=dt.UTC).timestamp()
    made = create(
        reporting, "often", "--every", "90", "--overlap", "allow", "--catch-up", "60", "--jitter", "5",
        "--start-at", "2900-01-01T01:00:00+01:00", "--end-at", "32503679999", "--max-runs", "7", "--priority", "8",
        "--input", '["often"]',
    )  # fmt: skip
    assert (
        made["schedule"]
        == rf.Schedule(
            every=90,
            overlap="allow",
            catch_up=60,
            jitter=5,
            start_at=start,
            end_at=32503679999,
            max_runs=7,
        ).model_dump()
    )
    assert made["options"]["priority"] == 8
    assert made["input"] == {"args": ["often"], "kwargs": {}}
    assert made["next_due"] == start
    text = reporting("schedule", "show", "often").out
    for said in ("every 1 min 30 s", "at most   7 runs", "overlap   allow", "jitter    5.0 s", "priority  8"):
        assert said in text


def test_the_target_may_be_a_saved_workflow_of_a_version(nightly: Project) -> None:
    made = nightly("schedule", "create", "saved", "report", *YEARLY, "--input", '["x"]', "--version", "1", "--local")
    assert "workflow  report (version 1)\n" in made.out
    assert listed(nightly) == ["nightly", "saved"]


def test_one_of_that_name_is_changed_only_with_replace(nightly: Project) -> None:
    words = ("schedule", "create", "nightly", f"{nightly.file.name}:report", *YEARLY, "--input", '["x"]', "--local")
    refused = nightly(*words)
    assert (refused.code, refused.out) == (exit_codes.USAGE, "")
    assert refused.err == (
        "rayflow: a schedule 'nightly' exists: change it with replace=True (--replace), or delete it\n"
    )
    assert nightly(*words, "--replace").code == exit_codes.COMPLETED
    [schedule] = nightly("schedule", "list", "--json").json
    assert (schedule["schedule"]["cron"], schedule["input"]["args"]) == ("0 0 1 1 *", ["x"])


def test_list_and_show_need_no_code_and_leave_no_file(nightly: Project) -> None:
    nightly.file.unlink()
    sys.modules.pop(nightly.name, None)
    before, content = nightly.files(), (nightly.folder / "flows.db").read_bytes()
    lines = nightly("schedule", "list").out.splitlines()
    assert lines[0].split() == ["NAME", "WORKFLOW", "WHEN", "NEXT", "RUNS", "MISSED", "SKIPPED", "RUNNING"]
    assert lines[1].startswith("nightly  report    30 2 * * MON-FRI Europe/Berlin  in ")
    assert nightly("schedule", "show", "nightly", "--json").json == nightly("schedule", "list", "--json").json[0]
    assert nightly.files() == before
    assert (nightly.folder / "flows.db").read_bytes() == content
    assert nightly.name not in sys.modules


def test_a_store_without_schedules_says_so(project: Project) -> None:
    project.run("nothing")
    assert project("schedule", "list").out == "no schedules\n"
    assert project("schedule", "list", "--json").json == []


def test_a_paused_one_starts_nothing_until_it_is_resumed(nightly: Project) -> None:
    paused = nightly("schedule", "pause", "nightly", "--local", "--json")
    assert (paused.code, paused.json["paused"], paused.json["next_due"]) == (exit_codes.COMPLETED, True, None)
    assert "  paused  " in nightly("schedule", "list").out
    resumed = nightly("schedule", "resume", "nightly", "--local", "--json")
    assert (resumed.code, resumed.json["paused"]) == (exit_codes.COMPLETED, False)
    assert resumed.json["next_due"] > time.time()


def test_delete_removes_a_schedule_but_not_its_executions(nightly: Project) -> None:
    nightly("schedule", "trigger", "nightly", "--local")
    done = nightly("schedule", "delete", "nightly", "--local")
    assert (done.code, done.out) == (exit_codes.COMPLETED, "schedule nightly is deleted\n")
    assert listed(nightly) == []
    assert len(started(nightly, "nightly")) == 1
    create(nightly, "nightly", *NIGHTLY)
    done = nightly("schedule", "delete", "nightly", "--local", "--json")
    assert (done.code, done.json) == (exit_codes.COMPLETED, {"name": "nightly", "deleted": True})


def test_trigger_starts_the_workflow_now_and_waits_locally(nightly: Project) -> None:
    done = nightly("schedule", "trigger", "nightly", "--local")
    assert done.code == exit_codes.COMPLETED
    [execution_id] = started(nightly, "nightly")
    assert done.err == f"execution {execution_id} of workflow report\n"
    assert execution_id.startswith("nightly@manual-")
    lines = done.out.splitlines()
    assert (lines[0], lines[-1]) == ("step says nightly 3", "result: NIGHTLY 3")
    shown = nightly("schedule", "show", "nightly", "--json").json
    assert (shown["last_execution"], shown["runs"]) == (execution_id, 0)
    assert shown["running"] == [], "it is over, whether the schedule knows or not"


def test_trigger_ends_as_run_does(nightly: Project) -> None:
    create(nightly, "bad", *YEARLY, target="broken")
    assert nightly("schedule", "trigger", "bad", "--local").code == exit_codes.FAILED
    create(nightly, "slow", *YEARLY, target="long")
    stopped = nightly("schedule", "trigger", "slow", "--local", "--timeout", "0.05", "--json")
    assert stopped.code == exit_codes.STOPPED_WAITING
    [running] = nightly("schedule", "show", "slow", "--json").json["running"]
    assert running == stopped.json["execution_id"]


#: In 2026, on three days of the week of which "nightly" has two.
FROM_TO = ("2026-01-08T00:00:00+01:00", "2026-01-11T00:00:00+01:00")


def test_backfill_starts_past_due_times_and_waits_locally(nightly: Project) -> None:
    done = nightly("schedule", "backfill", "nightly", *FROM_TO, "--local")
    ids = ["nightly@20260108T013000Z", "nightly@20260109T013000Z"]
    assert done.code == exit_codes.COMPLETED
    assert done.err == "waiting for 2 executions of schedule nightly\n"
    assert done.out.splitlines()[-2:] == [f"{name}  completed" for name in ids]
    assert started(nightly, "nightly") == ids
    again = nightly("schedule", "backfill", "nightly", *FROM_TO, "--local", "--json")
    assert (again.code, again.json["started"]) == (exit_codes.COMPLETED, ids)
    assert [execution["status"] for execution in again.json["executions"]] == ["completed"] * 2
    assert started(nightly, "nightly") == ids, "each due time is started once"


def test_backfill_of_a_time_without_due_times_says_so(nightly: Project) -> None:
    words = ("schedule", "backfill", "nightly", "2026-01-10T00:00:00+01:00", "2026-01-11T00:00:00+01:00", "--local")
    assert (nightly(*words).code, nightly(*words).out) == (exit_codes.COMPLETED, "no due times in this range\n")
    assert nightly(*words, "--json").json == {"name": "nightly", "started": []}


@pytest.mark.parametrize("wait", [False, True])
def test_elsewhere_they_are_waited_for_if_asked(
    nightly: Project, monkeypatch: pytest.MonkeyPatch, *, wait: bool
) -> None:
    # An engine of this process that works as one on a cluster does.
    monkeypatch.setattr(watch, "open_engine", lambda args, recover: LocalEngine(nightly.store, recover=recover))
    asked = ["--wait"] if wait else []
    triggered = nightly("schedule", "trigger", "nightly", *asked)
    backfilled = nightly("schedule", "backfill", "nightly", *FROM_TO, *asked)
    assert (triggered.code, backfilled.code) == (exit_codes.COMPLETED, exit_codes.COMPLETED)
    if wait:
        assert triggered.out.splitlines()[-1] == "result: NIGHTLY 3"
        assert backfilled.out.splitlines()[-1] == "nightly@20260109T013000Z  completed"
    else:
        manual = triggered.out.splitlines()[-1]
        assert triggered.err.splitlines()[1] == f"to wait for the result: rayflow wait {manual}"
        dues = backfilled.out.splitlines()[-2:]
        assert dues == ["nightly@20260108T013000Z", "nightly@20260109T013000Z"]
        assert started(nightly, "nightly") == sorted([manual, *dues])


@pytest.mark.parametrize(
    "words",
    [
        ["show", "nope"], ["pause", "nope", "--local"], ["resume", "nope", "--local"], ["trigger", "nope", "--local"],
        ["delete", "nope", "--local"], ["backfill", "nope", *FROM_TO, "--local"],
    ],
)  # fmt: skip
def test_one_that_is_not_there_is_wrong_usage(nightly: Project, words: list[str]) -> None:
    done = nightly("schedule", *words)
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err == "rayflow: no schedule 'nope' in this store; `rayflow schedule list` shows those that there are\n"


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that opens an engine."""

    def refuse(args: object, *, recover: bool) -> None:
        raise AssertionError("wrong usage has to be found before a cluster is started")

    monkeypatch.setattr(schedules, "open_engine", refuse)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "one of the arguments --cron --every is required"),
        (["--cron", "0 2 * * *", "--every", "60"], "argument --every: not allowed with argument --cron"),
        (["--cron", "61 2 * * *"], "Schedule.cron: the minute field '61' of '61 2 * * *' is bad; it takes 0-59"),
        (["--cron", "0 2 * *"], "Schedule.cron: needs 5 fields (minute, hour, day of month, month, day of week)"),
        (["--every", "0"], "argument --every: needs more than 0 seconds, not 0"),
        (["--every", "60", "--timezone", "Europe/Berlin"], "every counts seconds, which no time zone changes"),
        (["--cron", "0 2 * * *", "--timezone", "Berlin"], "unknown time zone 'Berlin'; use an IANA name such"),
        (["--every", "60", "--overlap", "queue"], "argument --overlap: invalid choice: 'queue'"),
        (["--every", "60", "--start-at", "soon"], "argument --start-at: needs a time such as 2026-11-24T02:00:00+01"),
        (
            ["--every", "60", "--end-at", "2026-11-24T02:00"],
            "argument --end-at: 2026-11-24T02:00 has no UTC offset; with the time zone of this machine",
        ),
        (
            ["--every", "60", "--end-at", "1795485600000"],
            "argument --end-at: 1795485600000 is not between 1970 and 2999; a number counts seconds",
        ),
        (["--every", "60", "--start-at", "20", "--end-at", "10"], "end_at (10.0) must not be earlier than start_at"),
        (["--every", "60", "--max-runs", "0"], "argument --max-runs: needs at least 1, not 0"),
        (["--every", "60"], "workflow 'report': missing a required argument: 'kind'; it takes (kind: str, pages: int"),
        (["--every", "60", "--input", "[5]"], "--input: parameter 'kind' does not fit: "),
        (["--every", "60", "--input", "x"], "--input is not JSON: "),
    ],
)
def test_a_wrong_schedule_is_wrong_usage(reporting: Project, words: list[str], said: str) -> None:
    done = reporting("schedule", "create", "one", f"{reporting.file.name}:report", *words)
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert said in done.err
    assert not (reporting.folder / "flows.db").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a b", "report"], "schedule id 'a b' is not valid"),
        (["a@b", "report"], "schedule id 'a@b' is not valid: at most 160 characters and no @"),
        (["one", "nope"], "no workflow 'nope' is registered in this store; registered here: report"),
        (["one", "report", "--version", "9"], "no workflow 'report (version 9)' is registered in this store"),
    ],
)
def test_names_and_workflows_that_cannot_be_are_wrong_usage(nightly: Project, words: list[str], said: str) -> None:
    done = nightly("schedule", "create", *words, *YEARLY, "--input", '["x"]', "--local")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert said in done.err
    assert listed(nightly) == ["nightly"]


def test_a_version_of_a_file_has_to_be_saved(nightly: Project) -> None:
    target = f"{nightly.file.name}:report"
    words = ("schedule", "create", "one", target, *YEARLY, "--input", '["x"]', "--version", "9", "--local")
    assert nightly(*words).code == exit_codes.USAGE
    assert listed(nightly) == ["nightly"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([FROM_TO[1], FROM_TO[0]], "TO (2026-01-07 23:00:00+00:00) must be later than FROM (2026-01-10 23:00:00+00:"),
        ([FROM_TO[0], "tomorrow"], "argument TO: needs a time such as 2026-11-24T02:00:00+01:00, or seconds since"),
        (
            [FROM_TO[0], "2026-01-11"],
            "argument TO: 2026-01-11 has no UTC offset; with the time zone of this machine it is 2026-01-11T00:00:00",
        ),
        ([*FROM_TO, "--limit", "1"], "backfill range contains more than 1 due times of schedule 'nightly'"),
    ],
)
def test_a_time_that_cannot_be_backfilled_is_wrong_usage(nightly: Project, words: list[str], said: str) -> None:
    done = nightly("schedule", "backfill", "nightly", *words, "--local")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert said in done.err
    assert started(nightly, "nightly") == []


@pytest.mark.parametrize("words", [[], ["start"], ["show"], ["list", "--local"], ["pause"], ["backfill", "a", "1"]])
def test_wrong_words_are_wrong_usage(project: Project, words: list[str]) -> None:
    done = project("schedule", *words)
    assert done.code == exit_codes.USAGE
    assert done.err.startswith("usage: rayflow")


def test_a_store_that_is_not_there_is_an_error_and_is_not_made(project: Project) -> None:
    for words in (["list"], ["show", "one"]):
        assert (project("schedule", *words).code, project.files()) == (exit_codes.USAGE, {project.file.name})
