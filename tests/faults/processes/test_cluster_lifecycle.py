"""The local cluster outlives whoever started it, is started once, and is stopped alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rayflow.errors import ClusterError
from rayflow.runtime.cluster import connection, local, processes
from tests.runtime.cluster_fixtures import ROOT, own_environment

#: Joins a cluster, makes or finds an actor, says where, and stays until its input ends.
DRIVER = """
import json, sys
from rayflow.runtime.actors.ray_system import RaySystem
from rayflow.runtime.cluster import connection
from rayflow.runtime.actors.base import ActorSpec
from tests.runtime.actors.ray_actors import Echo
joined = connection.connect()
actor = RaySystem("test").spawn(ActorSpec(Echo, "echo"))
answer = {"address": joined.address, "source": joined.source, "actor": actor.call("pid", timeout=60)}
print(json.dumps(answer), flush=True)
sys.stdin.read()
"""

#: Looks like a part of a cluster, by name and command line, and is none.
DECOY = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def environ(folder: Path) -> Iterator[dict[str, str]]:
    environ = own_environment(folder)
    yield environ
    connection.down(environ=environ)


def start(command: list[str], environ: dict[str, str], stack: ExitStack) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def driver(environ: dict[str, str], stack: ExitStack) -> subprocess.Popen[str]:
    return start([sys.executable, "-W", "ignore", "-c", DRIVER], environ, stack)


@pytest.mark.cluster
def test_the_life_of_a_local_cluster(environ: dict[str, str]) -> None:
    with ExitStack() as stack:
        # Two find nothing at the same time.
        first, second = driver(environ, stack), driver(environ, stack)
        answers: list[dict[str, Any]] = [json.loads(line(first)), json.loads(line(second))]
        assert sorted(answer["source"] for answer in answers) == ["running", "started"]
        assert answers[0]["address"] == answers[1]["address"]
        assert answers[0]["actor"] == answers[1]["actor"]
        status = connection.status(environ=environ)
        assert status.running
        assert status.cluster is not None
        assert status.cluster.address == answers[0]["address"]
        assert Path(status.cluster.session_dir).is_dir()

        # Both die without a word; the cluster and the actor do not.
        for process in (first, second):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        third = json.loads(line(driver(environ, stack)))
        assert third == {**answers[0], "source": "running"}
        assert connection.up(environ=environ) == (status.cluster, False)

        # It is stopped to the last process, and what only looks like one of them is not touched.
        decoy = start(
            ["raylet", "-c", DECOY, f"--session_dir={status.cluster.session_dir}", f"--gcs-address={third['address']}"],
            {**environ, "PATH": str(_named(Path(environ["RAYFLOW_HOME"]), "raylet"))},
            stack,
        )
        assert line(decoy) == "up"
        assert third["actor"] in {p.pid for p in processes.carrying(status.cluster.mark)}
        stopped = connection.down(environ=environ)
        assert stopped.cluster == status.cluster
        # Not all that ran a moment ago: Ray itself ends processes that nobody uses.
        assert third["actor"] in {pid for pid, _ in stopped.ended}
        assert stopped.ended[0][1] == "gcs_server"
        assert processes.carrying(status.cluster.mark) == []
        assert decoy.poll() is None
    assert connection.status(environ=environ) == connection.Status(None, running=False, processes=0)
    assert not local.ray_address_file(environ).exists()
    assert connection.down(environ=environ) == connection.Stopped(None)


def _named(folder: Path, name: str) -> Path:
    """A folder in which this Python goes by another name."""
    place = folder / "bin"
    place.mkdir()
    (place / name).symlink_to(sys.executable)
    return place


def test_a_start_that_fails_says_why_and_is_not_written_down(environ: dict[str, str]) -> None:
    without_token = {**environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{environ['RAY_TMPDIR']}/none"}
    with pytest.raises(ClusterError, match="the local Ray cluster did not start") as caught:
        connection.up(environ=without_token)
    assert "RAY_AUTH_TOKEN_PATH" in str(caught.value)
    assert "local-cluster.log" in str(caught.value)
    assert connection.status(environ=environ) == connection.Status(None, running=False, processes=0)


# --- without a cluster ----------------------------------------------------------------------------------------
#: Starts a child that only descends, one that leaves the session, and says their pids.
FAMILY = """
import os, subprocess, sys
wait = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
clean = {k: v for k, v in os.environ.items() if k != "RAYFLOW_LOCAL_CLUSTER"}
children = [subprocess.Popen(wait, env=clean), subprocess.Popen(wait, env=clean, start_new_session=True)]
print(*(child.pid for child in children), flush=True)
sys.stdin.read()
"""


def test_a_clusters_processes_are_its_marked_ones_their_sessions_and_their_descendants() -> None:
    with ExitStack() as stack:
        parent = start([sys.executable, "-S", "-c", FAMILY], {**os.environ, processes.MARK: "mine"}, stack)
        other = start([sys.executable, "-S", "-c", FAMILY], {**os.environ, processes.MARK: "yours"}, stack)
        family = [parent.pid, *map(int, line(parent).split())]
        others = [other.pid, *map(int, line(other).split())]
        mine = processes.carrying("mine")
        assert [p.pid for p in mine] == family
        # What a program forks is called as it is, for a moment at least.
        assert [p.pid for p in processes.programs(mine, processes.name_of(mine[0]))] == [parent.pid]
        assert processes.end(processes.carrying("mine"), 10.0) == []
        assert processes.carrying("mine") == []
        assert [p.pid for p in processes.carrying("yours")] == others
        assert processes.kill(processes.carrying("yours"), 10.0) == []
        assert parent.wait() == -signal.SIGTERM
        assert other.wait() == -signal.SIGKILL


def test_what_a_cut_short_start_left_is_ended(environ: dict[str, str]) -> None:
    state = Path(environ["RAYFLOW_HOME"], "local-cluster.json")
    state.parent.mkdir()
    state.write_text(json.dumps({"mark": "half a cluster", "pids": [], "created": 0.0}))
    with ExitStack() as stack:
        stubborn = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\n"
        left = start(
            [sys.executable, "-S", "-c", stubborn + "sys.stdin.read()"],
            {**environ, processes.MARK: "half a cluster"},
            stack,
        )
        assert line(left) == "up"
        assert connection.status(environ=environ).running is False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local, "GRACE", 0.2)
            stopped = connection.down(environ=environ)
        assert stopped.killed == (left.pid,)
        assert left.wait() == -signal.SIGKILL
    assert not state.exists()


def test_a_state_file_that_is_none_is_named(environ: dict[str, str]) -> None:
    state = Path(environ["RAYFLOW_HOME"], "local-cluster.json")
    state.parent.mkdir()
    state.write_text("{}")
    for act in (connection.up, connection.down, connection.status):
        with pytest.raises(ClusterError, match=r"local-cluster\.json does not describe a local cluster"):
            act(environ=environ)
    state.unlink()


@pytest.mark.parametrize("address", ["nowhere", "http://127.0.0.1:8265", "127.0.0.1:ray", "ray://somewhere"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match="is not an address of a Ray cluster; allowed are host:port"):
        connection.check_reachable(address)


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ClusterError, match=f"no Ray cluster is reachable at {address}"):
        connection.check_reachable(address)


def test_a_ray_that_has_died_is_not_found(environ: dict[str, str]) -> None:
    file = local.ray_address_file(environ)
    file.parent.mkdir()
    file.write_text("192.0.2.1:6379")
    assert local.running_address(environ) == ""


def test_the_folder_is_the_users_unless_it_is_given() -> None:
    assert connection.home({"RAYFLOW_HOME": "/srv/flows"}) == Path("/srv/flows")
    assert connection.home({"HOME": "/srv/ada", "XDG_DATA_HOME": "/data"}).name == "rayflow"
