"""Runtime environments of jobs: each execution has that of the job that started it, and no secret is written down."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rayflow.runtime.cluster import connection
from tests.runtime.cluster_fixtures import RayCluster, own_environment

FLOWS = """
import os, sys
import rayflow as rf

def seen():
    # The results are in the store, so they do not have the value itself.
    try:
        from tenant import NAME
    except ImportError:
        NAME = "none"
    return os.environ.get("API_KEY", NAME).removesuffix("-" + "secret-9f86d0")

@rf.step
def on_worker():
    return seen()

@rf.step(local=True)
def here():
    return seen()

@rf.step(num_cpus=0.1)
def as_task():
    return seen()

@rf.workflow
async def keys():
    return [await on_worker(), await here(), await as_task()]

@rf.workflow
async def waiting():
    await rf.wait_for_signal("go")
    return await keys.fn()
"""

JOB = """
import json, logging, sys
import ray
import rayflow as rf
import flows

address, runtime_env, store, action, *rest = sys.argv[1:]
ray.init(address, runtime_env=json.loads(runtime_env), log_to_driver=False, logging_level=logging.ERROR)
with rf.DistributedEngine(store=store, pool=rf.PoolConfig(workers=1), park_idle_after=0.2) as engine:
    match action:
        case "run":
            print("said", *engine.start(flows.keys).result(timeout=90))
        case "by id":
            print("said", *engine.start(rf.SavedWorkflow("keys")).result(timeout=90))
        case "start":
            engine.start(flows.waiting.options(id=rest[0]))
        case "signal":
            engine.signal(rest[0], "go")
        case "result":
            print("said", *engine.handle(rest[0]).result(timeout=90))
        case "recovery":
            import time
            for _ in range(300):
                if needed := engine.recovery.status().needs_environment:
                    break
                time.sleep(0.1)
            print("said", *needed.values())
        case "supply":
            pass
        case "shutdown":
            engine.shutdown()
"""


class Jobs:
    """Drivers with runtime environments of their own, on one cluster and one store."""

    def __init__(self, folder: Path, environ: dict[str, str], address: str) -> None:
        self.folder = folder
        self.environ = environ
        self.address = address
        self.store = f"sqlite:///{folder}/store/flows.db"
        folder.mkdir()
        (folder / "flows.py").write_text(FLOWS)
        (folder / "job.py").write_text(JOB)
        (folder / "store").mkdir()

    def run(self, runtime_env: str, action: str, *rest: str) -> list[str]:
        """Run a job; returns what it printed, and keeps that."""
        done = subprocess.run(
            [sys.executable, "job.py", self.address, runtime_env, self.store, action, *rest],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False, timeout=150,
        )  # fmt: skip
        with (self.folder / "store" / "output.txt").open("a") as output:
            output.write(done.stdout + done.stderr)
        assert done.returncode == 0, done.stderr
        return [word for line in done.stdout.splitlines() if line.startswith("said") for word in line.split()[1:]]


def variable(value: str) -> str:
    """Return a runtime environment with one variable."""
    return f'{{"env_vars": {{"API_KEY": "{value}-secret-9f86d0"}}}}'


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_each_job_has_its_own_variables(ray_cluster: RayCluster, tmp_path: Path) -> None:
    environ = {**os.environ, **ray_cluster.environ, "RAY_AUTH_MODE": "token"}
    jobs = Jobs(tmp_path / "jobs", environ, ray_cluster.address)
    try:
        assert jobs.run(variable("first"), "run") == ["first"] * 3
        assert jobs.run(variable("second"), "run") == ["second"] * 3
        assert jobs.run("{}", "run") == ["none"] * 3
        assert jobs.run(variable("first"), "by id") == ["first"] * 3
        jobs.run(variable("first"), "start", "one")
        jobs.run(variable("second"), "signal", "one")
        assert jobs.run("{}", "result", "one") == ["first"] * 3
    finally:
        jobs.run("{}", "shutdown")
    assert leaks(jobs, ray_cluster.environ["RAY_TMPDIR"]) == []


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_each_job_has_its_own_modules(ray_cluster: RayCluster, tmp_path: Path) -> None:
    environ = {**os.environ, **ray_cluster.environ, "RAY_AUTH_MODE": "token"}
    jobs = Jobs(tmp_path / "jobs", environ, ray_cluster.address)
    try:
        for version in ("1", "2"):
            module = tmp_path / version / "tenant"
            module.mkdir(parents=True)
            (module / "__init__.py").write_text(f'NAME = "tenant-{version}"\n')
            assert jobs.run(f'{{"py_modules": ["{module}"]}}', "run") == [f"tenant-{version}"] * 3
        assert jobs.run("{}", "run") == ["none"] * 3
    finally:
        jobs.run("{}", "shutdown")


@pytest.mark.cluster
@pytest.mark.system
@pytest.mark.timeout(400)
def test_after_the_loss_of_the_cluster_variables_are_waited_for(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="rf-") as folder:
        environ = {**own_environment(Path(folder)), "RAY_AUTH_MODE": "token"}
        local, _ = connection.up(num_cpus=4, dashboard=False, environ=environ)
        jobs = Jobs(tmp_path / "jobs", environ, local.address)
        try:
            jobs.run(variable("first"), "start", "one")
            connection.down(environ=environ)
            local, _ = connection.up(num_cpus=4, dashboard=False, environ=environ)
            jobs.address = local.address
            jobs.run("{}", "signal", "one")
            said = " ".join(jobs.run(variable("other"), "recovery"))
            assert "(variables API_KEY)" in said
            jobs.run(variable("first"), "supply")
            assert jobs.run("{}", "result", "one") == ["first"] * 3
        finally:
            connection.down(environ=environ)
        assert leaks(jobs, folder) == []


def leaks(jobs: Jobs, cluster: str) -> list[str]:
    """Return the files of the store, of the jobs' output and of the cluster's logs that have a value."""
    # What a job asks Ray for itself is in the log of Ray's own agent.
    files = [*(jobs.folder / "store").rglob("*"), *Path(cluster).rglob("*")]
    return [
        str(file)
        for file in files
        if file.is_file() and file.name != "runtime_env_agent.log" and b"secret-9f86d0" in file.read_bytes()
    ]
