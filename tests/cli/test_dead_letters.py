"""``rayflow dlq``: listing, showing, requeueing and discarding dead letters."""

from __future__ import annotations

import sys

import pytest

from rayflow.cli import exit_codes, watch
from rayflow.client.local import LocalEngine
from tests.cli.project import Project

#: The folder in which "mended" makes the step succeed is the project's own, which is the working directory.
_FLOWS = """

import pathlib


@dataclasses.dataclass
class Bill:
    cents: int


@rf.step(retry=rf.RetryPolicy(max_retries=1, initial_delay=0.001))
async def pay(bill: Bill, *, how: str) -> str:
    if not pathlib.Path("mended").exists():
        raise ConnectionError(f"the bank does not answer\\nfor {bill.cents}")
    return f"paid {how}"


@rf.workflow
async def bills(cents: int) -> str:
    return await pay(Bill(cents), how="card")


@rf.workflow
async def careful() -> str:
    try:
        return await pay(Bill(1), how="cash")
    except rf.StepFailed:
        return "unpaid"
"""

_SIGNALS = """

@rf.workflow
async def choosing() -> list[int]:
    return await rf.wait_for_signal("choice", type=list[int])
"""


@pytest.fixture
def failing(project: Project) -> Project:
    """A store in which "one" failed by its step 1."""
    project.file.write_text(project.file.read_text() + _FLOWS)
    assert project.run("bills", "--input", "500", "--id", "one").code == exit_codes.FAILED
    return project


def mend(project: Project) -> None:
    (project.folder / "mended").touch()


def listed(project: Project, *words: str) -> list[tuple[str, int]]:
    return [(letter["execution_id"], letter["step"]) for letter in project("dlq", "list", "--json", *words).json]


def test_list_shows_the_newest_first_and_filters(failing: Project) -> None:
    assert failing.run("careful", "--id", "two").code == exit_codes.COMPLETED
    assert listed(failing) == [("two", 1), ("one", 1)]
    assert listed(failing, "--workflow", "bills") == [("one", 1)]
    assert listed(failing, "--execution", "two") == [("two", 1)]
    assert listed(failing, "--limit", "1") == [("two", 1)]
    lines = failing("dlq", "list").out.splitlines()
    assert lines[0].split() == ["EXECUTION", "STEP", "NAME", "WORKFLOW", "ATTEMPTS", "FAILED", "HANDLED", "ERROR"]
    assert [line.split()[:5] for line in lines[1:]] == [
        ["two", "1", "pay", "careful", "2"],
        ["one", "1", "pay", "bills", "2"],
    ]
    assert "  yes      ConnectionError: the bank does not answer" in lines[1]
    assert "  no       ConnectionError: the bank does not answer" in lines[2]


def test_a_store_without_dead_letters_says_so(project: Project) -> None:
    project.run("nothing")
    assert project("dlq", "list").out == "no dead letters\n"
    assert project("dlq", "list", "--json").json == []


def test_show_tells_all_of_a_dead_letter(failing: Project) -> None:
    shown = failing("dlq", "show", "one", "1")
    assert shown.code == exit_codes.COMPLETED
    facts, history, given, traceback = shown.out.rstrip().split("\n\n")
    found = dict(line.split(maxsplit=1) for line in facts.splitlines())
    assert (found["execution"], found["step"], found["attempts"]) == ("one", "1 pay", "2")
    assert found["handled"] == "no: the step failed the execution"
    assert found["error"] == "ConnectionError: the bank does not answer"
    assert history.splitlines()[0].split() == ["ATTEMPT", "FAILED", "DURATION", "WORKER", "COUNTS", "ERROR"]
    assert [line.split()[0] for line in history.splitlines()[1:]] == ["1", "2"]
    bill = f'{{"__type__": "{failing.name}:Bill", "cents": 500}}'
    assert given == f'input: {{"args": [{bill}], "kwargs": {{"how": "card"}}}}'
    assert traceback.startswith("traceback\n  Traceback (most recent call last):\n")
    assert "  for 500" in traceback
    assert shown.err == ("to requeue: rayflow dlq requeue one 1; to discard: rayflow dlq discard one 1\n")


def test_show_of_a_handled_one_offers_no_requeue(failing: Project) -> None:
    failing.run("careful", "--id", "two")
    shown = failing("dlq", "show", "two", "1")
    assert "yes: the step did not fail the execution" in shown.out
    assert shown.err == "to discard: rayflow dlq discard two 1\n"


def test_show_as_json_needs_no_code_of_the_users(failing: Project) -> None:
    failing.file.unlink()
    del sys.modules[failing.name]
    letter = failing("dlq", "show", "one", "1", "--json").json
    assert (letter["execution_id"], letter["step"], letter["name"], letter["workflow_id"]) == ("one", 1, "pay", "bills")
    assert letter["input"] == {
        "args": [{"__type__": f"{failing.name}:Bill", "cents": 500}],
        "kwargs": {"how": "card"},
    }
    assert (letter["error"]["type"], letter["handled"], letter["attempts"]) == ("ConnectionError", False, 2)
    assert [(attempt["attempt"], attempt["counts"]) for attempt in letter["history"]] == [(1, True), (2, True)]
    assert letter["history"][1]["error"] == letter["error"]
    assert letter["history"][1]["at"] == letter["at"] >= letter["began"] == letter["history"][1]["began"]
    assert failing.name not in sys.modules


def test_looking_starts_nothing_and_leaves_no_file(failing: Project) -> None:
    before, content = failing.files(), (failing.folder / "flows.db").read_bytes()
    for words in (["dlq", "list"], ["dlq", "show", "one", "1"], ["dlq", "list", "--json"]):
        assert failing(*words).code == exit_codes.COMPLETED
    assert failing.files() == before
    assert (failing.folder / "flows.db").read_bytes() == content


def test_requeue_tries_again_and_waits_locally(failing: Project) -> None:
    mend(failing)
    done = failing("dlq", "requeue", "one", "1", "--local", "--json")
    assert (done.code, done.json["status"], done.json["result"]) == (exit_codes.COMPLETED, "completed", "paid card")
    assert listed(failing) == []


def test_a_requeued_one_may_fail_again(failing: Project) -> None:
    assert failing("dlq", "requeue", "one", "1", "--local").code == exit_codes.FAILED
    assert failing("dlq", "show", "one", "1", "--json").json["attempts"] == 4


@pytest.mark.parametrize("wait", [False, True])
def test_requeue_elsewhere_waits_only_if_asked_to(
    failing: Project, monkeypatch: pytest.MonkeyPatch, *, wait: bool
) -> None:
    # An engine of this process that works as one on a cluster does.
    monkeypatch.setattr(watch, "open_engine", lambda args, recover: LocalEngine(failing.store, recover=False))
    mend(failing)
    done = failing("dlq", "requeue", "one", "1", *(["--wait"] if wait else []))
    assert done.code == exit_codes.COMPLETED
    said = done.out.splitlines()[0]
    assert said.startswith("one completed") if wait else said == "step 1 of one is requeued, and one is resumed"


def test_requeue_of_a_handled_one_is_wrong_usage(failing: Project) -> None:
    failing.run("careful", "--id", "two")
    done = failing("dlq", "requeue", "two", "1", "--local")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err == (
        "rayflow: cannot requeue step 1 of execution 'two': it is completed. It did not fail because of this step: "
        "the dead letter can only be discarded\n"
    )
    assert ("two", 1) in listed(failing)


def test_discard_deletes_it_and_leaves_the_execution(failing: Project) -> None:
    done = failing("dlq", "discard", "one", "1", "--local")
    assert (done.code, done.out) == (exit_codes.COMPLETED, "the dead letter of step 1 of one is discarded\n")
    assert listed(failing) == []
    assert failing("show", "one", "--json").json["status"] == "failed"


def test_discard_as_json(failing: Project) -> None:
    done = failing("dlq", "discard", "one", "1", "--local", "--json")
    assert (done.code, done.json) == (exit_codes.COMPLETED, {"execution_id": "one", "step": 1, "discarded": True})


def _words(action: str) -> list[str]:
    return ["dlq", action, "one", "9", *([] if action == "show" else ["--local"])]


def test_a_signal_that_did_not_fit_is_one_with_a_negative_number(project: Project) -> None:
    project.file.write_text(project.file.read_text() + _SIGNALS)
    project.run("choosing", "--id", "one", "--timeout", "0.05")
    project("signal", "one", "choice", "--payload", '"none"', "--local")
    assert project("dlq", "list").out.splitlines()[1].split()[:5] == ["one", "-1", "signal", "choice", "choosing"]
    shown = project("dlq", "show", "one", "-1")
    assert shown.code == exit_codes.COMPLETED
    assert "step       -1 signal choice\n" in shown.out
    assert 'input: {"args": ["none"], "kwargs": {}}' in shown.out
    letter = project("dlq", "show", "one", "-1", "--json").json
    assert (letter["name"], letter["kind"], letter["handled"]) == ("choice", "signal", True)
    refused = project("dlq", "requeue", "one", "-1", "--local")
    assert refused.code == exit_codes.USAGE
    assert refused.err == (
        "rayflow: cannot requeue signal choice of execution 'one': it is running. Send it again with a payload that "
        "fits: the dead letter can only be discarded\n"
    )
    assert project("dlq", "discard", "one", "-1", "--local").code == exit_codes.COMPLETED
    assert listed(project) == []


@pytest.mark.parametrize("action", ["show", "requeue", "discard"])
def test_one_that_is_not_there_is_wrong_usage(failing: Project, action: str) -> None:
    done = failing(*_words(action))
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err == (
        "rayflow: no dead letter of step 9 of execution 'one' in this store; `rayflow dlq list` shows those that "
        "there are\n"
    )


@pytest.mark.parametrize(
    "words", [["dlq"], ["dlq", "show", "one"], ["dlq", "show", "one", "0"], ["dlq", "list", "--limit", "x"]]
)
def test_wrong_words_are_wrong_usage(project: Project, words: list[str]) -> None:
    done = project(*words)
    assert done.code == exit_codes.USAGE
    assert "usage: rayflow dlq" in done.err


def test_a_store_that_is_not_there_is_an_error_and_is_not_made(project: Project) -> None:
    for words in (["dlq", "list"], ["dlq", "show", "one", "1"]):
        assert (project(*words).code, project.files()) == (exit_codes.USAGE, {project.file.name})
