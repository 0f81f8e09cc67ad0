"""``rayflow run``: exit codes, output, and one execution per id."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest

from rayflow.cli import executions, exit_codes, watch
from rayflow.client.local import LocalEngine
from tests.cli.project import INTERRUPTIBLE, Project


def test_a_completed_run_prints_the_output_of_steps_and_then_the_result(project: Project) -> None:
    done = project.run("shout", "--input", '"hello"', "--id", "one")
    assert done.code == exit_codes.COMPLETED
    lines = done.out.splitlines()
    assert lines[0] == "step says hello"
    assert lines[1].startswith("one completed: 1 step in ")
    assert lines[2:] == ["result: HELLO"]
    assert done.err == "execution one of workflow shout\n"


def test_a_failed_run_prints_its_reason_and_how_to_resume_in_one_line(project: Project) -> None:
    done = project.run("broken", "--id", "one")
    assert done.code == exit_codes.FAILED
    assert done.out == ""
    [line] = [line for line in done.err.splitlines() if line.startswith("rayflow: ")]
    assert line == (
        "rayflow: execution 'one' failed: ValueError: no. Details: rayflow show one --full; to retry the failed step: "
        "rayflow resume one --local"
    )
    assert "Traceback" not in done.err


def test_a_run_continues_later_after_its_timeout(project: Project) -> None:
    done = project.run("long", "--id", "one", "--timeout", "0.05")
    assert done.code == exit_codes.STOPPED_WAITING
    assert "rayflow: stopped waiting; execution 'one' is " in done.err
    assert "To continue: rayflow resume one --local" in done.err
    assert project("show", "one", "--json").json["status"] in ("pending", "running")


def test_a_cancelled_execution_exits_with_a_code_of_its_own(project: Project) -> None:
    project.run("long", "--id", "one", "--timeout", "0.05")
    assert project("cancel", "one", "--local", "--reason", "too long").code == exit_codes.COMPLETED
    again = project.run("long", "--id", "one")
    assert again.code == exit_codes.CANCELLED
    assert "rayflow: execution 'one' was cancelled: too long\n" in again.err


def test_ctrl_c_stops_a_local_run_and_prints_how_to_resume(project: Project) -> None:
    with project.spawn("run", f"{project.name}:long", "--local", "--id", "one", program=INTERRUPTIBLE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "execution one of workflow long\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.INTERRUPTED
    assert err == (
        "rayflow: interrupted; execution 'one' stops with this process; completed steps are recorded. "
        "To continue: rayflow resume one --local\n"
    )
    assert project("show", "one", "--json").json["status"] in ("pending", "running")


def test_an_unknown_error_keeps_its_traceback(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(executions, "find_target", fail)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        project.run("shout")


@pytest.mark.parametrize(("debug", "tracebacks"), [("1", 1), ("0", 0)])
def test_tracebacks_of_expected_errors_come_with_rayflow_debug(
    project: Project, monkeypatch: pytest.MonkeyPatch, debug: str, tracebacks: int
) -> None:
    monkeypatch.setenv("RAYFLOW_DEBUG", debug)
    done = project.run("nope")
    assert done.code == exit_codes.USAGE
    assert done.err.startswith("rayflow: ")
    assert done.err.count("Traceback") == tracebacks


def test_json_on_stdout_is_one_document_and_the_rest_goes_to_stderr(project: Project) -> None:
    done = project.run("shout", "--input", '"hello"', "--id", "one", "--json")
    assert done.code == exit_codes.COMPLETED
    assert done.json["execution_id"] == "one"
    assert done.json["status"] == "completed"
    assert done.json["result"] == "HELLO"
    assert [step["name"] for step in done.json["steps"]] == ["loud"]
    assert "step says hello" in done.err


def test_json_stays_pure_when_modules_print_and_steps_start_programs(project: Project) -> None:
    (project.folder / "chatty.py").write_text(
        "import subprocess, sys\nimport rayflow as rf\n"
        "print('imported')\n"
        "@rf.step\n"
        "def child() -> int:\n"
        "    return subprocess.run([sys.executable, '-c', 'print(\"child says\")'], check=True).returncode\n"
        "@rf.workflow\n"
        "async def chat() -> int:\n"
        "    print('workflow says')\n"
        "    return await child()\n"
    )
    with project.spawn("run", "chatty.py:chat", "--local", "--json") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.COMPLETED, err
    assert json.loads(out)["result"] == 0
    assert [said for said in ("imported", "workflow says", "child says") if said not in err] == []


def test_json_tells_failures_too(project: Project) -> None:
    done = project.run("broken", "--input", '"bad"', "--json")
    assert done.code == exit_codes.FAILED
    assert done.json["status"] == "failed"
    assert done.json["error"]["type"] == "ValueError"
    assert done.json["error"]["message"] == "bad\nand more"


def test_quiet_prints_the_result_alone(project: Project) -> None:
    done = project.run("shout", "--input", '"hello"', "--quiet")
    assert (done.code, done.out, done.err) == (exit_codes.COMPLETED, "HELLO\n", "")


class Terminal:
    """Stream that claims to be a terminal."""

    encoding = "utf-8"
    closed = False

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_that_makes_room_for_what_is_printed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    done = project.run("long", "--id", "one", "--timeout", "0.5")
    assert done.code == exit_codes.STOPPED_WAITING
    assert re.search(r"\r\x1b\[K0 done · 0 running · \d+ s", terminal.text)
    last = terminal.text.rpartition("\r\x1b[K")[2]
    assert last.startswith("rayflow: stopped waiting; ")
    assert "done ·" not in project.run("nothing").out


def test_running_an_id_again_attaches_to_the_same_execution(project: Project) -> None:
    first = project.run("shout", "--input", '"hello"', "--id", "one", "--json").json
    again = project.run("shout", "--input", '"hello"', "--id", "one", "--json")
    assert again.json == first
    assert "execution one of workflow shout already exists" in again.err
    assert "step says" not in again.err
    assert len(project("list", "--json").json["executions"]) == 1


def test_running_an_interrupted_id_again_resumes_it(project: Project) -> None:
    assert project.run("long", "--id", "one", "--timeout", "0.05").code == exit_codes.STOPPED_WAITING
    project.hurry()
    again = project.run("long", "--id", "one")
    assert again.code == exit_codes.COMPLETED
    assert again.out.splitlines()[0].startswith("one completed: 0 steps in ")


def test_an_id_of_another_input_is_refused(project: Project) -> None:
    project.run("shout", "--input", '"hello"', "--id", "one")
    done = project.run("shout", "--input", '"other"', "--id", "one")
    assert done.code == exit_codes.USAGE
    assert "it was started with another input" in done.err


def test_an_id_that_does_not_fit_is_wrong_usage(project: Project) -> None:
    done = project.run("nothing", "--id", "no spaces")
    assert done.code == exit_codes.USAGE
    assert "execution id 'no spaces' is not valid" in done.err


def test_priority_and_checkpoints_reach_the_execution(project: Project) -> None:
    done = project.run("shout", "--input", '"x"', "--priority", "8", "--checkpoints", "off", "--json")
    assert done.json["priority"] == 8
    assert done.json["result"] == "X"


@pytest.mark.parametrize(
    "words",
    [
        ["--timeout", "0"],
        ["--timeout", "soon"],
        ["--priority", "10"],
        ["--checkpoints", "maybe"],
        ["--unknown"],
        ["--delay", "0"],
        ["--start-at", "2026-11-24T02:00"],
        ["--start-at", "1795485600000"],
        ["--delay", "5", "--start-at", "5"],
    ],
)
def test_wrong_options_are_wrong_usage(project: Project, words: list[str]) -> None:
    done = project.run("nothing", *words)
    assert done.code == exit_codes.USAGE
    assert done.err.startswith("usage: rayflow ")
    assert not Path(project.folder, "flows.db").exists()


def test_a_delayed_run_begins_later_and_is_durable_at_once(project: Project) -> None:
    done = project.run("nothing", "--id", "one", "--delay", "3600", "--timeout", "0.05")
    assert done.code == exit_codes.STOPPED_WAITING
    first, begins, _ = done.err.splitlines()
    assert first == "execution one of workflow nothing"
    assert begins.startswith("the execution starts at ")
    shown = project("show", "one", "--json").json
    assert (shown["status"], shown["epoch"]) == ("pending", 0)
    assert shown["wakes_at"] == pytest.approx(shown["created_at"] + 3600)
    assert begins.removeprefix("the execution starts at ") in project("list").out


@pytest.mark.parametrize("moment", ["2900-01-01T01:00+01:00", "29348006400", "2900-01-01T00:00:00Z"])
def test_a_run_may_begin_at_a_moment(project: Project, moment: str) -> None:
    done = project.run("nothing", "--id", "one", "--start-at", moment, "--timeout", "0.05", "--json")
    assert (done.code, done.json["wakes_at"]) == (exit_codes.STOPPED_WAITING, 29348006400.0)
    assert project.run("nothing", "--start-at", "1").code == exit_codes.COMPLETED, "a moment that has passed"


def test_of_a_singleton_there_is_one_at_a_time(project: Project) -> None:
    project.run("nothing", "--id", "one", "--delay", "3600", "--singleton", "mine", "--timeout", "0.05")
    refused = project.run("nothing", "--id", "two", "--singleton", "mine")
    assert (refused.code, refused.out) == (exit_codes.USAGE, "")
    assert refused.err == (
        "rayflow: there is an unfinished execution with the singleton key 'mine' already: 'one'. Wait for its end, "
        "cancel it, or start without that key\n"
    )
    assert project.run("nothing", "--id", "two", "--singleton", "yours").code == exit_codes.COMPLETED


def test_a_local_run_cannot_be_detached(project: Project) -> None:
    done = project.run("nothing", "--detach")
    assert done.code == exit_codes.USAGE
    assert done.err == ("rayflow: --detach needs a cluster: with --local the execution ends with this process\n")


def test_a_detached_run_prints_the_id(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    # An engine of this process in place of a cluster's: the execution is durable as well.
    monkeypatch.setattr(watch, "open_engine", lambda args, recover: LocalEngine(project.store))
    done = project("run", f"{project.name}:long", "--detach", "--id", "one")
    assert (done.code, done.out) == (exit_codes.COMPLETED, "one\n")
    assert done.err.splitlines() == ["execution one of workflow long", "to wait for the result: rayflow wait one"]


def test_without_ray_nothing_imports_ray(project: Project) -> None:
    program = (
        "import sys\nfrom rayflow.cli import main\n"
        f"run = ['run', '{project.name}:nothing', '--local', '--id', 'one']\n"
        "reading = ['list', 'show one --tree', 'workflows', 'lock list', 'schedule list', 'dlq list', 'tasks one']\n"
        "codes = [main(words) for words in (run, *(line.split() for line in reading))]\n"
        "sys.exit(str(codes) if any(codes) else 'ray' in sys.modules)"
    )
    with project.spawn(program=("-c", program)) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err


def test_without_arguments_it_says_how_it_is_used(project: Project) -> None:
    assert project().code == exit_codes.USAGE
    helped = project("--help")
    assert helped.code == exit_codes.COMPLETED
    assert "exit codes: 0 completed, 1 failed, 2 wrong usage, 3 cancelled, 4 stopped waiting" in helped.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst"], "rayflow: error: unknown command 'lst'; did you mean 'list'?"),
        (["xyzzy"], "rayflow: error: unknown command 'xyzzy'; choose from run, wait, resume, "),
        (["schedule", "lst"], "rayflow schedule: error: unknown action 'lst'; did you mean 'list'?"),
    ],
)
def test_an_unknown_command_is_wrong_usage_with_a_suggestion(project: Project, words: list[str], said: str) -> None:
    done = project(*words)
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert said in done.err
