"""Child workflows on a cluster."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from tests.control.conftest import kill_coordinator, until_parked
from tests.control.flows import crowd, parent, repaired, together, with_children
from tests.faults.processes.tools import ledger_lines, until, until_longer

pytestmark = pytest.mark.ray


@pytest.mark.system
def test_children_answer_and_their_parents_coordinator_dies_meanwhile(
    engine: rf.DistributedEngine, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    handle = engine.start(parent.options(id="of-60"), str(ledger), 60, 10)
    for _ in range(2):
        until_longer(ledger, len(ledger_lines(ledger)) + 10)
        kill_coordinator(engine, "of-60")
    assert handle.result(timeout=100) == sum(2 * number for number in range(60))
    assert {int(number) for _, number in ledger_lines(ledger)} == set(range(60))
    runs = Counter(number for _, number in ledger_lines(ledger))
    assert sum(runs.values()) <= 60 + 2 * 10  # only what was under way at a kill ran again
    children = handle.status().children
    assert [child.status for child in children] == ["completed"] * 60
    assert len({child.execution_id for child in children}) == 60


@pytest.mark.system
@pytest.mark.timeout(300)
def test_thousands_of_children_of_one_parent(engine: rf.DistributedEngine) -> None:
    handle = engine.start(crowd.options(id="of-2000"), 2_000, 50)
    most = 0
    while not handle.done():
        most = max(most, sum(not child.status.terminal for child in handle.status().children))
    assert handle.result(timeout=1) == sum(range(2_000))
    assert 0 < most <= 50
    assert len(handle.status().children) == 2_000


def test_the_parents_end_cancels_what_it_awaits_and_leaves_what_it_only_started(engine: rf.DistributedEngine) -> None:
    handle = engine.start(with_children.options(id="of-two"), "left")
    until(lambda: len(handle.status().children) == 2, "both children run")
    for name in ("of-two", *(child.execution_id for child in handle.status().children)):
        until_parked(engine, name)
    [awaited] = [child.execution_id for child in handle.status().children if child.execution_id != "left"]
    handle.cancel()
    with pytest.raises(rf.ExecutionCancelled):
        handle.result(timeout=60)
    until(lambda: backend_of(engine).record(awaited).status == "cancelled", "the child is cancelled")
    assert backend_of(engine).record("left").status == "running"
    engine.cancel("left")


def test_resuming_a_parent_whose_child_failed_resumes_the_child(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    handle = engine.start(repaired.options(id="repaired"), str(mended))
    with pytest.raises(rf.ExecutionFailed, match="child workflow 'fragile'"):
        handle.result(timeout=60)
    mended.touch()
    handle.resume()
    assert handle.result(timeout=60) == "mended"
    assert backend_of(engine).record("repaired.1").status == "completed"


def test_what_a_failure_has_cancelled_goes_on_with_its_parent(driven: rf.DistributedEngine, tmp_path: Path) -> None:
    """The coordinators of both are killed as soon as they continue.

    The parent fails only after the child's first step is recorded: a step that is not recorded may run again.
    """
    ledger, fail, mended = tmp_path / "ledger", tmp_path / "fail", tmp_path / "mended"
    handle = driven.start(together.options(id="together"), str(ledger), str(fail), str(mended))
    until(lambda: waits_for_signal(driven, "together.3"), "the child's first step is recorded")
    fail.touch()
    with pytest.raises(rf.ExecutionFailed, match="broken"):
        handle.result(timeout=60)
    until(
        lambda: backend_of(driven).record("bound").status == "cancelled",
        "the child that was only started has ended with it",
    )
    mended.touch()
    handle.resume()
    for name in ("together", "together.3"):
        kill_coordinator(driven, name)
    until(lambda: backend_of(driven).record("bound").status == "running", "it goes on, too")
    driven.signal("together.3", "go")
    assert handle.result(timeout=60) == ["mended", "patient-after"]
    runs = Counter(word for word, *_ in ledger_lines(ledger))
    assert (runs["patient-before"], runs["patient-after"], runs["late"]) == (1, 1, 1)
    until(lambda: backend_of(driven).record("bound").status == "cancelled", "it has ended with it again")


def waits_for_signal(engine: rf.DistributedEngine, execution_id: str) -> bool:
    """Whether an execution exists and is recorded to wait for a signal."""
    try:
        return bool(engine.status(execution_id).waiting_for)
    except rf.ExecutionNotFound:
        return False
