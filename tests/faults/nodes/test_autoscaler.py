"""A pool grows and shrinks together with the nodes that Ray's autoscaler adds for it and takes away again.

The cluster is a head that lacks what the pool's workers need, Ray's own autoscaler, and Ray's provider whose nodes
are processes of this machine. ``ray.cluster_utils.AutoscalingCluster`` would make the same, but it stops every Ray on
the machine first, whoever's it is, and reads a file that Ray's wheels lack.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from rayflow.runtime.actors import ray_system
from rayflow.runtime.cluster import local, processes
from tests.faults.processes.tools import ledger_lines
from tests.runtime.cluster_fixtures import ROOT, own_environment

pytestmark = [pytest.mark.system, pytest.mark.cluster, pytest.mark.timeout(300)]

#: Nodes that the autoscaler may add. Each has room for one worker of the pool, and the head for none.
NODES = 2

#: Seconds without work after which the autoscaler takes a node away: fewer than a worker of the pool may be idle.
NODE_IDLE, WORKER_IDLE = 2.0, 6.0

POOL = rf.PoolConfig(max_workers=NODES, concurrency=1, idle_timeout=WORKER_IDLE, resources={"accelerator": 1})

#: By this id Ray's provider knows the head.
HEAD = f"{0:05}".rjust(56, "f")

DRIVER = "import sys; from tests.faults.nodes.test_autoscaler import drive; drive(*sys.argv[1:])"


# --- in the driver, a process of its own --------------------------------------------------------------------------
@rf.step
def meets(ledger: str, number: int) -> int:
    """Goes on once so many have begun as there are workers."""
    with Path(ledger).open("a") as file:
        file.write(f"{number} {os.getpid()}\n")
    while len(ledger_lines(Path(ledger))) < NODES:
        time.sleep(0.05)
    return number


@rf.workflow
async def meeting(ledger: str, count: int) -> int:
    """So many that meet; answers the sum of their numbers."""
    return sum(await asyncio.gather(*(meets(ledger, number) for number in range(count))))


def drive(address: str, store: str, ledger: str) -> None:
    """Give the pool work, and print what there is at every change, until all is as it was before."""
    ours = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # there Ray prints what it has to say, from another thread
    # No standby: Ray would place one that starts late on an added node, which stays as long as it has an actor.
    with rf.DistributedEngine(address=address, store=store, pool=POOL, standby_coordinators=0) as engine:
        pool, told = engine.pools.get(), _look(engine, None)
        print(json.dumps(told), file=ours, flush=True)
        handle = engine.start(meeting, ledger, 6)
        while told["result"] is None or told["workers"] or told["nodes"] > 1:
            seen = _look(engine, handle)
            if seen != told:
                print(json.dumps(seen), file=ours, flush=True)
            told = seen
            time.sleep(0.05)
        assert not pool.status().problem
        engine.shutdown()


def _look(engine: rf.DistributedEngine, handle: rf.ExecutionHandle[int] | None) -> dict[str, Any]:
    pool = engine.pools.get().status()
    result = handle.result() if handle is not None and handle.done() else None
    workers = {"workers": pool.workers, "starting": pool.starting, "problem": pool.problem}
    return {"nodes": len(engine._system.nodes()), **workers, "result": result}


# --- the cluster ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Autoscaled:
    """A cluster with an autoscaler. This process is not in it."""

    address: str
    mark: str
    environ: dict[str, str]

    def autoscaler(self) -> int:
        """The pid of its autoscaler."""
        found = {p.pid: processes.command_of(p) for p in processes.carrying(self.mark)}
        [pid] = [pid for pid, words in found.items() if any(_is_autoscaler(word) for word in words)]
        return int(pid)


def _is_autoscaler(word: str) -> bool:
    return "/autoscaler/" in word and word.endswith("/monitor.py")


@pytest.fixture(params=["v1", "v2"])
def autoscaled(request: pytest.FixtureRequest) -> Iterator[Autoscaled]:
    """A cluster whose head has 2 CPUs and no accelerator. `ray start` takes autoscaler v1 by itself, `ray up` v2."""
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    # Its nodes have to be told where the head is before it is there.
    port, mark = local._free_port(0), uuid.uuid4().hex
    address = f"{ray_system.api.util.get_node_ip_address()}:{port}"
    try:
        environ = _environment(folder, mark, v2=request.param == "v2")
        configuration = folder / "autoscaler.json"
        configuration.write_text(json.dumps(_configuration(address)))
        command = [*local._command(2, dashboard=False), f"--port={port}"]
        command += [f"--autoscaling-config={configuration}", "--object-store-memory=100000000"]
        subprocess.run(
            command, env=environ, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True, timeout=120, check=True
        )
        yield Autoscaled(address, mark, environ)
    finally:
        # All at once, or the autoscaler would replace its nodes.
        while left := processes.carrying(mark):
            processes.kill(left, 10)
        shutil.rmtree(folder)


def _environment(folder: Path, mark: str, *, v2: bool) -> dict[str, str]:
    token = folder / "token"  # where Ray would otherwise take the user's own
    token.write_text(uuid.uuid4().hex)
    authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    autoscaler = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": str(int(v2)),
    }
    head = {"RAY_CLOUD_INSTANCE_ID": HEAD}
    return {**own_environment(folder), **authentication, **autoscaler, **head, processes.MARK: mark}


def _configuration(address: str) -> dict[str, Any]:
    node = {"CPU": 1, "accelerator": 1, "object_store_memory": 100_000_000}
    provider = {
        "type": "external",  # under its own name Ray looks for the file that its wheels lack
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "head_node_id": HEAD,
        "launch_multiple": True,
        "use_node_id_as_ip": True,
        "foreground_node_launch": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "autoscaled",
        "provider": provider,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            "accelerated": {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": NODES},
        },
        "max_workers": NODES,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": NODE_IDLE / 60,
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{f"{name}_commands": [] for name in lists},
        "file_mounts_sync_continuously": False,
    }


# --- the test -------------------------------------------------------------------------------------------------------
def watched(cluster: Autoscaled, store: str, ledger: Path) -> list[dict[str, Any]]:
    """All that a driver sees, with an autoscaler that acts once the pool has said what its workers lack."""
    seen = []
    autoscaler = cluster.autoscaler()
    os.kill(autoscaler, signal.SIGSTOP)
    with ExitStack() as stack:
        command = [sys.executable, "-W", "ignore", "-c", DRIVER, cluster.address, store, str(ledger)]
        driver = subprocess.Popen(command, cwd=ROOT, env=cluster.environ, stdout=subprocess.PIPE, text=True)
        stack.enter_context(driver)
        stack.callback(driver.kill)
        assert driver.stdout is not None
        for line in driver.stdout:
            seen.append(json.loads(line))
            if seen[-1]["problem"]:
                os.kill(autoscaler, signal.SIGCONT)
        assert driver.wait() == 0, seen
    return seen


def test_nodes_are_added_for_a_pool_and_taken_away_when_it_has_shrunk(autoscaled: Autoscaled, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    seen = watched(autoscaled, f"sqlite:///{tmp_path}/flows.db", ledger)

    def after(begin: int, what: str, condition: Callable[[dict[str, Any]], object]) -> int:
        found = [index for index in range(begin + 1, len(seen)) if condition(seen[index])]
        assert found, f"never, or not in this order: {what}: {seen}"
        return found[0]

    assert seen[0] == {"nodes": 1, "workers": 0, "starting": 0, "problem": "", "result": None}
    asked = after(0, "it starts workers", lambda now: now["starting"] == NODES)
    told = after(asked, "it says what they lack", lambda now: "1 accelerator, and no node has any" in now["problem"])
    assert {(now["nodes"], now["workers"]) for now in seen[: told + 1]} == {(1, 0)}
    added = after(told, "a node is there", lambda now: now["nodes"] > 1 and not now["workers"])
    grown = after(added, "all workers are up", lambda now: now["workers"] == NODES)
    done = after(grown, "the work is done", lambda now: now["result"] == sum(range(6)))
    shrunk = after(done, "no worker is left", lambda now: not now["workers"] + now["starting"])
    # A node is not taken away under a worker, also not under one that has been idle for longer than a node may be.
    assert {now["nodes"] for now in seen[grown:shrunk]} == {1 + NODES}
    after(shrunk, "the nodes are gone", lambda now: now["nodes"] == 1)
    lines = ledger_lines(ledger)
    assert sorted(int(number) for number, _ in lines) == list(range(6))
    assert len({pid for _, pid in lines}) == NODES
