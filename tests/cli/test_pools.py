"""``rayflow pool``: creating, listing, scaling, draining and deleting pools, and wrong usage."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rayflow as rf
from rayflow.cli import exit_codes, pools
from rayflow.client.backend import Backend
from rayflow.client.local import LocalEngine
from rayflow.client.pools import Pools
from rayflow.definition.options import PoolConfig, RateLimit
from rayflow.runtime.actors.base import ActorSystem
from rayflow.storage.codec.payloads import MsgpackCodec
from tests.cli.project import Project

#: The steps of the pool "slow" begin, and end once they may.
_begun = threading.Event()
_may_end = threading.Event()


@rf.step(pool="slow")
def held() -> str:
    _begun.set()
    assert _may_end.wait(30)
    return "done"


@rf.workflow
async def holding() -> str:
    return await held()


@pytest.fixture
def engine(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    """An engine of this process in place of a cluster's, shared by all commands of a test."""
    with LocalEngine(project.store) as made:

        def open_engine(args: object, *, recover: bool) -> contextlib.AbstractContextManager[LocalEngine]:
            assert recover is False, "a command for pools resumes no execution"
            return contextlib.nullcontext(made)

        monkeypatch.setattr(pools, "open_engine", open_engine)
        yield made


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that opens an engine."""

    def refuse(args: object, *, recover: bool) -> None:
        raise AssertionError("wrong usage has to be found before a cluster is started")

    monkeypatch.setattr(pools, "open_engine", refuse)


@pytest.fixture
def busy(engine: LocalEngine) -> Iterator[Callable[[], None]]:
    """A pool "slow" with a step that runs until the returned function is called."""
    engine.pools.create(PoolConfig(name="slow", workers=1))
    _begun.clear()
    _may_end.clear()
    handle = engine.start(holding)
    assert _begun.wait(30)

    def end() -> None:
        _may_end.set()
        assert handle.result(30) == "done"

    yield end
    _may_end.set()


class KeptPools(Pools):
    """Pools that record removals instead of removing, so that the step of "slow" can end."""

    def __init__(self, system: ActorSystem) -> None:
        super().__init__(Backend(system), MsgpackCodec())
        self.removed: list[str] = []

    def remove(self, name: str) -> None:
        self.removed.append(name)


def sizes(project: Project) -> dict[str, Any]:
    listed = project("pool", "list", "--json").json
    return {
        each["name"]: [each["config"][name] for name in ("workers", "min_workers", "max_workers")] for each in listed
    }


def test_list_shows_each_pool_by_name(project: Project, engine: LocalEngine) -> None:
    engine.pools.create(PoolConfig(name="gpu", workers=0, max_workers=2, min_workers=0))
    listed = project("pool", "list")
    assert listed.code == exit_codes.COMPLETED
    lines = listed.out.splitlines()
    assert lines[0].split() == ["NAME", "WORKERS", "PER", "ENVIRONMENT", "BUSY", "SLOTS", "QUEUED"]
    assert [line.split()[0] for line in lines[1:]] == ["default", "gpu"]
    assert lines[2].split() == ["gpu", "0", "of", "0", "0-2", "0", "of", "0", "0"]


def test_list_as_json_has_the_whole_status(project: Project, engine: LocalEngine, busy: Callable[[], None]) -> None:
    found = next(pool for pool in project("pool", "list", "--json").json if pool["name"] == "slow")
    assert found.pop("config") == PoolConfig(name="slow", workers=1).model_dump()
    assert found == {
        "name": "slow", "queued": 0, "oldest_waiting": 0.0, "full": False, "wanted": 1, "workers": 1, "starting": 0,
        "leaving": 0, "busy": 1, "idle": 3, "problem": "",
    }  # fmt: skip


def test_create_makes_a_pool_with_all_its_options(project: Project, engine: LocalEngine) -> None:
    made = project(
        "pool", "create", "gpu", "--workers", "2", "--concurrency", "3", "--min-workers", "1", "--max-workers", "5",
        "--idle-timeout", "7.5", "--queue-limit", "100", "--rate", "50/1.5", "--num-cpus", "0.5", "--num-gpus", "0.25",
        "--memory", "1000000", "--resources", '{"tpu": 2}', "--runtime-env", '{"env_vars": {"A": "b"}}',
        "--setup", "json:dumps_nothing", "--max-tasks", "9", "--drain-timeout", "0",
    )  # fmt: skip
    assert (made.code, made.out, made.err) == (
        exit_codes.COMPLETED,
        "pool gpu has 1-5 workers in each code environment, with 3 slots each\n",
        "",
    )
    assert engine.pools.config("gpu") == PoolConfig(
        name="gpu", workers=2, concurrency=3, min_workers=1, max_workers=5, idle_timeout=7.5, queue_limit=100,
        rate_limit=RateLimit(count=50, per=1.5), num_cpus=0.5, num_gpus=0.25, memory=1_000_000, resources={"tpu": 2},
        runtime_env={"env_vars": {"A": "b"}}, setup="json:dumps_nothing", max_tasks_per_worker=9, drain_timeout=0,
    )  # fmt: skip


def test_omitted_options_have_the_defaults_of_the_api(project: Project, engine: LocalEngine) -> None:
    made = project("pool", "create", "plain", "--json")
    assert (made.code, made.json["config"]) == (exit_codes.COMPLETED, PoolConfig(name="plain").model_dump())


def test_create_of_an_existing_pool_changes_nothing_and_notes_another_size(
    project: Project, engine: LocalEngine
) -> None:
    project("pool", "create", "one", "--workers", "1")
    assert project("pool", "create", "one", "--workers", "1").err == ""
    again = project("pool", "create", "one", "--max-workers", "3")
    assert (again.code, again.out) == (
        exit_codes.COMPLETED,
        "pool one has 1 worker in each code environment, with 4 slots each\n",
    )
    assert again.err == (
        "pool one exists already with another size; to change the size: rayflow pool scale one --min 0 --max 3\n"
    )
    assert sizes(project)["one"] == [1, None, None]


def test_create_with_other_settings_is_wrong_usage_and_changes_nothing(project: Project, engine: LocalEngine) -> None:
    project("pool", "create", "one", "--concurrency", "1")
    again = project("pool", "create", "one", "--concurrency", "2")
    assert again.code == exit_codes.USAGE
    assert "a pool 'one' exists with other settings: concurrency=2 (existing: 1)" in again.err
    assert engine.pools.config("one").concurrency == 1


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "one", "--workers", "-1"], "argument --workers: needs at least 0, not -1"),
        (["create", "one", "--workers", "many"], "argument --workers: invalid number value: 'many'"),
        (["create", "one", "--concurrency", "0"], "argument --concurrency: needs at least 1, not 0"),
        (["create", "one", "--num-cpus", "nan"], "argument --num-cpus: needs at least 0, not nan"),
        (["create", "one", "--idle-timeout", "0"], "argument --idle-timeout: needs more than 0 seconds, not 0"),
        (["create", "one", "--rate", "50"], "argument --rate: needs starts and seconds, such as 50/1, not '50'"),
        (["create", "one", "--rate", "0/1"], "argument --rate: needs starts and seconds, such as 50/1, not '0/1'"),
        (["create", "one", "--resources", "{a}"], "such as '{\"a\": 1}'; '{a}' is not JSON: "),
        (["create", "one", "--resources", "[1]"], "argument --resources: needs a JSON object with names and values"),
        (["create", "one", "--resources", '{"a": "x"}'], "PoolConfig.resources.a: Input should be a valid number"),
        (["create", "one", "--setup", "connect"], "setup is 'connect', and as text it has to be 'module:function'"),
        (["create", "one", "--min-workers", "3", "--max-workers", "2"], "max_workers (2) must be at least min_workers"),
        (["create", "a b"], "PoolConfig.name: needs 1 to 63 letters, digits"),
        (["scale", "one"], "give either the number of workers"),
        (["scale", "one", "3", "--max", "4"], "give either the number of workers"),
        (["scale", "one", "--min", "3", "--max", "2"], "--max (2) must be at least --min (3)"),
        (["scale", "one", "-1"], "argument N: needs at least 0, not -1"),
        (["drain", "one", "--timeout", "0"], "argument --timeout: needs more than 0 seconds, not 0"),
    ],
)  # fmt: skip
def test_wrong_values_are_wrong_usage(project: Project, words: list[str], said: str) -> None:
    done = project("pool", *words)
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert said in done.err


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("words", [["list"], ["create", "a"], ["scale", "a", "1"], ["drain", "a"], ["delete", "a"]])
def test_pools_of_a_process_that_ends_are_refused(project: Project, words: list[str]) -> None:
    done = project("pool", *words, "--local")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err.startswith("rayflow: a pool belongs to a cluster, and with --local it would end with this command")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("words", [["scale", "none", "1"], ["drain", "none"], ["delete", "none"]])
def test_a_pool_that_is_not_there_is_wrong_usage(project: Project, words: list[str]) -> None:
    done = project("pool", *words)
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err.startswith("rayflow: no worker pool is named 'none'; existing pools: default. Create it with ")


@pytest.mark.usefixtures("engine")
def test_scale_changes_the_size(project: Project) -> None:
    project("pool", "create", "one")
    scaled = project("pool", "scale", "one", "6")
    assert (scaled.code, scaled.out) == (
        exit_codes.COMPLETED,
        "pool one is scaled to 6 workers in each code environment\n",
    )
    assert sizes(project)["one"] == [6, None, None]
    assert (
        project("pool", "scale", "one", "--min", "1", "--max", "2").out
        == "pool one is scaled to 1-2 workers in each code environment\n"
    )
    assert sizes(project)["one"] == [6, 1, 2]
    found = project("pool", "scale", "one", "0", "--json").json
    assert (found["name"], found["config"]["workers"], found["config"]["max_workers"]) == ("one", 0, None)


def test_drain_waits_for_the_tasks_until_its_timeout(
    project: Project, engine: LocalEngine, busy: Callable[[], None]
) -> None:
    stopped = project("pool", "drain", "slow", "--timeout", "0.01")
    assert stopped.code == exit_codes.STOPPED_WAITING
    assert "rayflow: stopped waiting; pool 'slow' still has 1 worker, stopping after their tasks" in stopped.err
    assert stopped.out.splitlines()[1].split() == ["slow", "1", "of", "0", "(1", "leaving)", "0", "1", "of", "1", "0"]
    busy()
    drained = project("pool", "drain", "slow")
    assert (drained.code, drained.out) == (exit_codes.COMPLETED, "pool slow has no workers\n")
    assert drained.err == "to start workers: rayflow pool scale slow N\n"
    assert engine.pools.get("slow").status().workers == 0


def test_delete_takes_a_pool_that_is_in_use_only_by_force(
    project: Project, engine: LocalEngine, busy: Callable[[], None]
) -> None:
    engine.pools = kept = KeptPools(engine._threads)
    refused = project("pool", "delete", "slow")
    assert (refused.code, refused.out) == (exit_codes.USAGE, "")
    assert "pool 'slow' is in use: 0 tasks wait and 1 slots are busy" in refused.err
    assert kept.removed == []
    deleted = project("pool", "delete", "slow", "--force", "--json")
    assert (deleted.code, deleted.json) == (exit_codes.COMPLETED, {"name": "slow", "deleted": True})
    assert kept.removed == ["slow"]
    project("pool", "create", "unused", "--workers", "1")
    assert project("pool", "delete", "unused").out == "pool unused is deleted\n"
    assert kept.removed == ["slow", "unused"]


@pytest.mark.usefixtures("engine")
def test_the_default_pool_stays(project: Project) -> None:
    done = project("pool", "delete", "default")
    assert done.code == exit_codes.USAGE
    assert "the default pool 'default' cannot be deleted; scale it to 0 instead" in done.err
