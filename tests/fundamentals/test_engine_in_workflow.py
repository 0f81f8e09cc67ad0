"""Workflow code cannot call the engine: each call is refused, and its message names the call that is right."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rayflow as rf
from rayflow.testing import TestEngine

ENGINES: list[rf.LocalEngine | TestEngine] = []
HANDLES: list[rf.ExecutionHandle[Any]] = []


@rf.workflow
async def child() -> str:
    return "fine"


CALLS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "execute": (lambda engine: engine.execute(child), "await rf.start_child"),
    "start": (lambda engine: engine.start(child), "await rf.start_child"),
    "start_many": (lambda engine: engine.start_many(child, [()]), "await rf.start_child"),
    "signal": (lambda engine: engine.signal("other", "go"), "await rf.send_signal"),
    "lock": (lambda engine: engine.lock("db").acquire(), "async with rf.lock"),
    "status": (lambda engine: engine.status("other"), "step"),
    "close": (lambda engine: engine.close(), "step"),
    "schedules": (lambda engine: engine.schedules.list(), "step"),
    "another engine": (lambda engine: type(engine)(), "step"),
}


@rf.workflow
async def calls(name: str) -> None:
    CALLS[name][0](ENGINES[0])


@rf.workflow
async def waits() -> Any:
    return HANDLES[0].result()


@rf.workflow
async def awaits() -> Any:
    return await HANDLES[0]


@rf.step
def start_child() -> Any:
    return ENGINES[0].start(child).result(30)


@rf.workflow
async def calls_in_a_step() -> Any:
    return await start_child()


@rf.workflow
async def tries_all() -> list[str]:
    engine = ENGINES[0]
    parts = (engine, HANDLES[0], engine.pools, engine.schedules, engine.locks, engine.dead_letters, engine.recovery)
    accepted = []
    for part in parts:
        for name, _ in inspect.getmembers(type(part), inspect.isfunction):
            if not name.startswith("_"):
                try:
                    getattr(part, name)()
                except rf.SideEffectError:
                    continue
                except Exception:  # noqa: BLE001 - the call was accepted, and failed for want of arguments
                    accepted.append(name)
                accepted.append(f"{type(part).__name__}.{name}")
    return accepted


@pytest.fixture(params=[rf.LocalEngine, TestEngine])
def engine(request: pytest.FixtureRequest) -> Iterator[rf.LocalEngine | TestEngine]:
    with request.param() as engine:
        ENGINES[:] = [engine]
        HANDLES[:] = [engine.start(child)]
        yield engine


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_the_engine_is_refused_and_the_right_call_is_named(engine: rf.LocalEngine, name: str) -> None:
    with pytest.raises(rf.ExecutionFailed, match=rf"inside a workflow.*{CALLS[name][1]}") as info:
        engine.start(calls, name).result(30)

    assert info.value.failure.matches(rf.SideEffectError)
    assert engine.start(child).result(30) == "fine"


@pytest.mark.parametrize("waiting", [waits, awaits])
def test_waiting_for_a_handle_is_refused_and_other_executions_continue(
    engine: rf.LocalEngine, waiting: rf.WorkflowFunction[[], Any]
) -> None:
    with pytest.raises(rf.ExecutionFailed, match=r"handle.*inside a workflow.*await rf\.start_child"):
        engine.start(waiting).result(30)

    assert engine.start(child).result(30) == "fine"


def test_every_public_method_of_an_engine_its_parts_and_handles_is_refused(engine: rf.LocalEngine) -> None:
    assert engine.start(tries_all).result(30) == []


def test_steps_may_call_the_engine(engine: rf.LocalEngine) -> None:
    assert engine.start(calls_in_a_step).result(30) == "fine"


def test_a_wait_whose_thread_cannot_start_fails_and_the_engine_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    with rf.LocalEngine() as engine:
        handle = engine.start(child)

        def exhausted(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", exhausted)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                handle.result()
        assert handle.result(timeout=30) == "fine"
