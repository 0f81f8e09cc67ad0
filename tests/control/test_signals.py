"""Signals on a cluster: durable, exactly once, in order, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.errors import CodecError, InvalidTransition
from tests.control.conftest import kill_coordinator, until_parked
from tests.control.flows import Verdict, asking, collecting, reviewed
from tests.faults.processes.tools import kill, ledger_lines, until
from tests.runtime.cluster_fixtures import RayCluster

pytestmark = pytest.mark.ray

SENDERS, EACH, KILLS = 8, 125, 20

#: Signals that a sender sends in a row before it waits for the next word: more rounds than kills.
IN_A_ROW = 6

SENDER = """
import sys
import rayflow as rf

store, address, sender, count, in_a_row = sys.argv[1:]
with rf.DistributedEngine(store=store, address=address) as engine:
    print("ready", flush=True)
    for number in range(int(count)):
        if number % int(in_a_row) == 0:
            sys.stdin.readline()
        engine.signal("collector", "item", [int(sender), number], key=f"{sender}/{number}")
        if number % 10 == 0:  # somebody who is not sure, and sends it again
            engine.signal("collector", "item", [int(sender), number], key=f"{sender}/{number}")
"""

Senders = list["subprocess.Popen[str]"]


@pytest.fixture
def senders(driven: rf.DistributedEngine, ray_cluster: RayCluster) -> Iterator[Senders]:
    """Eight processes that each send when they are told."""
    command = [sys.executable, "-c", SENDER, driven.store, ray_cluster.address]
    with contextlib.ExitStack() as stack:
        started: Senders = []
        for sender in range(SENDERS):
            words = [*command, str(sender), str(EACH), str(IN_A_ROW)]
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield started


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_thousand_signals_of_eight_processes_while_the_coordinator_is_killed_again_and_again(
    driven: rf.DistributedEngine, senders: Senders
) -> None:
    handle = driven.start(collecting.options(id="collector"), SENDERS * EACH)
    killed = []
    for sent in range(0, EACH, IN_A_ROW):
        for sender in senders:
            assert sender.stdin is not None
            sender.stdin.write("go\n")
            sender.stdin.flush()
        before = SENDERS * sent
        until(lambda before=before: handle.status().state.get("received", 0) > before, "it has received more")  # type: ignore[misc]
        if sent + IN_A_ROW < EACH:  # after the last round it may have ended
            kill_coordinator(driven, "collector")
            killed.append(backend_of(driven).record("collector").epoch)
    items = handle.result(timeout=120)
    assert [sender.wait(timeout=60) for sender in senders] == [0] * SENDERS
    by_sender: dict[int, list[int]] = defaultdict(list)
    for sender_number, number in items:
        by_sender[sender_number].append(number)
    assert by_sender == {sender: list(range(EACH)) for sender in range(SENDERS)}
    assert len(killed) >= KILLS


def test_one_that_is_parked_is_woken_and_receives_what_was_sent(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    handle = engine.start(reviewed.options(id="doc"), str(ledger))
    until_parked(engine, "doc")
    with pytest.raises(CodecError, match="waits for a signal 'review' with a tests\\.control\\.flows:Verdict"):
        handle.signal("review", {"ok": True})
    assert backend_of(engine).record("doc").owner == ""
    handle.signal("review", Verdict(ok=True, by="ada"))
    assert handle.result(timeout=60) == "ada"
    assert ledger_lines(ledger) == [["before"], ["after", "ada"]]
    with pytest.raises(InvalidTransition):
        handle.signal("review", Verdict(ok=True, by="too late"))


def test_a_coordinator_that_dies_with_a_signal_in_its_hands(driven: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    handle = driven.start(reviewed.options(id="held"), str(ledger))
    until(lambda: handle.status().waiting_for, "it waits")
    holder = backend_of(driven).pid_of(handle.status().coordinator)
    handle.signal("review", Verdict(ok=True, by="ada"), key="once")
    kill(holder)
    handle.signal("review", Verdict(ok=True, by="ada"), key="once")
    assert handle.result(timeout=60) == "ada"
    assert [line for line in ledger_lines(ledger) if line[0] == "before"] == [["before"]]


def test_executions_send_signals_to_each_other(engine: rf.DistributedEngine) -> None:
    collector = engine.start(collecting.options(id="asked"), 1)
    asker = engine.start(asking.options(id="asker"), "asked")
    assert collector.result(timeout=60) == [[0, 0]]
    engine.signal("asker", "answer", 42)
    assert asker.result(timeout=60) == 42
    with pytest.raises(rf.ExecutionFailed, match="no execution 'nobody'"):
        engine.start(asking, "nobody").result(60)
