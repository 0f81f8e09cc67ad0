"""Local Ray cluster: started when no cluster runs, and stopped by ``rayflow down``.

The cluster outlives the process that started it, because a driver that owns its Ray takes every detached actor down
with it. ``local-cluster.json`` in rayflow's folder (``RAYFLOW_HOME``, or ``rayflow`` in the user's data folder)
describes the cluster. A lock file there ensures that two processes that start a cluster at the same time get one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rayflow.errors import ClusterError
from rayflow.runtime.cluster import processes
from rayflow.runtime.cluster.processes import Process
from rayflow.storage.urls import user_data_dir

#: Seconds that the start may take.
START = 120.0
#: Seconds for each kind of process to end after SIGTERM, and again after SIGKILL.
GRACE = 5.0

#: The processes that are ended first and last.
_ENDS = ("raylet", "gcs_server")
#: On a single machine, a late health check means that the machine is busy or was asleep, and failover has no target.
_PATIENT = {"RAY_health_check_timeout_ms": "30000", "RAY_health_check_failure_threshold": "20"}
#: Ray's message when its raylet did not start within 30 s, as happens on a busy machine.
_TOO_SLOW = "timed out during startup"
#: Variables of another cluster or job, if the starting process is part of one.
_NOT_INHERITED = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_JOB_ID", "RAY_RAYLET_PID")
#: Default port of Ray's dashboard; if another cluster uses it, the next free port is taken.
_DASHBOARD = 8265


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """The local cluster, as its file describes it.

    Args:
        mark: the value that its processes have in their environment.
        address: its address; "" until it has started.
        session_dir: Ray's folder with its logs.
        dashboard: URL of its dashboard; "" without one.
        pids: process ids of its daemons.
        created: when it was started, in seconds since the epoch.
    """

    mark: str
    address: str = ""
    session_dir: str = ""
    dashboard: str = ""
    pids: tuple[int, ...] = ()
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """Result of :func:`down`.

    Args:
        cluster: the cluster; None if there was none.
        ended: its processes, as (pid, name), in the order of their start.
        killed: process ids of those that did not end after SIGTERM.
    """

    cluster: LocalCluster | None
    ended: tuple[tuple[int, str], ...] = ()
    killed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """Status of the local cluster.

    Args:
        cluster: the cluster; None without one.
        running: whether it can be joined.
        processes: number of its processes.
    """

    cluster: LocalCluster | None
    running: bool
    processes: int


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return rayflow's folder: ``RAYFLOW_HOME``, or ``rayflow`` in the user's data folder. It may not exist yet."""
    given = environ.get("RAYFLOW_HOME")
    return Path(given).absolute() if given else user_data_dir(environ, sys.platform) / "rayflow"


def up(
    *, num_cpus: int | None = None, dashboard: bool = True, environ: Mapping[str, str] = os.environ
) -> tuple[LocalCluster, bool]:
    """Return the local cluster, started if it does not run.

    Args:
        num_cpus: CPUs of a new cluster; None for those of the machine.
        dashboard: whether a new cluster has Ray's dashboard, which takes 2 to 3 s and about 0.7 GB more.
        environ: the environment variables. The ``RAY_*`` variables reach the cluster.

    Returns:
        The cluster, and whether it was started by this call.

    Raises:
        ClusterError: if it did not start; the message has the end of its output.
    """
    with _locked(environ) as folder:
        known = _read(folder)
        if known is not None:
            if _runs(known, processes.carrying(known.mark)):
                return known, False
            _end(known.mark)
        try:
            return _start(folder, num_cpus=num_cpus, dashboard=dashboard, environ=environ), True
        except ClusterError as error:
            if _TOO_SLOW not in str(error):
                raise
        # The second start is faster: Ray's files are in memory.
        return _start(folder, num_cpus=num_cpus, dashboard=dashboard, environ=environ), True


def down(*, environ: Mapping[str, str] = os.environ) -> Stopped:
    """Stop the local cluster: its own processes and their children, and nothing else on this machine.

    Raises:
        ClusterError: if some of its processes cannot be stopped.
    """
    with _locked(environ) as folder:
        known = _read(folder)
        if known is None:
            return Stopped(None)
        ended, killed = _end(known.mark)
        # Otherwise Ray would try to join it.
        address_file = ray_address_file(environ)
        if known.address and _text_of(address_file) == known.address:
            address_file.unlink(missing_ok=True)
        _state_file(folder).unlink()
        return Stopped(known, ended, killed)


def status(*, environ: Mapping[str, str] = os.environ) -> Status:
    """Return the status of the local cluster. Waits while it is started or stopped."""
    with _locked(environ) as folder:
        known = _read(folder)
        if known is None:
            return Status(None, running=False, processes=0)
        found = processes.carrying(known.mark)
        return Status(known, running=_runs(known, found), processes=len(found))


def ray_address_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the file in which Ray writes the address of the cluster that was started last on this machine."""
    folder = environ.get("RAY_TMPDIR") or (environ.get("TMPDIR") if sys.platform == "linux" else "") or "/tmp"  # noqa: S108 - as Ray has it
    return Path(folder, "ray", "ray_current_cluster")


def running_address(environ: Mapping[str, str] = os.environ) -> str:
    """Return the address of a cluster that runs on this machine: Ray's choice, or rayflow's; "" without one."""
    address = _text_of(ray_address_file(environ))
    if address and processes.serves(address):
        return address
    if not _state_file(home(environ)).exists():
        return ""
    ours = status(environ=environ)
    return ours.cluster.address if ours.cluster is not None and ours.running else ""


def local_address(environ: Mapping[str, str] = os.environ) -> str:
    """Return the address of the local cluster from its file; "" without one."""
    known = _read(home(environ))
    return known.address if known is not None else ""


@contextmanager
def _locked(environ: Mapping[str, str]) -> Iterator[Path]:
    folder = home(environ)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "local-cluster.lock").open(
        "w"
    ) as file:  # closing the file releases the lock, also when the process dies
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def _state_file(folder: Path) -> Path:
    return folder / "local-cluster.json"


def _read(folder: Path) -> LocalCluster | None:
    text = _text_of(_state_file(folder))
    if not text:
        return None
    try:
        fields = json.loads(text)
        return LocalCluster(**{**fields, "pids": tuple(fields["pids"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ClusterError(
            f"{_state_file(folder)} does not describe a local cluster ({error}). If no local cluster runs on this "
            "machine, delete the file"
        ) from error


def _write(folder: Path, cluster: LocalCluster) -> LocalCluster:
    new = folder / "local-cluster.json.new"
    new.write_text(json.dumps(asdict(cluster), indent=2) + "\n")
    new.replace(_state_file(folder))
    return cluster


def _text_of(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""


def _runs(cluster: LocalCluster, found: list[Process]) -> bool:
    return bool(cluster.address) and {"gcs_server", "raylet"} <= {processes.name_of(p) for p in found}


def _start(folder: Path, *, num_cpus: int | None, dashboard: bool, environ: Mapping[str, str]) -> LocalCluster:
    # The file is written first, so that the processes of an interrupted start can be found and ended.
    cluster = _write(folder, LocalCluster(mark=uuid.uuid4().hex, created=time.time()))
    output = folder / "local-cluster.log"
    try:
        _run(_command(num_cpus, dashboard=dashboard), _environment(cluster.mark, environ), output)
        return _write(folder, _described(cluster, processes.carrying(cluster.mark), _text_of(output)))
    except BaseException:
        _end(cluster.mark)
        _state_file(folder).unlink()
        raise


def _run(command: list[str], environment: dict[str, str], output: Path) -> None:
    try:
        with output.open("wb") as file:
            subprocess.run(  # noqa: S603 - our own command
                command,
                env=environment,
                cwd=Path.home() if Path.home().is_dir() else "/",  # the cluster may outlive the current folder
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                timeout=START,
                check=True,
            )
    except (subprocess.SubprocessError, OSError) as error:
        tail = "\n".join(_text_of(output).splitlines()[-20:])
        raise ClusterError(f"the local Ray cluster did not start ({error}). The end of {output}:\n{tail}") from error


def _command(num_cpus: int | None, *, dashboard: bool) -> list[str]:
    # Ray refuses to start if one of these two ports is taken.
    client_port = _free_port(0)
    dashboard_port = next((port for port in range(_DASHBOARD, _DASHBOARD + 50) if _free_port(port)), _free_port(0))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port=0", "--disable-usage-stats"]
    # Any free ports, to avoid conflicts with another cluster.
    command += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--ray-client-server-port={client_port}", f"--include-dashboard={str(dashboard).lower()}"]
    command += [f"--dashboard-port={dashboard_port}"]
    return command if num_cpus is None else [*command, f"--num-cpus={num_cpus}"]


def _free_port(port: int) -> int:
    """Return the port (any for 0) if it is free, and 0 otherwise."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
        found: int = probe.getsockname()[1]
        return found


def _environment(mark: str, environ: Mapping[str, str]) -> dict[str, str]:
    variables = {name: value for name, value in environ.items() if name not in _NOT_INHERITED}
    if "RAY_AUTH_MODE" not in variables:
        # As ray.init() does for a new cluster: its ports are open to the network, and a client may run code.
        from rayflow.runtime.actors import ray_system

        ray_system.ensure_token()
        variables["RAY_AUTH_MODE"] = "token"
    # `python` and `rayflow` of submitted jobs are those of the process that started the cluster.
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    return {**_PATIENT, **variables, processes.MARK: mark}


def _described(cluster: LocalCluster, found: list[Process], output: str) -> LocalCluster:
    [raylet] = processes.programs(found, "raylet")
    words = dict(word.lstrip("-").split("=", 1) for word in processes.command_of(raylet) if "=" in word)
    url = re.search(r"https?://[^\s'\"]+:\d+", output)
    return LocalCluster(
        mark=cluster.mark,
        address=words["gcs-address"],
        session_dir=words["session_dir"],
        dashboard=url[0] if url else "",
        pids=tuple(p.pid for p in found),
        created=cluster.created,
    )


def _end(mark: str) -> tuple[tuple[tuple[int, str], ...], tuple[int, ...]]:
    """End the cluster's processes. Return them, and the ids of those that had to be killed."""
    names: dict[int, str] = {}
    known: dict[int, Process] = {}
    killed: list[int] = []
    # The raylet first, which stops the workers; the GCS last, because the others would wait for it.
    for kind in ("raylet", "", "gcs_server"):
        for process in processes.carrying(mark):
            known.setdefault(process.pid, process)
            names.setdefault(process.pid, processes.name_of(process))
        selected = [p for p in known.values() if kind == (names[p.pid] if names[p.pid] in _ENDS else "")]
        stubborn = processes.end(selected, GRACE)
        processes.kill(stubborn, GRACE)
        killed += [p.pid for p in stubborn]
    left = processes.kill(processes.carrying(mark), GRACE)
    if left:
        raise ClusterError(f"processes of the local cluster cannot be stopped: {', '.join(str(p.pid) for p in left)}")
    return tuple(names.items()), tuple(killed)
