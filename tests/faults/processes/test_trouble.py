"""Steps that do the worst they can: the failure is readable, the retries are those allowed, the neighbours are well."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayflow as rf
from tests.faults.processes.flows import neighbours, trouble
from tests.faults.processes.tools import ledger_lines

pytestmark = pytest.mark.ray

CASES = {
    "raises": ("tests.faults.processes.flows.OddError", "out of cheese", 2),
    "returns": ("rayflow.errors.CodecError", "lock", 1),
    "oversleeps": ("rayflow.errors.StepTimeout", "0.3 s", 2),
    "oversleeps_async": ("rayflow.errors.StepTimeout", "0.2 s", 2),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_failed_attempt_is_readable_and_harms_nobody(engine: rf.DistributedEngine, tmp_path: Path, kind: str) -> None:
    type_name, words, attempts = CASES[kind]
    beside = engine.start(neighbours, 50)
    handle = engine.start(trouble, kind, str(tmp_path / "ledger"))
    with pytest.raises(rf.ExecutionFailed) as failed:
        handle.result(timeout=60)
    assert f"after {attempts} attempt" in str(failed.value)
    [step] = handle.status().steps
    assert step.error is not None
    assert step.error.type == type_name
    assert words in step.error.message
    assert step.attempts == attempts
    assert beside.result(timeout=60) == sum(range(50))
    assert engine.start(neighbours, 20).result(60) == sum(range(20))


def test_a_step_that_kills_its_worker_runs_alone_in_the_end_and_fails(
    engine: rf.DistributedEngine, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    beside = engine.start(neighbours, 200)
    handle = engine.start(trouble, "exits", str(ledger))
    with pytest.raises(rf.ExecutionFailed, match="died while it ran step 'exits'"):
        handle.result(timeout=90)
    [step] = handle.status().steps
    assert step.error is not None
    assert step.error.type == "rayflow.errors.WorkerDied"
    # Twice in company, under suspicion; then alone, which counts; it was allowed no retry.
    assert len(ledger_lines(ledger)) == 3
    assert beside.result(timeout=60) == sum(range(200))
    assert engine.start(neighbours, 20).result(60) == sum(range(20))
