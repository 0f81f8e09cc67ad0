"""The local Ray cluster: started where there is none, and stopped by ``rayflow down``.

It belongs to nobody: it lives on when the process that started it dies, since a driver that owns its Ray takes
every detached actor down with it. It is described by ``local-cluster.json`` in rayflow's folder (``RAYFLOW_HOME``,
else in the user's data folder), and one lock there makes sure that two who start at once get one cluster.
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
#: Seconds that each kind of processes gets to end by itself, and then again to be gone after it was killed.
GRACE = 5.0

#: Its processes that end first and last; all others are equal.
_ENDS = ("raylet", "gcs_server")
#: On one machine a late answer means that the machine is busy or was asleep, and there is nowhere else to go on.
_PATIENT = {"RAY_health_check_timeout_ms": "30000", "RAY_health_check_failure_threshold": "20"}
#: What Ray says after 30 s in which its part for this machine did not come up, as happens on a busy one.
_TOO_SLOW = "timed out during startup"
#: Of a cluster or a job that the starting process may itself be part of.
_NOT_INHERITED = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_JOB_ID", "RAY_RAYLET_PID")


#: Where Ray's dashboard is looked for; the next free port is taken where another cluster has it.
_DASHBOARD = 8265


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """The local cluster, as it is written down.

    Args:
        mark: what its processes carry in their environment.
        address: its address; "" until it has started.
        session_dir: Ray's folder with its logs.
        dashboard: URL of its dashboard; "" without one.
        pids: its daemons.
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
    """What :func:`down` stopped.

    Args:
        cluster: the cluster; None if there was none.
        ended: its processes that ran, as (pid, name), in the order in which they had begun.
        killed: pids of those that did not end when they were asked to.
    """

    cluster: LocalCluster | None
    ended: tuple[tuple[int, str], ...] = ()
    killed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """Whether there is a local cluster.

    Args:
        cluster: what is written down; None if nothing is.
        running: whether it can be joined.
        processes: how many processes of it run.
    """

    cluster: LocalCluster | None
    running: bool
    processes: int


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Rayflow's own folder: ``RAYFLOW_HOME``, else ``rayflow`` in the user's data folder. It need not exist yet."""
    given = environ.get("RAYFLOW_HOME")
    return Path(given).absolute() if given else user_data_dir(environ, sys.platform) / "rayflow"


def up(
    *, num_cpus: int | None = None, dashboard: bool = True, environ: Mapping[str, str] = os.environ
) -> tuple[LocalCluster, bool]:
    """The local cluster, started if it does not run.

    Args:
        num_cpus: CPUs that it offers; None for those of the machine. Only for a new one.
        dashboard: with Ray's dashboard, which takes 2 to 3 s and about 0.7 GB more. Only for a new one.
        environ: the environment's variables. ``RAY_*`` of them reach the cluster.

    Returns:
        The cluster, and whether it was started just now.

    Raises:
        ClusterError: it did not start; the message has the end of its output.
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
        # Now its files are in memory.
        return _start(folder, num_cpus=num_cpus, dashboard=dashboard, environ=environ), True


def down(*, environ: Mapping[str, str] = os.environ) -> Stopped:
    """Stop the local cluster: its own processes and what they started, and nothing else on this machine.

    Raises:
        ClusterError: some of its processes cannot be stopped.
    """
    with _locked(environ) as folder:
        known = _read(folder)
        if known is None:
            return Stopped(None)
        ended, killed = _end(known.mark)
        # Ray would go on trying to reach it there.
        address_file = ray_address_file(environ)
        if known.address and _text_of(address_file) == known.address:
            address_file.unlink(missing_ok=True)
        _state_file(folder).unlink()
        return Stopped(known, ended, killed)


def status(*, environ: Mapping[str, str] = os.environ) -> Status:
    """Whether there is a local cluster, and whether it runs. Waits while it is being started or stopped."""
    with _locked(environ) as folder:
        known = _read(folder)
        if known is None:
            return Status(None, running=False, processes=0)
        found = processes.carrying(known.mark)
        return Status(known, running=_runs(known, found), processes=len(found))


def ray_address_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where Ray writes the address of the cluster that was started last on this machine."""
    folder = environ.get("RAY_TMPDIR") or (environ.get("TMPDIR") if sys.platform == "linux" else "") or "/tmp"  # noqa: S108 - as Ray has it
    return Path(folder, "ray", "ray_current_cluster")


def running_address(environ: Mapping[str, str] = os.environ) -> str:
    """Address of a cluster that runs on this machine: the one that Ray would take, else ours; "" without one."""
    address = _text_of(ray_address_file(environ))
    if address and processes.serves(address):
        return address
    if not _state_file(home(environ)).exists():
        return ""
    ours = status(environ=environ)
    return ours.cluster.address if ours.cluster is not None and ours.running else ""


def local_address(environ: Mapping[str, str] = os.environ) -> str:
    """Address of the local cluster, as it is written down; "" without one."""
    known = _read(home(environ))
    return known.address if known is not None else ""


# --- the file and its lock ---------------------------------------------------------------------------------------
@contextmanager
def _locked(environ: Mapping[str, str]) -> Iterator[Path]:
    folder = home(environ)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "local-cluster.lock").open("w") as file:  # closing it, also by dying, lets go of the lock
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
            f"{_state_file(folder)} does not describe a local cluster ({error}). If no cluster of rayflow runs here, "
            "delete the file"
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


# --- its processes -----------------------------------------------------------------------------------------------
def _runs(cluster: LocalCluster, found: list[Process]) -> bool:
    return bool(cluster.address) and {"gcs_server", "raylet"} <= {processes.name_of(p) for p in found}


def _start(folder: Path, *, num_cpus: int | None, dashboard: bool, environ: Mapping[str, str]) -> LocalCluster:
    # Written down first: whoever comes after a start that was cut short finds and ends what it left.
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
                cwd=Path.home() if Path.home().is_dir() else "/",  # it outlives the folder of whoever starts it
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
    # These two cannot be left to Ray, which refuses to start where they are taken.
    client_port = _free_port(0)
    dashboard_port = next((port for port in range(_DASHBOARD, _DASHBOARD + 50) if _free_port(port)), _free_port(0))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port=0", "--disable-usage-stats"]
    # Any free ports, so that it does not get in the way of another cluster.
    command += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--ray-client-server-port={client_port}", f"--include-dashboard={str(dashboard).lower()}"]
    command += [f"--dashboard-port={dashboard_port}"]
    return command if num_cpus is None else [*command, f"--num-cpus={num_cpus}"]


def _free_port(port: int) -> int:
    """That port, or any for 0, if nobody listens on it; else 0."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
        found: int = probe.getsockname()[1]
        return found


def _environment(mark: str, environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if name not in _NOT_INHERITED}
    if "RAY_AUTH_MODE" not in kept:
        # As ray.init() has it for a new cluster: its ports are open to the network, and whoever may speak to them
        # may run code.
        from rayflow.runtime.actors import ray_system

        ray_system.ensure_token()
        kept["RAY_AUTH_MODE"] = "token"
    # Submitted jobs say `python` and `rayflow`, and mean those of whoever started the cluster.
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return {**_PATIENT, **kept, processes.MARK: mark}


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
    """End the cluster's processes; answers them, and the pids of those that had to be killed."""
    names: dict[int, str] = {}
    known: dict[int, Process] = {}
    killed: list[int] = []
    # The machine's part first, which stops the workers; the cluster's memory last, or the others wait for it.
    for kind in ("raylet", "", "gcs_server"):
        for process in processes.carrying(mark):
            known.setdefault(process.pid, process)
            names.setdefault(process.pid, processes.name_of(process))
        told = [p for p in known.values() if kind == (names[p.pid] if names[p.pid] in _ENDS else "")]
        stubborn = processes.end(told, GRACE)
        processes.kill(stubborn, GRACE)
        killed += [p.pid for p in stubborn]
    left = processes.kill(processes.carrying(mark), GRACE)
    if left:
        raise ClusterError(f"processes of the local cluster cannot be stopped: {', '.join(str(p.pid) for p in left)}")
    return tuple(names.items()), tuple(killed)
