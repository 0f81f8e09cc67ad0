"""The thread actor system gives the guarantees of a cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import ActorChannel, ActorLost, ActorSpec, CallTimeout, Reply
from rayflow.runtime.actors.daemon_threads import DaemonThreadPool
from rayflow.runtime.actors.thread_system import ThreadSystem
from tests.runtime.actors.actors import PATIENCE, Answers, Counter, counter, threads


@pytest.fixture
def system() -> Iterator[ThreadSystem]:
    with threads() as made:
        yield made


# --- making and finding -------------------------------------------------------------------------------------
def test_an_actor_is_made_once_for_each_name(system: ThreadSystem) -> None:
    first = system.spawn(ActorSpec(Counter, "a", (5,)))
    again = system.spawn(ActorSpec(Counter, "a", (900,)))
    assert (first.call("add", 1), again.call("add", 1), system.find("a").call("add", 1)) == (6, 7, 8)
    assert (len(Counter.made), first.name) == (1, "a")


def test_many_that_spawn_one_name_at_once_get_one_actor(system: ThreadSystem) -> None:
    ready = threading.Barrier(8)

    def spawn() -> None:
        ready.wait()
        system.spawn(ActorSpec(Counter, "a")).call("add", 1)

    threads = [threading.Thread(target=spawn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [made.count for made in Counter.made] == [8]


def test_names_are_those_of_living_actors_oldest_first(system: ThreadSystem) -> None:
    for name in "bca":
        counter(system, name)
    system.kill("c")
    system.kill("c")
    assert system.names() == ["b", "a"]
    with pytest.raises(ActorLost, match="actor 'c' is dead: no actor has that name"):
        system.find("c")


def test_an_actor_whose_init_fails_is_not_there(system: ThreadSystem) -> None:
    with pytest.raises(TypeError):
        system.spawn(ActorSpec(Counter, "a", (1, 2, 3)))
    assert system.names() == []


def test_an_actor_sees_the_whole_system(system: ThreadSystem) -> None:
    handle, _ = counter(system)
    assert handle.call("make", "b") == ("b", ["a", "b"], float(os.cpu_count() or 1), "local")
    assert system.names() == ["a"]
    assert ThreadSystem("elsewhere").identity == "elsewhere"


# --- calling ------------------------------------------------------------------------------------------------
def test_a_call_answers_or_raises_what_the_method_did(system: ThreadSystem) -> None:
    handle, _ = counter(system)
    assert handle.call("add", 3) == 3
    with pytest.raises(KeyError, match="no"):
        handle.call("fail", KeyError("no"))
    with pytest.raises(AttributeError, match="dance"):
        handle.call("dance")
    with pytest.raises(ClusterError, match=r"fail\(\) of actor 'a' raised SystemExit: 3"):
        handle.call("fail", SystemExit(3))
    assert handle.call("add", 1) == 4


def test_a_call_that_takes_too_long_is_given_up_and_still_done(system: ThreadSystem) -> None:
    handle, actor = counter(system)
    with pytest.raises(CallTimeout, match=r"actor 'a' did not reply to hold\(\) within 0 s"):
        handle.call("hold", timeout=0.0)
    assert actor.reached.wait(PATIENCE)


def test_an_answer_is_told_once_on_a_thread_of_the_system(system: ThreadSystem) -> None:
    handle, _ = counter(system)
    answers = Answers()
    handle.send("add", 1, then=answers)
    handle.send("fail", error := ValueError("no"), then=answers)
    answers.wait(2)
    assert {(reply.value, reply.error) for reply in answers.replies} == {(1, None), (None, error)}
    assert threading.current_thread() not in answers.threads


def test_a_callback_that_fails_is_logged_and_harms_nobody(
    system: ThreadSystem, caplog: pytest.LogCaptureFixture
) -> None:
    handle, _ = counter(system, threads=1)

    def broken(reply: Reply) -> None:
        raise ValueError("in the callback")

    handle.send("add", 1, then=broken)
    assert handle.call("add", 1) == 2
    assert "in the callback" in caplog.text


def test_a_line_is_a_call(system: ThreadSystem) -> None:
    line = ActorChannel(counter(system)[0], "echo")
    answers = Answers()
    line.send(b"data", answers)
    assert answers.wait() == [Reply(b"data")]
    assert line.peer == "a"


# --- threads ------------------------------------------------------------------------------------------------
def test_groups_have_threads_of_their_own(system: ThreadSystem) -> None:
    handle, actor = counter(system, threads=1, groups={"control": 1})
    handle.send("hold")
    assert actor.reached.wait(PATIENCE)
    assert handle.call("thread", group="control") == "a/control-0"
    with pytest.raises(CallTimeout):
        handle.call("thread", timeout=0.01)
    with pytest.raises(ClusterError, match="actor 'a' has no concurrency group 'other'; its groups are: 'control', ''"):
        handle.call("thread", group="other")


def test_no_more_threads_than_were_asked_for_and_calls_in_order(system: ThreadSystem) -> None:
    handle, actor = counter(system, threads=1)
    answers = Answers()
    handle.send("hold")
    for n in range(1, 5):
        handle.send("add", n, then=answers)
    assert actor.reached.wait(PATIENCE)
    actor.gate.set()
    assert [reply.value for reply in answers.wait(4)] == [1, 3, 6, 10]
    assert handle.call("thread") == "a-0"


def test_threads_are_daemons_and_idle_ones_are_used_again() -> None:
    daemons = DaemonThreadPool("d", 4)
    seen: list[threading.Thread] = []
    for _ in range(9):
        done = threading.Event()

        def job(done: threading.Event = done) -> None:
            seen.append(threading.current_thread())
            done.set()

        assert daemons.submit(job)
        assert done.wait(PATIENCE)
    assert all(thread.daemon for thread in seen)
    assert len(set(seen)) <= 4
    daemons.close()
    assert daemons.join(time.monotonic() + PATIENCE) == []
    assert daemons.submit(lambda: None) is False
