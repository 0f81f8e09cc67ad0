"""Large values: they go from step to step by reference, and are the values themselves to whoever uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names
from rayflow.runtime.supervisor import maintenance
from rayflow.storage.codec.large_values import is_large
from rayflow.testing import TestEngine
from tests.fundamentals.large import SIZE, Reads, bump, make, reads, total
from tests.fundamentals.tools import eventually

__all__ = ["reads"]


@rf.step(local=True)
def first(array: np.ndarray[Any, Any]) -> float:
    assert type(array) is np.ndarray
    return float(array[0])


@rf.workflow
async def handed_on(given: Any) -> dict[str, Any]:
    array = await make(SIZE)
    for _ in range(3):
        array = await bump(array)
    rf.state["array"] = array
    return {"array": array, "sum": await total({"array": array}), "first": await first(array), "given": given}


def expected() -> np.ndarray[Any, Any]:
    return np.arange(float(SIZE)) + 3


# --- by reference -----------------------------------------------------------------------------------------
@pytest.fixture(params=["local", "plain", "paranoid"])
def any_engine(request: pytest.FixtureRequest, reads: Reads) -> Iterator[rf.LocalEngine | TestEngine]:
    if request.param == "local":
        with rf.LocalEngine() as engine:
            yield engine
    else:
        with TestEngine(paranoid=request.param == "paranoid") as env:
            yield env


def test_steps_get_values_and_the_workflow_reads_none(any_engine: Any, reads: Reads) -> None:
    handle = any_engine.start(handed_on, np.ones(SIZE))
    result = handle.result(timeout=30)
    in_between = len(reads.digests)
    assert type(result["array"]) is np.ndarray
    assert np.array_equal(result["array"], expected())
    assert result["sum"] == expected().sum()
    assert result["first"] == 3.0
    assert type(result["given"]) is np.ndarray
    assert result["given"].sum() == SIZE
    # In one process steps without handles read from the store; nobody else does, until the result is asked for.
    assert in_between <= 5 + 2
    assert reads.puts == 5, "four results and an input, each once"


def test_what_is_looked_at_is_read_when_it_is_used(engine: rf.LocalEngine, reads: Reads) -> None:
    handle = engine.start(handed_on, 1)
    handle.result(timeout=30)
    before = len(reads.digests)
    snapshot = handle.status()
    assert snapshot.steps[0].result is not None
    assert repr(snapshot.steps[0].result).startswith("<ndarray, 800.")
    assert "ndarray, 800." in str(snapshot.result)
    assert len(reads.digests) == before
    assert snapshot.steps[1].result[0] == 1.0
    assert np.array_equal(snapshot.state["array"], expected())
    assert len(reads.digests) == before + 2


def test_small_values_are_what_they_always_were(reads: Reads) -> None:
    with rf.LocalEngine(large_value_bytes=1 << 30) as engine:
        assert np.array_equal(engine.start(handed_on, 1).result(30)["array"], expected())
    assert not reads.digests
    assert not reads.puts


@rf.workflow
async def looks(size: int) -> Any:
    array = await make(size)
    seen = isinstance(array, np.ndarray), float(array[1]), repr(array)[:9], type(array).__name__
    array[0] = 7.0  # changed in place: from here on it is another value
    return seen, await first(array)


def test_code_may_use_a_value_and_change_it(any_engine: Any) -> None:
    assert any_engine.start(looks, SIZE).result(30) == ((True, 1.0, "<ndarray,", "LazyValue"), 7.0)


@rf.step
async def say(text: str) -> str:
    return text


@rf.workflow
async def parts(names: list[str]) -> str:
    texts = await asyncio.gather(*(say(name * 300_000) for name in names))
    return "".join(rf.materialize(text)[:2] for text in texts) + texts[0][:1] + f"{texts[1]:.3}"


def test_text_and_many_at_once(any_engine: Any) -> None:
    assert any_engine.start(parts, ["a", "b", "c"]).result(30) == "aabbccabbb"


@rf.workflow
async def child(array: Any) -> Any:
    return {"mine": await bump(array), "given": array}


@rf.workflow
async def parent() -> Any:
    array = await make(SIZE)
    answer = await child(array)
    verdict = await rf.wait_for_signal("go")
    return answer["mine"], answer["given"], verdict


def test_children_and_signals(engine: rf.LocalEngine, reads: Reads) -> None:
    handle = engine.start(parent)
    eventually(lambda: handle.status().waiting_for, "it waits")
    engine.signal(handle.id, "go", {"sent": np.zeros(SIZE)})
    mine, given, verdict = handle.result(timeout=30)
    assert np.array_equal(mine, given + 1)
    assert verdict["sent"].sum() == 0
    assert reads.puts == 3


@rf.workflow
async def endless(array: Any, left: int) -> Any:
    array = await bump(array)
    if left:
        rf.continue_as_new(array, left - 1)
    return array


def test_continue_as_new(engine: rf.LocalEngine) -> None:
    assert np.array_equal(engine.start(endless, np.zeros(SIZE), 3).result(30), np.full(SIZE, 4.0))


@rf.workflow
async def forked() -> Any:
    array = await bump(await make(SIZE))
    await say("stop")
    return array


def test_a_fork_has_the_values_of_the_other_one(engine: rf.LocalEngine) -> None:
    handle = engine.start(forked)
    handle.result(timeout=30)
    fork = engine.fork(handle.id, before="say")
    assert np.array_equal(fork.result(timeout=30), np.arange(float(SIZE)) + 1)


def test_the_same_start_is_the_same_execution(engine: rf.LocalEngine) -> None:
    text = {"b": "x" * 300_000, "a": 1}
    engine.start(echo.options(id="once"), text).result(30)
    again = engine.start(echo.options(id="once"), {"a": 1, "b": "x" * 300_000})
    assert again.result(timeout=30) == text
    with pytest.raises(rf.ExecutionAlreadyExists):
        engine.start(echo.options(id="once"), {"a": 2, "b": "x" * 300_000})


@rf.workflow
async def echo(value: Any) -> Any:
    return value


def test_a_value_of_one_execution_may_be_given_to_another(engine: rf.LocalEngine) -> None:
    handle = engine.start(forked)
    handle.result(timeout=30)
    seen = handle.status().result
    assert is_large(seen)
    assert np.array_equal(engine.start(echo, seen).result(30), seen)


class Writer:
    def __init__(self, name: str) -> None:
        self.id = name

    async def run(self, text: str) -> str:
        assert type(text) is str
        return text + "x" * 300_000


def test_agents_hand_large_texts_on(engine: rf.LocalEngine, reads: Reads) -> None:
    flow = (
        rf.Workflow("large-agents", name="LazyValue")
        .add_step(rf.SequentialStep("one", agent=Writer("first"), input=lambda s: s["input"], output_key="one"))
        .add_step(rf.SequentialStep("two", agent=Writer("second"), input=lambda s: s["one"], output_key="two"))
    )
    handle = engine.start(flow, {"input": "go"})
    state = handle.result(timeout=30)
    assert state["two"] == "go" + "x" * 600_000
    assert reads.puts == 2


def test_what_nothing_refers_to_is_collected_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "VALUE_INTERVAL", 0.01)
    monkeypatch.setattr(maintenance, "GRACE", 0.1)
    with rf.LocalEngine() as engine:
        handle = engine.start(forked)
        handle.result(timeout=30)
        store = backend_of(engine).system.find(actor_names.STORE)
        store.call("put_value", "nobody's", b"data")
        eventually(lambda: store.call("value", "nobody's") is None, "it is collected")
        assert np.array_equal(handle.result(timeout=30), np.arange(float(SIZE)) + 1)
