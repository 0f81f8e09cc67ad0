"""The Ray seam: actors are made, found, called and killed, and every way to fail has its exception."""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from ray import cloudpickle

from rayflow.errors import ClusterError, CorruptRecord
from rayflow.runtime.actors import ray_system
from rayflow.runtime.actors.base import Actor, ActorLost, ActorSpec, ActorUnavailable, CallTimeout, Reply
from rayflow.runtime.actors.ray_system import RaySystem
from tests.runtime.actors.ray_actors import IN_THE_CODE, Echo
from tests.runtime.cluster_fixtures import ROOT, RayCluster

pytestmark = pytest.mark.ray

#: Seconds; generous, nothing here takes a tenth of it on an idle machine.
SOON = 30.0


def spec(name: str = "echo", **options: Any) -> ActorSpec:
    return ActorSpec(Echo, name, **options)


@pytest.fixture(scope="module")
def calm(ray_cluster: RayCluster) -> Iterator[Actor]:
    """An actor for tests that do not harm it; to make one takes longer than most of them."""
    system = RaySystem("test-calm")
    yield system.spawn(spec())
    system.kill("echo")


@pytest.fixture
def echo(system: RaySystem) -> Actor:
    """An actor of the test's own."""
    actor = system.spawn(spec())
    actor.call("greet", timeout=SOON)
    return actor


def sent(actor: Actor, method: str, *args: Any, **options: Any) -> queue.Queue[Reply]:
    replies: queue.Queue[Reply] = queue.Queue()
    actor.send(method, *args, then=replies.put, **options)
    return replies


def until_lost(actor: Actor) -> None:
    """Call until it is known that the actor is dead; at first it may only be known that it does not answer."""
    for _ in range(10_000):
        try:
            actor.call("greet", timeout=SOON)
        except ActorUnavailable:
            continue
        except ActorLost:
            return
    raise AssertionError("the actor still answers")


def until_answered(actor: Actor, method: str) -> Any:
    """Call until the actor, which is being restarted, replies; each call waits or fails."""
    for _ in range(10_000):
        try:
            return actor.call(method, timeout=SOON)
        except ActorUnavailable:
            continue
    raise AssertionError("the actor did not come back")


# --- making and finding ---------------------------------------------------------------------------------------
def test_an_actor_is_made_once_and_found_by_its_name(system: RaySystem) -> None:
    first = system.spawn(spec(args=("good morning",)))
    again = system.spawn(spec(args=("never heard",)))
    found = pickle.loads(pickle.dumps(system)).find("echo")
    assert first.call("greet") == again.call("greet") == found.call("greet") == "good morning"
    assert first.call("pid") == again.call("pid") == found.call("pid") != os.getpid()
    assert system.names() == ["echo"]
    assert RaySystem("test-elsewhere").names() == []


def test_what_was_never_made_is_not_found(system: RaySystem) -> None:
    with pytest.raises(ActorLost, match="'nobody' is dead: no actor has that name"):
        system.find("nobody")


def test_an_actor_gets_the_system_and_calls_others_by_it(system: RaySystem, echo: Actor) -> None:
    other = system.spawn(spec("other"))
    assert other.call("ask", "echo", "pid", timeout=SOON) == echo.call("pid")
    assert other.call("send_and_wait", "echo", {"a": 1}, timeout=SOON) == {"a": 1}
    assert other.call("life") == (system.identity, False)


def test_the_cluster_is_described(system: RaySystem, ray_cluster: RayCluster) -> None:
    assert system.cpus() == 4.0
    assert system.identity.startswith(f"namespace {system.namespace} of Ray cluster session_")
    assert ray_system.joined() == ray_cluster.address
    pinned = system.spawn(spec("pinned", pinned=True))
    assert pinned.call("place", timeout=SOON)["node"] in {"", ray_system.api.get_runtime_context().get_node_id()}


def test_a_class_is_sent_by_its_name(system: RaySystem, echo: Actor) -> None:
    assert echo.call("code") == IN_THE_CODE
    [made] = system._classes.values()
    exported: bytes = cast("Any", cloudpickle).dumps(cast("Any", made).__ray_metadata__.modified_class)
    assert b"Echo" in exported
    assert IN_THE_CODE.encode() not in exported


def test_an_argument_that_ray_would_keep_elsewhere_is_refused(system: RaySystem) -> None:
    with pytest.raises(ClusterError, match="an argument of actor 'echo' has 200,0"):
        system.spawn(spec(args=(b"x" * 200_000,)))
    assert system.names() == []


# --- failing --------------------------------------------------------------------------------------------------
def test_an_exception_comes_back_as_itself_with_its_traceback(calm: Actor) -> None:
    with pytest.raises(ValueError, match="three is not even") as caught:
        calm.call("fail", "plain")
    assert type(caught.value) is ValueError
    [note] = caught.value.__notes__
    assert "In actor 'echo':" in note
    assert "ray_actors.py" in note
    assert "\x1b" not in note
    [reply] = [sent(calm, "fail", "plain").get(timeout=SOON)]
    assert type(reply.error) is ValueError


def test_an_exception_of_rayflow_keeps_its_fields(calm: Actor) -> None:
    with pytest.raises(CorruptRecord) as caught:
        calm.call("fail", "own")
    assert (caught.value.execution_id, caught.value.detail) == ("doc-17", "sequence 3 is missing")


@pytest.mark.parametrize(("how", "names"), [("odd", "OddError"), ("unpicklable", "HoldsLock")])
def test_an_exception_that_cannot_be_sent_is_told_as_text(calm: Actor, how: str, names: str) -> None:
    with pytest.raises(ClusterError, match="cannot be sent to another process") as caught:
        calm.call("fail", how)
    assert names in str(caught.value)
    assert "ray_actors.py" in str(caught.value)
    error = sent(calm, "fail", how).get(timeout=SOON).error
    assert type(error) is ClusterError
    assert calm.call("greet") == "hello"


def test_a_late_answer_is_a_timeout(echo: Actor) -> None:
    with pytest.raises(CallTimeout, match=r"'echo' did not reply to wait\(\) within 0.05 s") as caught:
        echo.call("wait", timeout=0.05)
    assert (caught.value.name, caught.value.method) == ("echo", "wait")
    echo.call("open")


def test_a_method_that_does_not_exist_is_the_callers_mistake(calm: Actor) -> None:
    with pytest.raises(AttributeError, match="dance"):
        calm.call("dance")
    with pytest.raises(TypeError):
        calm.call("greet", "one too many")


# --- dying ----------------------------------------------------------------------------------------------------
def test_the_death_of_an_actor_reaches_all_who_wait(system: RaySystem, echo: Actor) -> None:
    waiting = sent(echo, "wait")
    os.kill(echo.call("pid"), signal.SIGKILL)
    error = waiting.get(timeout=SOON).error
    assert isinstance(error, (ActorLost, ActorUnavailable))
    assert error.name == "echo"
    until_lost(echo)
    with pytest.raises(ActorLost, match="no actor of that name"):
        system.find("echo")
    assert system.names() == []
    assert system.spawn(spec(args=("the next",))).call("greet") == "the next"


def test_a_send_to_the_dead_is_told_and_not_raised(system: RaySystem, echo: Actor) -> None:
    system.kill("echo")
    until_lost(echo)
    caller = threading.get_ident()
    threads: queue.Queue[tuple[int, Reply]] = queue.Queue()
    for _ in range(20):
        echo.send("greet", then=lambda reply: threads.put((threading.get_ident(), reply)))
    echo.send("greet")
    told = [threads.get(timeout=SOON) for _ in range(20)]
    assert {type(reply.error) for _, reply in told} == {ActorLost}
    assert caller not in {thread for thread, _ in told}
    assert threads.empty()


def test_an_actor_that_may_is_made_anew(system: RaySystem) -> None:
    actor = system.spawn(spec(restart=True, args=("still here",)))
    first = actor.call("pid", timeout=SOON)
    with pytest.raises((ActorUnavailable, ActorLost)):
        actor.call("die", timeout=SOON)
    assert until_answered(actor, "greet") == "still here"
    assert actor.call("pid") != first
    assert actor.call("life") == (system.identity, True)
    system.kill("echo", restart=True)
    second = actor
    assert until_answered(second, "pid") not in (first, None)


def test_killing_frees_the_name_and_asks_nothing_of_the_missing(system: RaySystem, echo: Actor) -> None:
    pid = echo.call("pid")
    system.kill("echo")
    system.kill("echo")
    system.kill("nobody")
    assert system.names() == []
    assert system.spawn(spec()).call("pid", timeout=SOON) != pid


# --- sending --------------------------------------------------------------------------------------------------
def test_a_group_answers_while_all_other_threads_wait(system: RaySystem) -> None:
    actor = system.spawn(spec(threads=2, groups={"control": 1}))
    waiting = [sent(actor, "wait") for _ in range(4)]
    assert [actor.call("say", n, group="control", timeout=SOON) for n in range(5)] == list(range(5))
    assert [replies.empty() for replies in waiting] == [True] * 4
    actor.call("open", group="control", timeout=SOON)
    assert [replies.get(timeout=SOON) for replies in waiting] == [Reply("opened")] * 4


def test_each_of_a_thousand_sends_is_told_once(calm: Actor) -> None:
    told: Counter[tuple[int, Any]] = Counter()
    left = threading.Semaphore(0)

    def then(number: int, reply: Reply) -> None:
        told[number, reply.value] += 1
        left.release()

    for number in range(1_000):
        calm.send("say", number, then=lambda reply, n=number: then(n, reply), label=f"say {number % 3}")  # type: ignore[misc]
    assert all(left.acquire(timeout=SOON) for _ in range(1_000))
    assert told == Counter({(number, number): 1 for number in range(1_000)})


def test_a_large_reply_arrives_and_an_exception_may_be_a_value(calm: Actor) -> None:
    assert sent(calm, "say", b"x" * 3_000_000).get(timeout=SOON).value == b"x" * 3_000_000
    reply = sent(calm, "say", ValueError("only said")).get(timeout=SOON)
    assert reply.error is None
    assert isinstance(reply.value, ValueError)


def test_a_callback_may_send_and_one_that_fails_harms_nobody(calm: Actor, caplog: pytest.LogCaptureFixture) -> None:
    second: queue.Queue[Reply] = queue.Queue()
    calm.send("say", 1, then=lambda reply: calm.send("say", reply.value + 1, then=second.put))
    calm.send("say", 1, then=lambda reply: second.put(reply.value.no_such_thing))
    assert second.get(timeout=SOON) == Reply(2)
    assert sent(calm, "greet").get(timeout=SOON) == Reply("hello")
    assert "the callback of a call failed" in caplog.text


def test_an_argument_that_cannot_be_sent_is_told_or_raised(calm: Actor) -> None:
    error = sent(calm, "say", threading.Lock()).get(timeout=SOON).error
    assert isinstance(error, TypeError)
    with pytest.raises(TypeError, match="pickle"):
        calm.send("say", threading.Lock())


# --- drivers of their own -------------------------------------------------------------------------------------
def run_driver(ray_cluster: RayCluster, program: str, *arguments: str) -> Any:
    """Return what a program prints as JSON. The program has the cluster's environment, but has not joined it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, ray_cluster.address, *arguments],
        cwd=ROOT,
        env={**ray_cluster.environ, "RAY_ADDRESS": ray_cluster.address},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


WITH_WORKING_DIR = """
import json, sys
import ray
from rayflow.runtime.actors import ray_system
from rayflow.runtime.cluster import connection
from rayflow.runtime.actors.base import ActorSpec
from tests.runtime.actors.ray_actors import Echo
address, namespace, folder = sys.argv[1:]
if ray_system.has_token():
    ray_system.tokens._enable_token_auth()
# As `ray job submit --working-dir` has it.
environment = {"working_dir": folder, "env_vars": {"RAYFLOW_TEST_VARIABLE": "set"}}
ray.init(address, log_to_driver=False, runtime_env=environment)
joined = connection.connect()
system = ray_system.RaySystem(namespace)
uri = ray_system.job_working_dir()
plain = system.spawn(ActorSpec(Echo, "plain")).call("place", timeout=60)
packed = system.spawn(ActorSpec(Echo, "packed", runtime_env={"working_dir": uri})).call("place", timeout=60)
joined.close()
print(json.dumps({
    "uri": uri, "plain": plain, "packed": packed, "source": joined.source,
    "still": ray.is_initialized(), "package": len(ray_system.get_package(uri)), "missing": ray_system.get_package("gcs://no.zip"),
}))
"""


def test_an_actor_takes_over_no_working_dir_but_the_one_it_was_given(
    ray_cluster: RayCluster, system: RaySystem, tmp_path: Path
) -> None:
    (tmp_path / "marker.txt").write_text("packed")
    seen = run_driver(ray_cluster, WITH_WORKING_DIR, system.namespace, str(tmp_path))
    assert seen["uri"].startswith("gcs://_ray_pkg_")
    assert seen["packed"]["working_dir"] == seen["uri"]
    assert "_ray_pkg_" in seen["packed"]["cwd"]
    assert seen["plain"]["working_dir"] == ""
    assert "_ray_pkg_" not in seen["plain"]["cwd"]
    assert seen["plain"]["variable"] == "", "variables of the job belong to its executions alone"
    assert (seen["source"], seen["still"]) == ("joined", True)
    assert seen["package"] > 0
    assert seen["missing"] is None
    # Its driver is gone, the actors are not.
    assert system.find("packed").call("place")["cwd"] == seen["packed"]["cwd"]


def test_a_package_is_provided_once(system: RaySystem, ray_cluster: RayCluster) -> None:
    uri = "gcs://_ray_pkg_0123456789abcdef.zip"
    assert ray_system.get_package(uri) is None
    with pytest.raises(ClusterError, match="neither in this cluster nor in the store"):
        system.ensure_package(uri, lambda: None)
    system.ensure_package(uri, lambda: b"not really a zip")
    assert ray_system.get_package(uri) == b"not really a zip"
    system.ensure_package(uri, lambda: b"another one")
    assert ray_system.get_package(uri) == b"not really a zip"


LEAVES = """
import json, sys, threading
from rayflow.errors import ClusterError
from rayflow.runtime.actors import ray_system
from rayflow.runtime.cluster import connection
first, second = connection.connect(), connection.connect(sys.argv[1])
system = ray_system.RaySystem(sys.argv[2])
echo = system.find("echo")
replies, there = [], threading.Event()
echo.send("wait", then=lambda reply: (replies.append(reply), there.set()))
echo.call("greet")
first.close(); first.close()
between = ray_system.joined()
second.close()
there.wait(30)
def refused(act):
    try:
        act()
    except ClusterError as error:
        return str(error)
calls = [system.names, lambda: system.find("other"), lambda: echo.call("greet"), lambda: echo.send("greet")]
errors = [refused(call) for call in calls]
print(json.dumps([between, ray_system.joined(), type(replies[0].error).__name__, errors, first.source, second.source]))
"""


def test_leaving_tells_who_waits_and_starts_nothing(ray_cluster: RayCluster, system: RaySystem, echo: Actor) -> None:
    between, after, error, errors, *sources = run_driver(ray_cluster, LEAVES, system.namespace)
    assert (between, after) == (ray_cluster.address, "")
    assert error == "ActorUnavailable"
    assert errors[:3] == ["this process has not joined a Ray cluster. Open an engine, or call ray.init()"] * 3
    assert errors[3] is None
    assert sources == ["given", "joined"]
    assert echo.call("greet") == "hello"
