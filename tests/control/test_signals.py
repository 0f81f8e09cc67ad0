"""Signals on a cluster: durable, exactly once, in order, whatever dies meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.errors import CodecError, InvalidTransition
from tests.control.conftest import kill_coordinator, until_parked
from tests.control.flows import Verdict, asking, collecting, reviewed
from tests.faults.tools import ledger_lines, until
from tests.runtime.cluster_fixtures import RayCluster

pytestmark = pytest.mark.ray

SENDERS, EACH, KILLS = 8, 125, 20

SENDER = """
import sys
import rayflow as rf

store, address, sender, count = sys.argv[1:]
with rf.DistributedEngine(store=store, address=address) as engine:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(count)):
        engine.signal("collector", "item", [int(sender), number], key=f"{sender}/{number}")
        if number % 10 == 0:  # somebody who is not sure, and sends it again
            engine.signal("collector", "item", [int(sender), number], key=f"{sender}/{number}")
"""


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_thousand_signals_of_eight_processes_while_the_coordinator_is_killed_again_and_again(
    engine: rf.DistributedEngine, ray_cluster: RayCluster
) -> None:
    handle = engine.start(collecting, SENDERS * EACH, id="collector")
    command = [sys.executable, "-c", SENDER, engine.store, ray_cluster.address]
    senders = [
        subprocess.Popen([*command, str(sender), str(EACH)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for sender in range(SENDERS)
    ]
    for sender in senders:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()

    def received() -> int:
        count: int = handle.status().state.get("received", 0)
        return count

    epochs = set()
    for _ in range(KILLS):
        seen = received()
        if seen == SENDERS * EACH:
            break
        until(lambda seen=seen: received() > min(seen + 20, SENDERS * EACH - 1), "it has received more")  # type: ignore[misc]
        if not handle.done():
            kill_coordinator(engine, "collector")
            epochs.add(engine.record("collector").epoch)
    items = handle.result(timeout=120)
    for sender in senders:
        sender.communicate(timeout=60)
        assert sender.returncode == 0
    by_sender: dict[int, list[int]] = defaultdict(list)
    for sender_number, number in items:
        by_sender[sender_number].append(number)
    assert by_sender == {sender: list(range(EACH)) for sender in range(SENDERS)}
    assert len(epochs) >= KILLS


def test_one_that_is_parked_is_woken_and_receives_what_was_sent(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    handle = engine.start(reviewed, str(ledger), id="doc")
    until_parked(engine, "doc")
    with pytest.raises(CodecError, match="waits for a signal 'review' with a tests\\.control\\.flows:Verdict"):
        handle.signal("review", {"ok": True})
    assert engine.record("doc").owner == ""
    handle.signal("review", Verdict(ok=True, by="ada"))
    assert handle.result(timeout=60) == "ada"
    assert ledger_lines(ledger) == [["before"], ["after", "ada"]]
    with pytest.raises(InvalidTransition):
        handle.signal("review", Verdict(ok=True, by="too late"))


def test_a_coordinator_that_dies_with_a_signal_in_its_hands(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    handle = engine.start(reviewed, str(ledger), id="doc")
    until(lambda: handle.status().waiting_for, "it waits")
    handle.signal("review", Verdict(ok=True, by="ada"), key="once")
    kill_coordinator(engine, "doc")
    handle.signal("review", Verdict(ok=True, by="ada"), key="once")
    assert handle.result(timeout=60) == "ada"
    assert [line for line in ledger_lines(ledger) if line[0] == "before"] == [["before"]]


def test_executions_send_signals_to_each_other(engine: rf.DistributedEngine) -> None:
    collector = engine.start(collecting, 1, id="collector")
    asker = engine.start(asking, "collector", id="asker")
    assert collector.result(timeout=60) == [[0, 0]]
    engine.signal("asker", "answer", 42)
    assert asker.result(timeout=60) == 42
    with pytest.raises(rf.ExecutionFailed, match="there is no execution"):
        engine.execute(asking, "nobody", timeout=60)
