"""Where pickles are not allowed none is written and none loaded; looking at a store runs no code of it in any case."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import pickle
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from rayflow.cli import main
from rayflow.client.engine import backend_of
from rayflow.errors import CodecError, IncompatibleVersion, InvalidArgument
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.operations import Deliver
from rayflow.storage.rules.starts import signal_row
from rayflow.storage.urls import open_store
from tests.faults.storage.flows import add, gated
from tests.faults.storage.waiting import wait_for


def local_class() -> Any:
    """A value of a class that no other process can import."""

    @dataclass
    class Local:
        number: int = 1

    return Local()


@rf.step
def answers_a_pickle() -> Any:
    """Its result can only be pickled."""
    return {"key": [local_class()]}


@rf.step
def takes(value: Any) -> str:
    """Takes anything."""
    return type(value).__name__


@rf.workflow
async def in_a_result() -> None:
    """A step's result."""
    await answers_a_pickle()


@rf.workflow
async def in_arguments() -> str:
    """A step's arguments."""
    return await takes([local_class()])


@rf.workflow
async def in_the_state() -> None:
    """Published state."""
    rf.state["mine"] = local_class()


@rf.workflow
async def in_its_own_result() -> Any:
    """The workflow's result."""
    return (1, local_class())


@rf.workflow
async def in_a_compensation() -> None:
    """What would be undone."""
    rf.compensate(takes, local_class())


@rf.workflow
async def in_a_childs_input() -> Any:
    """A child's input."""
    return await takes_anything(local_class())


@rf.workflow
async def in_a_sent_signal() -> None:
    """A signal to another."""
    await rf.send_signal("other", "go", local_class())


@rf.workflow
async def in_the_next_run(value: Any = None) -> None:
    """The input of the next run."""
    rf.continue_as_new(local_class())


@rf.workflow
async def takes_anything(value: Any = None) -> str:
    """A child."""
    return str(value)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flows.db"


@pytest.fixture
def strict(url: str) -> Iterator[rf.LocalEngine]:
    with rf.LocalEngine(
        url, allow_pickle=False, execution=rf.ExecutionOptions(retry=rf.RetryPolicy(max_retries=0))
    ) as engine:
        yield engine


def by_value() -> Any:
    """A workflow that no other process can import."""

    @rf.workflow
    async def local_flow() -> int:
        return 1

    return local_flow


def by_value_step() -> Any:
    @rf.step
    def local_step() -> int:
        return 1

    return local_step


@rf.workflow
async def with_a_step_by_value() -> int:
    """Can be imported; its step cannot."""
    number: int = await by_value_step()()
    return number


FLOWS: dict[str, tuple[Any, str]] = {
    "result": (in_a_result, '["key"][0]'),
    "arguments": (in_arguments, "[0][0]"),
    "state": (in_the_state, "the value"),
    "own result": (in_its_own_result, "[1]"),
    "compensation": (in_a_compensation, "[0][0]"),
    "child": (in_a_childs_input, "[0][0]"),
    "sent signal": (in_a_sent_signal, "the value"),
    "next run": (in_the_next_run, "[0][0]"),
    "step by value": (with_a_step_by_value, "local_step"),
}


@pytest.mark.parametrize("place", FLOWS)
def test_what_workflows_write_is_refused_with_its_place(place: str, strict: rf.LocalEngine) -> None:
    flow, where = FLOWS[place]
    with pytest.raises(rf.ExecutionFailed) as failed:
        strict.start(flow).result(30)
    assert "allow_pickle is off" in str(failed.value)
    assert where in str(failed.value)


def _calls(engine: rf.LocalEngine) -> dict[str, tuple[Callable[[], object], str]]:
    bad = local_class()
    return {
        "input": (lambda: engine.start(takes_anything, [bad]), "[0][0][0]"),
        "keyword": (lambda: engine.start(takes_anything, value={"a": bad}), '[1]["value"]["a"]'),
        "many": (lambda: engine.start_many([takes_anything.call(1), takes_anything.call(bad)]), "[0][0]"),
        "signal": (lambda: engine.signal("done", "go", [bad]), "[0]"),
        "schedule": (
            lambda: engine.schedules.create("s", takes_anything.call(bad), rf.Schedule(every=60)),
            "[0][0]",
        ),
        "workflow by value": (lambda: engine.start(by_value()), "local_flow"),
        "saved by value": (lambda: engine.register(by_value()), "local_flow"),
        "scheduled by value": (lambda: engine.schedules.create("s", by_value(), rf.Schedule(every=60)), "local_flow"),
        "setup": (lambda: engine.pools.create(rf.PoolConfig(name="p", workers=0, setup=lambda: None)), "lambda"),
        "fork": (lambda: engine.fork("done", before=1, args=(bad,)), "[0][0]"),
        "fork's state": (lambda: engine.fork("done", before=1, state={"k": bad}), "the value"),
    }


@pytest.mark.parametrize("call", _calls(None))  # type: ignore[arg-type]
def test_what_callers_write_is_refused_with_its_place(call: str, strict: rf.LocalEngine) -> None:
    strict.start(in_plain.options(id="done")).result(30)
    before = len(strict.list())
    ask, where = _calls(strict)[call]
    with pytest.raises((CodecError, InvalidArgument), match="allow_pickle is off") as refused:
        ask()
    assert where in str(refused.value)
    assert len(strict.list()) == before
    assert strict.schedules.list() == []


@rf.workflow
async def in_plain() -> int:
    """Nothing that would have to be pickled."""
    return await add(1, 2)


# --- a store with traps in it ---------------------------------------------------------------------------------
class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (_sprung, (str(self._file),))


def _sprung(file: str) -> str:
    Path(file).write_text("sprung")
    return "sprung"


def trap(file: Path) -> bytes:
    """A payload with a trap in it: ``([trap], {})``."""
    return MsgpackCodec().encode(([Trap(file)], {}))


@pytest.fixture
def trapped(tmp_path: Path) -> tuple[Path, Path]:
    """A store with a trap wherever a payload or code can be, and the file that none of them may make."""
    file, sprung = tmp_path / "flows.db", tmp_path / "sprung"
    url = f"sqlite:///{file}"
    with rf.LocalEngine(url, park_idle_after=0.05) as engine:
        engine.start(gated.options(id="waits"))
        wait_for(lambda: engine.status("waits").parked, "it waits")
        engine.start(takes_anything.options(id="done")).result(timeout=30)
        with contextlib.suppress(rf.ExecutionFailed):
            engine.start(in_failure.options(id="failed")).result(30)
        engine.start(by_value().options(id="by-value")).result(timeout=30)
        engine.schedules.create("soon", takes_anything, rf.Schedule(every=3600.0, start_at=time.time() + 3600))
        engine.pools.create(rf.PoolConfig(name="p", workers=0, setup=lambda: None))
    asyncio.run(_set(url, file, sprung))
    return file, sprung


@rf.workflow
async def in_failure() -> None:
    """Fails in a step."""
    await add("x", 1)  # type: ignore[arg-type]


async def _set(url: str, file: Path, sprung: Path) -> None:
    payload = trap(sprung)
    store = open_store(url)
    await store.open()
    await store.claim_writer("test", now=time.time(), fresh_for=0, take_over=True)
    await store.commit([Deliver("waits", signal_row("go", payload, "signal/1", time.time()))])
    [schedule] = await store.schedules()
    await store.close()
    plan, state, due = json.loads(schedule.spec), json.loads(schedule.state), time.time()
    plan["input"] = base64.b64encode(payload).decode()
    plan["schedule"]["start_at"] = state["next_due"] = due
    code = pickle.dumps(Trap(sprung))
    digest = hashlib.sha256(code).hexdigest()
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE starts SET input = ?", (payload,))
        db.execute("UPDATE executions SET result = ? WHERE result IS NOT NULL", (payload,))
        db.execute("UPDATE dead_letters SET input = ?", (payload,))
        changed = (json.dumps(plan).encode(), json.dumps(state).encode(), due)
        db.execute("UPDATE schedules SET spec = ?, state = ?, wake = ?", changed)
        db.execute("INSERT INTO step_notes VALUES ('waits', 1, 1, 1.0, 'progress', ?)", (payload,))
        for (old,) in db.execute("SELECT digest FROM blobs").fetchall():
            db.execute("UPDATE starts SET code = CAST(replace(code, ?, ?) AS BLOB)", (old, digest))
            db.execute("UPDATE definitions SET code = CAST(replace(code, ?, ?) AS BLOB)", (old, digest))
        db.execute("INSERT INTO blobs VALUES (?, ?)", (digest, code))


LOOKS = (
    ["list"], ["show", "waits", "--full"], ["show", "done", "--full"], ["show", "failed", "--full", "--tree"],
    ["show", "by-value"], ["tasks", "waits", "--local"], ["dlq", "list"], ["dlq", "show", "failed", "1"],
    ["schedule", "list"], ["schedule", "show", "soon"], ["lock", "list"], ["workflows"], ["list", "--json"],
)  # fmt: skip


def test_looking_at_a_store_runs_nothing_of_it(trapped: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    file, sprung = trapped
    loaded = set(sys.modules)
    for words in LOOKS:
        assert main([*words, "--store", f"sqlite:///{file}"]) == 0, words
    assert "<pickled" in capsys.readouterr().out
    assert not sprung.exists()
    assert set(sys.modules) == loaded


def test_nothing_of_it_runs_where_pickles_are_not_allowed(
    trapped: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    file, sprung = trapped
    with rf.LocalEngine(f"sqlite:///{file}", allow_pickle=False, park_idle_after=0.05) as engine:
        engine.start(in_plain.options(id="mine")).result(30)
        wait_for(lambda: engine.status("waits").status == "paused", "what needs a pickle is set aside")
        assert "allow_pickle is off" in str(engine.status("waits").error)
        wait_for(lambda: "schedule soon cannot start its executions" in caplog.text, "the schedule is due, and refused")
        for name in ("waits", "done", "failed", "by-value"):
            engine.status(name)
        for name in ("done", "by-value"):
            with pytest.raises(CodecError, match="allow_pickle is off"):
                engine.handle(name).result(timeout=5)
        with pytest.raises(IncompatibleVersion, match="allow_pickle is off"):
            _run_saved(engine)
        engine.dead_letters.list()
        engine.schedules.list()
        engine.workflows()
        assert [one.execution_id for one in engine.list(schedule="soon")] == []
    assert not sprung.exists()


def _run_saved(engine: rf.LocalEngine) -> None:
    handle = engine.start(rf.SavedWorkflow("local_flow").options(id="again"))
    wait_for(lambda: handle.status().status == "paused", "it cannot be loaded")
    error = handle.status().error
    assert error is not None
    raise IncompatibleVersion(error.message)


def test_only_reading_a_payload_itself_runs_it_where_that_is_allowed(trapped: tuple[Path, Path]) -> None:
    file, sprung = trapped
    with rf.LocalEngine(f"sqlite:///{file}", recover=False) as engine:
        engine.list()
        engine.workflows()
        backend_of(engine).record("done")
        assert not sprung.exists()
        engine.handle("done").result(timeout=5)
        assert sprung.exists()
