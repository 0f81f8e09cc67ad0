"""``TestEngine``: order of actions, waits, real steps, and closing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.testing import BEGINNING, TestEngine, WorkflowStuck
from rayflow.testing.actors import DeterministicActorSystem
from tests.fundamentals.tools import eventually

PATIENCE = 20.0
ONCE = rf.RetryPolicy(max_retries=0)

#: Holds steps until a test lets them go.
GATE, REACHED = threading.Event(), threading.Event()
ENGINES: list[TestEngine] = []


@pytest.fixture(autouse=True)
def gate() -> Iterator[None]:
    GATE.clear()
    REACHED.clear()
    yield
    GATE.set()


@rf.step(retry=ONCE)
def hold(answer: str) -> str:
    REACHED.set()
    assert GATE.wait(PATIENCE)
    return answer


@rf.step(retry=ONCE)
async def quick(answer: str) -> str:
    return answer


@rf.step(retry=ONCE)
def beat() -> str:
    print("beating")
    rf.step_context().heartbeat({"done": 1, "of": 2})
    assert GATE.wait(PATIENCE)
    return "beaten"


@rf.workflow
async def held() -> str:
    return await hold("through")


async def quick_one() -> str:
    return await quick("one")


@rf.workflow
async def beating() -> str:
    return await beat()


def test_a_read_waits_for_a_real_step_for_at_most_the_patience() -> None:
    with TestEngine(patience=0.05) as env:
        handle = env.start(held)
        assert [step.status for step in handle.status().steps] == ["running"]
        assert REACHED.is_set()
        assert env.now() == BEGINNING
        GATE.set()
        assert handle.result() == "through"
        assert env.now() == BEGINNING


def test_a_result_is_waited_for_until_its_timeout() -> None:
    with TestEngine() as env:
        handle = env.start(held)
        with pytest.raises(rf.ResultTimeout):
            handle.result(timeout=0.05)
        threading.Timer(0.05, GATE.set).start()
        assert handle.result() == "through"


def test_a_wait_that_is_cancelled_lets_the_clock_alone() -> None:
    @rf.workflow
    async def later() -> str:
        answer = await hold("through")
        await asyncio.sleep(3600)
        return answer

    async def impatient(env: TestEngine) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(env.start(later.options(id="later")), 0.05)

    with TestEngine() as env:
        asyncio.run(impatient(env))
        GATE.set()
        env.settle()
        assert env.now() == BEGINNING
        assert env.status("later").steps[0].status == "completed"


def test_the_clock_keeps_pace_with_a_step_that_takes_its_time() -> None:
    @rf.workflow
    async def race() -> list[str]:
        seen = []

        async def nap(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(f"{rf.now() - BEGINNING:.2f}")

        naps = [asyncio.create_task(nap(seconds)) for seconds in (0.05, 3600)]
        seen.append(await hold("through"))
        await asyncio.gather(*naps)
        return seen

    with TestEngine(patience=0.05) as env:
        began = time.monotonic()
        handle = env.start(race)
        threading.Timer(0.2, GATE.set).start()
        assert handle.result() == ["0.05", "through", "3600.00"]
        assert 0.2 <= time.monotonic() - began < PATIENCE


def test_a_real_step_that_hangs_times_out_in_real_time_or_when_the_clock_is_moved() -> None:
    @rf.workflow
    async def limited(timeout: float) -> str:
        return await hold.options(timeout=timeout)("through")

    with TestEngine(patience=0.05) as env:
        with pytest.raises(rf.ExecutionFailed, match=r"timeout of 0\.1 s"):
            env.execute(limited, 0.1)
        handle = env.start(limited, 300.0)
        env.advance(300)
        with pytest.raises(rf.ExecutionFailed, match="timeout of 300 s"):
            handle.result()


def test_a_step_that_is_given_up_holds_up_no_other() -> None:
    @rf.workflow
    async def moving_on() -> str:
        try:
            async with asyncio.timeout(0.05):
                await hold("never")
        except TimeoutError:
            return await quick("next")
        return "in time"

    with TestEngine(patience=0.05) as env:
        assert env.execute(moving_on) == "next"


def test_steps_run_in_their_order_or_at_once() -> None:
    meeting = threading.Barrier(2)

    @rf.workflow
    async def three() -> list[str]:
        return await asyncio.gather(*(quick(str(number)) for number in range(3)))

    @rf.workflow
    async def two() -> list[str]:
        return list(await asyncio.gather(hold("a"), hold("b")))

    def meet(answer: str) -> str:
        meeting.wait(PATIENCE)
        return answer

    with TestEngine() as env:
        env.execute(three)
        assert [call.args for call in env.calls()] == [("0",), ("1",), ("2",)]
    with TestEngine(steps_at_once=2) as env:
        env.script(hold, side_effect=meet)
        assert sorted(env.execute(two)) == ["a", "b"]


def test_a_step_may_use_the_engine_that_waits_for_it() -> None:
    def signals(answer: str) -> str:
        [env] = ENGINES
        assert env.status("talking").status == "running"
        env.signal("talking", "word", answer)
        backend_of(env).clock.sleep(0)
        return answer

    @rf.workflow
    async def talking() -> str:
        await hold("hello")
        return await rf.wait_for_signal("word", type=str)

    with TestEngine() as env:
        ENGINES[:] = [env]
        env.script(hold, side_effect=signals)
        assert env.execute(talking.options(id="talking")) == "hello"


def test_a_step_may_wait_for_another_execution() -> None:
    @rf.workflow
    async def inner() -> str:
        await asyncio.sleep(60)
        return await quick("inner")

    def starts(answer: str) -> str:
        [env] = ENGINES
        return f"{answer} of {env.execute(inner)}"

    with TestEngine() as env:
        ENGINES[:] = [env]
        env.script(hold, side_effect=starts)
        assert env.execute(held) == "through of inner"
        assert env.now() == BEGINNING + 60


def test_endless_work_of_other_executions_does_not_hide_a_stuck_one(monkeypatch: pytest.MonkeyPatch) -> None:
    @rf.workflow
    async def patient() -> None:
        await rf.wait_for_signal("go")

    monkeypatch.setattr("rayflow.testing.waits.MOST_SKIPS", 20)
    with TestEngine() as env:
        env.schedules.create("minutely", rf.workflow(quick_one), rf.Schedule(every=60))
        with pytest.raises(
            WorkflowStuck,
            match=r"waits for signal go, and nothing happened to it although time passed until 2020-01-01T00:",
        ):
            env.execute(patient)


def test_heartbeats_and_lines_of_real_steps_arrive() -> None:
    with TestEngine(patience=0.05) as env:
        handle = env.start(beating.options(id="beating"))

        def progress() -> object:
            env.advance(0.001)  # progress of steps is written when time passes, at the latest
            return handle.status().steps[0].progress

        eventually(lambda: progress() == {"done": 1, "of": 2}, "its progress is seen")
        eventually(lambda: env.output("beating").lines, "its line is seen")
        GATE.set()
        assert handle.result() == "beaten"


def test_pools_are_known_by_name_and_their_setup_is_run() -> None:
    @rf.step(pool="models", retry=ONCE)
    def prepared() -> str:
        return f"{rf.step_context().setup}"

    @rf.workflow
    async def flow() -> str:
        return await prepared()

    with TestEngine() as env:
        with pytest.raises(rf.ExecutionFailed, match=r"no worker pool is named 'models'; existing pools: default"):
            env.execute(flow)
        pool = env.pools.create(rf.PoolConfig(name="models", setup=lambda: "a model", queue_limit=1))
        assert env.execute(flow) == "a model"
        assert [status.name for status in env.pools.list()] == ["default", "models"]
        assert env.metrics().executions_completed == 1
        pool.scale(7)
        assert pool.status().config.workers == 7
        pool.delete()
        with pytest.raises(rf.PoolNotFound):
            env.pools.get("models")
        with pytest.raises(rf.InvalidArgument, match="cannot be deleted"):
            env.pools.get().delete()


def test_a_setup_or_a_key_that_fails_fails_the_step() -> None:
    def broken() -> None:
        raise OSError("no model here")

    def key(answer: str) -> str:
        raise KeyError(answer)

    @rf.workflow
    async def flow() -> str:
        return await quick.options(pool="models")("x")

    @rf.workflow
    async def keyed() -> str:
        return await quick.options(concurrency_limit=1, concurrency_key=key)("x")

    with TestEngine() as env:
        env.pools.create(rf.PoolConfig(name="models", setup=broken))
        with pytest.raises(rf.ExecutionFailed, match="no model here"):
            env.execute(flow)
        with pytest.raises(rf.ExecutionFailed, match="KeyError"):
            env.execute(keyed)


def test_time_passes_while_a_test_waits_for_a_lock() -> None:
    @rf.workflow
    async def keeper() -> None:
        async with rf.lock("desk"):
            await asyncio.sleep(10)

    with TestEngine() as env:
        env.start(keeper)
        env.settle()
        with env.lock("desk") as lease:
            assert 10 <= env.now() - BEGINNING < 11
            assert lease.token == 2


def test_a_lock_that_is_never_released_raises() -> None:
    @rf.workflow
    async def hoarder() -> None:
        async with rf.lock("desk"):
            await rf.wait_for_signal("never")

    with TestEngine(patience=0.05) as env:
        env.start(hoarder)
        env.settle()
        with (
            pytest.raises(WorkflowStuck, match=r"lock 'desk' cannot continue: its holder does not release it"),
            env.lock("desk"),
        ):
            pass


def test_closing_the_engine_ends_pending_waits() -> None:
    env = TestEngine()
    found: list[BaseException] = []

    def wait() -> None:
        try:
            env.execute(held)
        except rf.RayflowError as error:
            found.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert REACHED.wait(PATIENCE)
    env.close()
    waiting.join(PATIENCE)
    assert [str(error) for error in found] == ["the engine was closed during this wait"]
    with pytest.raises(rf.RayflowError, match="this engine is closed; open another one"):
        env.list()
    env.close()


def test_a_defect_is_raised_where_the_test_waits_and_from_then_on() -> None:
    class Broken:
        def __init__(self) -> None:
            self.dues = 0

        def work(self) -> bool:
            raise ZeroDivisionError("a defect")

        def next_due(self) -> float | None:
            return None

        def moved(self) -> None: ...

    stage = DeterministicActorSystem(0.0, 0.0)
    stage.ask(lambda: stage.add(Broken()))
    with pytest.raises(ZeroDivisionError):
        stage.ask(stage.settle)
    with pytest.raises(rf.ClusterError, match=r"failed because of a defect.*a defect"):
        stage.ask(stage.settle)
    stage.close()


def test_what_needs_a_cluster_or_makes_no_sense_is_refused() -> None:
    with pytest.raises(rf.RequiresCluster):
        TestEngine(address="ray://head")
    with pytest.raises(rf.InvalidArgument, match="steps_at_once"):
        TestEngine(steps_at_once=0)
    with TestEngine() as env, pytest.raises(rf.InvalidArgument, match="one of by= and to="):
        env.advance()
