"""The setup of a worker's pool: run once before any work, seen by the steps, left when the worker stops."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rayflow.definition.setup import setup_reference
from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import Reply
from rayflow.runtime.worker import setup as pool_setup
from tests.runtime.worker import worker_steps as steps
from tests.runtime.worker.worker_harness import Bench, bench, reach
from tests.runtime.worker.worker_steps import PATIENCE, STAGE

HERE = "tests.runtime.worker.worker_setups:"


def seen(one: Bench) -> Any:
    """Return what a step sees, once the worker is ready."""
    one.worker.call("ready")
    return one.result(steps.what_was_prepared)


def stopped(one: Bench) -> None:
    one.worker.call("stop", group="control")


# --- what it does -------------------------------------------------------------------------------------------
def test_a_function_runs_once_on_the_thread_that_asks() -> None:
    with bench(1, setup=HERE + "prepare") as one:
        assert seen(one) == "prepared"
        assert seen(one) == "prepared"
        [thread] = STAGE.ran
        assert thread.startswith("w1-"), "a thread of the actor's"


def test_an_async_one_runs_on_the_loop_of_the_steps() -> None:
    with bench(1, setup=HERE + "prepare_async") as one:
        assert seen(one) == "prepared"
        assert STAGE.ran == ["w1/async"]


@pytest.mark.parametrize(
    ("setup", "value", "entered", "left"),
    [
        ("opened", "open", "opened", "closed"),
        ("open_later", "open", "opened", "closed"),
        ("connected", "connection", "connected on w1/async", "disconnected"),
        ("Connection", "awaited", "awaited", "left"),
    ],
)
def test_a_context_manager_is_entered_and_left(setup: str, value: str, entered: str, left: str) -> None:
    with bench(1, setup=HERE + setup) as one:
        assert seen(one) == value
        assert STAGE.ran == [entered]
        stopped(one)
        assert STAGE.ran == [entered, left]
        stopped(one)
        assert STAGE.ran == [entered, left], "once"


def test_it_is_left_after_the_last_step_has_ended() -> None:
    with bench(1, setup=HERE + "opened") as one:
        one.worker.call("ready")
        one.send(one.task(steps.wait_for_ever, "a"))
        reach("a")
        stopped(one)
        assert STAGE.ran == ["opened", "a cleaned up", "closed"]


def test_a_function_of_no_module_comes_from_the_store() -> None:
    carried = "closure"
    text, blob = setup_reference(lambda: carried)
    assert blob is not None
    with bench(1, setup=text) as one:
        one.blobs[text.rpartition(":")[2]] = blob
        assert seen(one) == carried


def test_it_is_found_in_the_code_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "clients_of_the_environment.py").write_text("def connect():\n    return 'found'\n")
    environment = {"paths": (str(tmp_path),)}
    with bench(1, setup="clients_of_the_environment:connect", environment=environment) as one:
        assert seen(one) == "found"


# --- where there is none ------------------------------------------------------------------------------------
@pytest.mark.parametrize("setup", ["", HERE + "prepare"])
def test_a_step_that_finds_none_is_told_where_there_is_one(setup: str) -> None:
    with bench(1, setup=setup) as one:
        assert one.result(steps.double, 1) == 2, "a step that does not ask needs none"
        failure = one.outcome(steps.what_was_prepared).failure
        assert failure is not None
        assert failure.type == "RuntimeError"
        assert (
            "Either the step's pool has no setup (PoolConfig(setup=...)), or the step does not run on a worker"
            in failure.message
        )
        assert STAGE.ran == [1], "only the pool has it run"


# --- what goes wrong ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("setup", ["break_down", "break_down_async", "break_down_entering"])
def test_a_setup_that_raises_says_so_whenever_the_worker_is_asked(setup: str) -> None:
    with bench(1, setup=HERE + setup) as one:
        for _ in range(2):
            with pytest.raises(ClusterError) as caught:
                one.worker.call("ready")
            said = str(caught.value)
            assert said.startswith(f"the setup {HERE}{setup} of pool 'default' failed: ")
            assert "failed: tests.runtime.worker.worker_steps.Broken: no key\nTraceback" in said
            assert "in break_down" in said
        assert STAGE.ran == ["broke down"]
        assert one.outcome(steps.what_was_prepared).failure is not None


def test_a_setup_that_exits_does_not_end_the_worker() -> None:
    with bench(1, setup=HERE + "leave_the_process") as one:
        with pytest.raises(ClusterError, match="failed: SystemExit: 3"):
            one.worker.call("ready")
        assert one.result(steps.double, 1) == 2


def test_a_setup_that_is_not_there_says_so() -> None:
    with (
        bench(1, setup="no_such_module:connect") as one,
        pytest.raises(ClusterError, match="IncompatibleVersion: cannot import module 'no_such_module'"),
    ):
        one.worker.call("ready")


@pytest.mark.parametrize("setup", ["cannot_be_left", "left_for_ever"])
def test_a_setup_that_cannot_be_left_is_logged(setup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(pool_setup.log, "exception", lambda words, *args: said.append(words % args))
    monkeypatch.setattr(pool_setup, "EXIT_TIMEOUT", 0.01)
    with bench(1, setup=HERE + setup) as one:
        one.worker.call("ready")
        assert one.worker.call("stop", group="control") is True
    assert said == [f"the setup {HERE}{setup} of pool 'default' failed to end"]


def test_a_worker_that_is_stopped_while_it_is_set_up_leaves_it_afterwards() -> None:
    with bench(1, setup=HERE + "opened_slowly") as one:
        ready = threading.Event()
        replies: list[Reply] = []

        def then(reply: Reply) -> None:
            replies.append(reply)
            ready.set()

        one.worker.send("ready", then=then)
        reach("setup")
        stopped(one)
        assert STAGE.ran == []
        STAGE.gate("setup").opened.set()
        assert ready.wait(PATIENCE)
        assert STAGE.ran == ["closed"]


def test_who_asks_meanwhile_waits_for_the_same_setup() -> None:
    with bench(1, setup=HERE + "opened_slowly") as one:
        both = threading.Barrier(3)

        def then(reply: Reply) -> None:
            both.wait(PATIENCE)

        for _ in range(2):
            one.worker.send("ready", then=then)
        reach("setup")
        STAGE.gate("setup").opened.set()
        both.wait(PATIENCE)
        assert one.result(steps.what_was_prepared) == "open"
