"""How long what is over is kept: said for one start, by its workflow, or for all."""

from __future__ import annotations

import asyncio

import pytest

import rayflow as rf
from rayflow.testing import TestEngine

HOUR = 3600.0


@rf.workflow
async def plain(number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    return number


@rf.workflow(retention=rf.Retention(completed=2 * HOUR))
async def own(number: int) -> int:
    return await plain(number)


declared = rf.Workflow("kept-declared", retention=rf.Retention(completed=3 * HOUR))


@rf.workflow
async def long(seconds: float) -> int:
    first = await plain(1)
    await asyncio.sleep(seconds)
    return first


def left(env: TestEngine, after: float) -> set[str]:
    env.advance(after)
    return {found.execution_id for found in env.list()}


def test_the_start_says_it_before_the_workflow_and_that_before_the_configuration() -> None:
    with TestEngine(retention=rf.Retention(completed=HOUR, failed=4 * HOUR)) as env:
        env.execute(plain.options(id="by-config"), 1)
        env.execute(own.options(id="by-workflow"), 1)
        env.execute(declared.options(id="by-declared"))
        env.execute(own.options(id="by-start", retention=rf.Retention()), 1)
        with pytest.raises(rf.ExecutionFailed):
            env.execute(plain.options(id="failed"), -1)
        everything = {"by-config", "by-workflow", "by-workflow.1", "by-declared", "by-start", "by-start.1", "failed"}
        assert left(env, HOUR - 60) == everything
        # The child of one goes by the configuration; that of the other takes over what was said at the start.
        assert left(env, 120) == everything - {"by-config", "by-workflow.1"}
        assert left(env, HOUR) == {"by-declared", "by-start", "by-start.1", "failed"}
        assert left(env, HOUR) == {"by-start", "by-start.1", "failed"}
        assert left(env, HOUR) == {"by-start", "by-start.1"}
        assert env.metrics().executions_completed == 6


def test_nothing_that_goes_on_is_deleted_nor_what_it_waits_for() -> None:
    with TestEngine(auto_skip=False, retention=rf.Retention(completed=60.0)) as env:
        handle = env.start(long.options(id="long"), 10 * HOUR)
        assert left(env, 9 * HOUR) == {"long", "long.1"}
        env.advance(HOUR + 1)
        assert handle.result() == 1
        assert left(env, 61.0) == set()


def test_what_failed_is_kept_anew_once_it_is_resumed() -> None:
    with TestEngine(retention=rf.Retention(failed=HOUR)) as env:
        with pytest.raises(rf.ExecutionFailed):
            env.execute(plain.options(id="failed"), -1)
        assert left(env, HOUR - 10) == {"failed"}
        env.resume("failed")
        with pytest.raises(rf.ExecutionFailed):
            env.handle("failed").result()
        assert left(env, HOUR - 10) == {"failed"}
        assert left(env, 20) == set()


def test_it_is_a_setting_like_any_other() -> None:
    loaded = rf.EngineConfig.load(environ={"RAYFLOW_RETENTION": '{"completed": 3600}'})
    assert loaded.retention == rf.Retention(completed=HOUR)
    with pytest.raises(rf.InvalidArgument, match=r"RAYFLOW_RETENTION: Retention.completed: .*greater than 0"):
        rf.EngineConfig.load(environ={"RAYFLOW_RETENTION": '{"completed": 0}'})
    with pytest.raises(
        rf.InvalidArgument, match="Retention has no option 'done'; it has: cancelled, completed, failed"
    ):
        rf.Retention(done=1)  # type: ignore[call-arg]
