"""``resume``, ``recover``, ``pause``, ``cancel``, ``wait``, ``metrics`` and the local cluster's commands."""

from __future__ import annotations

import argparse
import signal
import socket
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Self

import pytest

from rayflow.cli import cluster, exit_codes, watch
from rayflow.cli.screen import ProgressLine, Screen
from rayflow.cli.watch import ExecutionWatch
from rayflow.client.engine import backend_of, watcher_of
from rayflow.client.local import LocalEngine
from rayflow.core.cluster.metrics import DistributedMetrics
from rayflow.definition.start_options import SavedWorkflow
from rayflow.errors import ClusterError
from rayflow.runtime.cluster import connection
from rayflow.storage.model import ExecutionRecord
from tests.cli.project import INTERRUPTIBLE, Project


def interrupt(project: Project, *ids: str) -> None:
    """Create interrupted executions."""
    for execution_id in ids:
        assert project.run("long", "--id", execution_id, "--timeout", "0.05").code == exit_codes.STOPPED_WAITING


def test_resume_goes_on_from_the_failure_and_waits_locally(project: Project) -> None:
    assert project.run("broken", "--id", "one").code == exit_codes.FAILED
    again = project("resume", "one", "--local")
    assert again.code == exit_codes.FAILED
    assert project("show", "one", "--json").json["epoch"] > 1


def test_resume_of_what_is_completed_is_wrong_usage(project: Project) -> None:
    project.run("nothing", "--id", "one")
    done = project("resume", "one", "--local")
    assert done.code == exit_codes.USAGE
    assert done.err == ("rayflow: cannot resume execution 'one': it is completed. Start it again under another id\n")


@pytest.mark.parametrize("command", ["resume", "pause", "cancel", "wait"])
def test_an_unknown_execution_is_wrong_usage(project: Project, command: str) -> None:
    project.run("nothing")
    done = project(command, "nope", "--local")
    assert done.code == exit_codes.USAGE
    assert done.err.startswith("rayflow: no execution 'nope' in this store")


def test_recover_resumes_all_unfinished_executions(project: Project) -> None:
    interrupt(project, "one", "two")
    project.run("nothing", "--id", "done")
    stopped = project("recover", "--local", "--timeout", "0.05", "--json")
    assert stopped.code == exit_codes.STOPPED_WAITING
    assert sorted(stopped.json["recovered"]) == ["one", "two"]
    assert sorted(row["execution_id"] for row in stopped.json["executions"]) == ["one", "two"]
    assert {row["status"] for row in stopped.json["executions"]} <= {"pending", "running"}


def test_recover_skips_executions_with_recent_progress(project: Project) -> None:
    interrupt(project, "one")
    done = project("recover", "--local", "--older-than", "3600")
    assert (done.code, done.out) == (exit_codes.COMPLETED, "nothing to recover\n")
    assert project("recover", "--local", "--older-than", "-1").code == exit_codes.USAGE
    taken = project("recover", "--local", "--older-than", "0.001", "--timeout", "0.05", "--json")
    assert taken.json["recovered"] == ["one"]


def test_recover_without_anything_to_do_says_so(project: Project) -> None:
    project.run("nothing")
    done = project("recover", "--local")
    assert (done.code, done.out) == (exit_codes.COMPLETED, "nothing to recover\n")


def test_a_paused_execution_stays_paused_until_resume(project: Project) -> None:
    interrupt(project, "one")
    paused = project("pause", "one", "--local", "--reason", "lunch")
    assert (paused.code, paused.out) == (exit_codes.COMPLETED, "one is paused\n")
    waited = project("wait", "one", "--local")
    assert waited.code == exit_codes.STOPPED_WAITING
    assert "rayflow: execution 'one' is paused" in waited.err
    assert "lunch; to resume: rayflow resume one --local\n" in waited.err
    resumed = project("resume", "one", "--local", "--timeout", "0.3", "--json")
    assert resumed.code == exit_codes.STOPPED_WAITING
    assert resumed.json["execution_id"] == "one"


def test_a_paused_execution_can_be_resumed_to_its_end(project: Project) -> None:
    interrupt(project, "one")
    assert project("pause", "one", "--local").code == exit_codes.COMPLETED
    project.hurry()
    done = project("resume", "one", "--local")
    assert (done.code, done.out.splitlines()[0].split(":")[0]) == (exit_codes.COMPLETED, "one completed")


def test_a_paused_execution_can_be_cancelled(project: Project) -> None:
    interrupt(project, "one")
    project("pause", "one", "--local")
    done = project("cancel", "one", "--local", "--json")
    assert (done.code, done.json["status"]) == (exit_codes.COMPLETED, "cancelled")


def test_cancel_ends_an_execution_with_its_reason(project: Project) -> None:
    interrupt(project, "one")
    done = project("cancel", "one", "--local", "--reason", "too long", "--json")
    assert done.code == exit_codes.COMPLETED
    assert (done.json["status"], done.json["error"]["message"]) == ("cancelled", "too long")


@pytest.fixture
def elsewhere(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that lets commands without --local use an engine of this process in place of a cluster's."""

    def use() -> None:
        monkeypatch.setattr(
            watch, "open_engine", lambda args, recover: LocalEngine(project.store, recover=recover is not False)
        )

    return use


def test_output_of_steps_on_a_cluster_is_printed(project: Project, elsewhere: Callable[[], None]) -> None:
    elsewhere()
    done = project("run", f"{project.name}:shout", "--input", '"hello"', "--id", "one")
    assert done.code == exit_codes.COMPLETED
    # Once by the step itself, which runs in this process, and once by its coordinator.
    assert done.out.splitlines()[:2] == ["step says hello", "step says hello"]
    assert done.out.splitlines()[2].startswith("one completed: ")


def test_waiting_for_a_paused_execution_prints_once_how_to_resume_it(
    project: Project, elsewhere: Callable[[], None]
) -> None:
    interrupt(project, "one")
    project("pause", "one", "--local", "--reason", "lunch")
    elsewhere()
    done = project("wait", "one", "--timeout", "2")
    assert done.code == exit_codes.STOPPED_WAITING
    assert done.err.count("execution 'one' is paused") == 2  # once during the wait, once at its end
    assert "to resume: rayflow resume one\n" in done.err


def test_a_timeout_on_a_cluster_prints_how_to_wait_again(project: Project, elsewhere: Callable[[], None]) -> None:
    elsewhere()
    done = project("run", f"{project.name}:long", "--id", "one", "--timeout", "0.05", "--store", project.store)
    assert done.code == exit_codes.STOPPED_WAITING
    assert "continues. To wait again: rayflow wait one --store sqlite:///" in done.err
    assert "; to cancel: rayflow cancel one --store sqlite:///" in done.err


def test_commands_on_a_cluster_do_not_wait(project: Project, elsewhere: Callable[[], None]) -> None:
    interrupt(project, "one")
    elsewhere()
    done = project("cancel", "one")
    assert done.code == exit_codes.COMPLETED
    assert done.out.startswith("cancellation of one requested (status: ")
    interrupt(project, "two")
    assert project("recover", "--json").json == {"recovered": ["two"]}
    assert project("resume", "two").out == "two is resumed\n"


def silence(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine's store stop responding."""

    def record(execution_id: str) -> ExecutionRecord:
        raise ClusterError("the cluster is gone")

    monkeypatch.setattr(backend_of(engine), "record", record)


def test_an_unresponsive_engine_ends_the_wait(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(project, "one")
    monkeypatch.setattr(watch, "_PATIENCE", 0.3)
    args = argparse.Namespace(local=False, store=None, address=None, take_over=False)
    with LocalEngine(project.store) as engine:
        silence(engine, monkeypatch)
        with pytest.raises(exit_codes.StoppedWaiting, match=r"no response from the engine for \d+ s") as caught:
            ExecutionWatch(engine, Screen(), ProgressLine(), args).wait("one")
    assert exit_codes.code_of(caught.value) == exit_codes.STOPPED_WAITING
    assert "to wait again: rayflow wait one" in str(caught.value)


def test_a_completion_ends_the_wait_although_the_store_does_not_respond(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("nothing", "--id", "one")
    args = argparse.Namespace(local=False, store=None, address=None, take_over=False)
    with LocalEngine(project.store) as engine:
        over: Future[ExecutionRecord] = watcher_of(engine).future("one")
        assert over.result(10).id == "one"
        silence(engine, monkeypatch)
        assert ExecutionWatch(engine, Screen(), ProgressLine(), args).wait("one").status == "completed"


def test_output_is_read_from_a_cursor(project: Project) -> None:
    project.run("shout", "--input", '"a"', "--id", "earlier")
    with LocalEngine(project.store) as engine:
        engine.start(SavedWorkflow("shout").options(id="now"), "b").result(30)
        first = engine.output("now")
        assert first.lines == ("step says b",)
        assert engine.output("now", first.cursor) == replace(first, lines=())
        assert engine.output("now", "another coordinator/7").lines == ("step says b",)
        assert engine.output("earlier").lines == (), "its coordinator ended with the process that had it"


def test_metrics_without_a_cluster_are_the_stores_totals(project: Project) -> None:
    project.run("shout", "--input", '"a"')
    project.run("broken")
    figures = project("metrics", "--local", "--json").json
    assert (figures["executions_started"], figures["executions_completed"], figures["executions_failed"]) == (2, 1, 1)
    assert figures["tasks_completed"] == 1
    assert "executions started    2\n" in project("metrics", "--local").out


class FixedEngine:
    """Engine with fixed metrics."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def metrics(self) -> DistributedMetrics:
        return DistributedMetrics(active_workers=4, queue_depth=3)


def test_metrics_of_an_engine_have_the_pool_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "open_engine", lambda args, recover: FixedEngine())
    figures = project("metrics", "--address", "somewhere:6379", "--json").json
    assert (figures["active_workers"], figures["queue_depth"]) == (4, 3)


def test_metrics_are_served_until_interrupted(project: Project) -> None:
    project.run("nothing")
    with project.spawn("metrics", "--local", "--port", "0", program=INTERRUPTIBLE) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        url = told.partition("serving Prometheus metrics at ")[2].partition(";")[0]
        with urllib.request.urlopen(url, timeout=30) as page:  # noqa: S310 - our own server
            assert b"rayflow_executions_completed_total 1.0" in page.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (exit_codes.COMPLETED, "", "")


def test_a_port_in_use_is_an_error(project: Project) -> None:
    project.run("nothing")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = project("metrics", "--local", "--port", str(port))
    assert done.code == exit_codes.FAILED
    assert done.err == f"rayflow: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_without_a_local_cluster_status_and_down_say_so(project: Project) -> None:
    status = project("status")
    assert (status.code, status.out) == (
        exit_codes.FAILED,
        "there is no local cluster; `rayflow up` or the first engine starts one\n",
    )
    assert project("status", "--json").json == {"running": False, "processes": 0, "cluster": None}
    assert project("down").out == "there is no local cluster\n"


def test_up_and_down_print_their_effect(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    running_one = connection.LocalCluster("mark", "127.0.0.1:6379", dashboard="http://127.0.0.1:8265", created=1.0)
    asked: list[dict[str, object]] = []

    def up(**options: object) -> tuple[connection.LocalCluster, bool]:
        asked.append(options)
        return running_one, len(asked) == 1

    monkeypatch.setattr(connection, "up", up)
    stopped = connection.Stopped(running_one, ended=((1, "raylet"), (2, "gcs_server")), killed=(2,))
    monkeypatch.setattr(connection, "down", lambda: stopped)
    monkeypatch.setattr(connection, "status", lambda: connection.Status(running_one, running=True, processes=7))
    assert project("up", "--num-cpus", "2").out == (
        "the local cluster started at 127.0.0.1:6379, dashboard http://127.0.0.1:8265\n"
    )
    assert project("up", "--no-dashboard", "--json").json["started"] is False
    assert asked == [{"num_cpus": 2, "dashboard": True}, {"num_cpus": None, "dashboard": False}]
    assert "the local cluster is running at 127.0.0.1:6379" in project("status").out
    assert project("down").out == (
        "the local cluster at 127.0.0.1:6379 is stopped: 2 processes ended, 1 of them killed\n"
    )
