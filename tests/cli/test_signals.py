"""``rayflow signal``, and messages of commands whose execution waits for a signal."""

from __future__ import annotations

import io
import re
import sys

import pytest

from rayflow.cli import exit_codes, watch
from rayflow.client.local import LocalEngine
from tests.cli.project import Project
from tests.cli.test_run import Terminal

_FLOWS = """


class Verdict(pydantic.BaseModel):
    ok: bool
    by: str


@rf.workflow
async def reviewed(text: str) -> str:
    verdict = await rf.wait_for_signal("review", type=Verdict)
    return f"{await loud(text)} by {verdict.by}"


@rf.workflow
async def collecting(count: int) -> list[object]:
    return [await rf.wait_for_signal("item") for _ in range(count)]


@rf.workflow
async def numbers() -> list[int]:
    return await rf.wait_for_signal("numbers", type=list[int])


@rf.workflow
async def asking(children: int) -> list[object]:
    return await asyncio.gather(*(collecting(1) for _ in range(children)))


@rf.workflow
async def guarded() -> int:
    async with rf.lock("ledger") as lock:
        await rf.wait_for_signal("free")
        return lock.token


@rf.workflow
async def hasty() -> str:
    try:
        return await rf.wait_for_signal("late", timeout=0.3)
    except TimeoutError:
        return "went on"
"""

VERDICT = '{"ok": true, "by": "ada"}'


@pytest.fixture
def waiting(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose executions are parked early, with "one" waiting for a review."""
    monkeypatch.setenv("RAYFLOW_PARK_IDLE_AFTER", "0.05")
    project.file.write_text(project.file.read_text() + _FLOWS)
    assert project.run("reviewed", "--input", '"hello"', "--id", "one").code == exit_codes.STOPPED_WAITING
    return project


def result(project: Project, execution_id: str) -> object:
    return project("show", execution_id, "--json").json["result"]


def test_a_local_run_that_waits_for_a_signal_ends_and_names_it(waiting: Project) -> None:
    done = waiting.run("collecting", "--input", "1", "--id", "two")
    assert (done.code, done.out) == (exit_codes.STOPPED_WAITING, "")
    assert done.err == (
        "execution two of workflow collecting\n"
        "rayflow: stopped waiting; execution 'two' waits for signal item; completed steps are recorded; to "
        "continue: rayflow signal two item --payload JSON --local\n"
    )
    assert waiting("resume", "two", "--local").err.endswith(done.err.splitlines()[1] + "\n")


def test_a_wait_with_a_timeout_is_waited_for(waiting: Project) -> None:
    done = waiting.run("hasty", "--quiet")
    assert (done.code, done.out) == (exit_codes.COMPLETED, "went on\n")


def test_waiting_for_children_names_their_signals(waiting: Project) -> None:
    done = waiting.run("asking", "--input", "5", "--id", "parent")
    assert done.code == exit_codes.STOPPED_WAITING
    assert (
        "execution 'parent' waits for signal item of parent.1, signal item of parent.2, signal item of parent.3 and "
        "2 more; " in done.err
    )
    assert "to continue: rayflow signal parent.1 item --payload JSON --local; rayflow signal parent.2" in done.err


def test_waiting_for_a_paused_child_names_the_child(waiting: Project) -> None:
    waiting.run("asking", "--input", "1", "--id", "parent")
    waiting("pause", "parent.1", "--local")
    done = waiting("wait", "parent", "--local")
    assert "execution 'parent' waits for parent.1, which is paused; " in done.err
    assert done.err.endswith("to continue: rayflow resume parent.1 --local\n")


def test_waiting_for_a_lock_names_the_signal_of_its_holder(waiting: Project) -> None:
    waiting.run("guarded", "--id", "holder")
    done = waiting.run("guarded", "--id", "next")
    assert done.code == exit_codes.STOPPED_WAITING
    assert "execution 'next' waits for signal free of holder; " in done.err


def test_on_a_cluster_the_signal_is_named_once_and_the_wait_continues(
    waiting: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An engine of this process that works as one on a cluster does.
    monkeypatch.setattr(watch, "open_engine", lambda args, recover: LocalEngine(waiting.store, recover=False))
    done = waiting("wait", "one", "--timeout", "2")
    assert done.code == exit_codes.STOPPED_WAITING
    waits = "execution 'one' waits for signal review; to continue: rayflow signal one review --payload JSON"
    again = "to wait again: rayflow wait one; to cancel: rayflow cancel one"
    assert done.err.splitlines() == [waits, f"rayflow: stopped waiting; {waits}; {again}"]


def test_on_a_terminal_the_line_of_progress_says_it(waiting: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(watch, "open_engine", lambda args, recover: LocalEngine(waiting.store, recover=False))
    assert waiting("wait", "one", "--timeout", "2").code == exit_codes.STOPPED_WAITING
    assert re.search(r"\r\x1b\[K0 done · 0 running · waits for signal review · \d+ s", terminal.text)


def test_show_and_list_say_what_is_waited_for(waiting: Project) -> None:
    shown = waiting("show", "one")
    assert "waits        signal review (parked)\n" in shown.out
    assert shown.err == "to send signal review: rayflow signal one review --payload JSON\n"
    assert waiting("show", "one", "--json").err == ""
    assert waiting("list").out.splitlines()[1].endswith("waits: signal review")


def test_a_local_execution_continues_with_a_signal_until_it_waits_again(waiting: Project) -> None:
    done = waiting("signal", "one", "review", "--payload", VERDICT, "--local")
    assert done.code == exit_codes.COMPLETED
    assert done.out.splitlines() == ["step says hello", "signal review is accepted; one is completed"]
    assert result(waiting, "one") == "HELLO by ada"
    waiting.run("collecting", "--input", "2", "--id", "two")
    first = waiting("signal", "two", "item", "--payload", "1", "--local")
    assert (first.code, first.out) == (exit_codes.COMPLETED, "signal item is accepted; two waits for signal item\n")
    assert waiting("signal", "two", "item", "--local", "--json").json["status"] == "completed"
    assert result(waiting, "two") == [1, None]


def test_wait_reports_how_the_execution_ends(waiting: Project) -> None:
    done = waiting("signal", "one", "review", "--payload", VERDICT, "--local", "--wait", "--json")
    assert (done.code, done.json["result"]) == (exit_codes.COMPLETED, "HELLO by ada")
    waiting.run("collecting", "--input", "2", "--id", "two")
    done = waiting("signal", "two", "item", "--local", "--wait")
    assert done.code == exit_codes.STOPPED_WAITING
    assert "execution 'two' waits for signal item; " in done.err


def test_the_payload_may_be_in_a_file_or_come_on_stdin(waiting: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting.run("collecting", "--input", "2", "--id", "two")
    (waiting.folder / "item.json").write_text('{"a": [1]}')
    waiting("signal", "two", "item", "--payload", "@item.json", "--local")
    monkeypatch.setattr(sys, "stdin", io.StringIO('"read"'))
    waiting("signal", "two", "item", "--payload", "@-", "--local")
    assert result(waiting, "two") == [{"a": [1]}, "read"]


def test_the_same_key_is_the_same_signal(waiting: Project) -> None:
    waiting.run("collecting", "--input", "2", "--id", "two")
    for payload in ("1", "2"):
        done = waiting("signal", "two", "item", "--payload", payload, "--key", "k", "--local")
        assert (done.code, done.out) == (exit_codes.COMPLETED, "signal item is accepted; two waits for signal item\n")
    waiting("signal", "two", "item", "--payload", "3", "--key", "other", "--local")
    assert result(waiting, "two") == [1, 3]
    again = waiting("signal", "two", "item", "--key", "k", "--local")
    assert (again.code, again.out) == (exit_codes.COMPLETED, "signal item is accepted; two is completed\n")


def test_an_early_signal_is_kept_through_a_pause(waiting: Project) -> None:
    assert waiting("pause", "one", "--local").code == exit_codes.COMPLETED
    kept = waiting("signal", "one", "review", "--payload", VERDICT, "--local")
    assert (kept.code, kept.out) == (exit_codes.COMPLETED, "signal review is accepted; one is paused\n")
    assert waiting("wait", "one", "--local").err == (
        "rayflow: execution 'one' is paused; to resume: rayflow resume one --local\n"
    )
    assert waiting("resume", "one", "--local").code == exit_codes.COMPLETED
    assert result(waiting, "one") == "HELLO by ada"


def test_on_a_cluster_signal_ends_with_its_acceptance(waiting: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "open_engine", lambda args, recover: LocalEngine(waiting.store, recover=False))
    done = waiting("signal", "one", "review", "--payload", VERDICT)
    assert (done.code, done.out) == (exit_codes.COMPLETED, "signal review for one is accepted\n")
    waiting.run("collecting", "--input", "1", "--id", "two")
    done = waiting("signal", "two", "item", "--wait")
    assert (done.code, done.out.splitlines()[0].split(":")[0]) == (exit_codes.COMPLETED, "two completed")


def test_a_payload_of_a_wrong_type_is_refused(waiting: Project) -> None:
    before = waiting("show", "one", "--json").json
    done = waiting("signal", "one", "review", "--payload", '{"ok": "maybe"}', "--local")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err == (
        f"rayflow: execution 'one' waits for a signal 'review' with a {waiting.name}:Verdict; the payload does "
        "not fit: ok: Input should be a valid boolean, unable to interpret input (given: 'maybe'); by: Field required\n"
    )
    assert waiting("show", "one", "--json").json["updated_at"] == before["updated_at"]


def test_a_signal_that_the_receiver_rejects_is_reported_with_its_dead_letter(waiting: Project) -> None:
    waiting.run("numbers", "--id", "two")
    done = waiting("signal", "two", "numbers", "--payload", '"abc"', "--local")
    assert (done.code, done.out) == (exit_codes.COMPLETED, "signal numbers is accepted; two waits for signal numbers\n")
    assert done.err == "the payload does not fit what two waits for and is now a dead letter: rayflow dlq show two -1\n"
    assert waiting("signal", "two", "numbers", "--payload", "[1]", "--local").err == ""
    assert result(waiting, "two") == [1]


def test_an_execution_that_is_over_is_wrong_usage(waiting: Project) -> None:
    waiting.run("nothing", "--id", "two")
    done = waiting("signal", "two", "review", "--local")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err == "rayflow: cannot signal execution 'two': it is completed\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope", "review"], "no execution 'nope' in this store; `rayflow list` shows those that there are"),
        (["one", ""], "signal name must not be empty"),
        (["one", "review", "--payload", "ada"], "--payload is not JSON: Expecting value in line 1, column 1, before"),
        (["one", "review", "--payload", "@none.json"], "--payload @none.json: [Errno 2] No such file or directory"),
    ],
)
def test_a_wrong_signal_is_wrong_usage(waiting: Project, words: list[str], said: str) -> None:
    done = waiting("signal", *words, "--local")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err.startswith(f"rayflow: {said}")


@pytest.mark.parametrize("words", [["signal"], ["signal", "one"], ["signal", "one", "review", "--timeout", "0"]])
def test_wrong_words_are_wrong_usage(project: Project, words: list[str]) -> None:
    done = project(*words)
    assert done.code == exit_codes.USAGE
    assert done.err.startswith("usage: rayflow signal")
