"""Recovery times, repeats and minimums are what the ledger says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.chaos.evidence import Act
from tests.faults.chaos.figures import Minimum, recovery, repeated
from tests.faults.chaos.invariants import verdicts
from tests.faults.chaos.plan import KINDS
from tests.faults.chaos.report import joint, report
from tests.faults.chaos.test_invariants import taken_over
from tests.faults.chaos.worlds import OTHER, WORKER, T, begin, chain, struck, with_lines


def test_from_a_workers_death_until_all_that_it_ran_was_begun_again_elsewhere() -> None:
    evidence = taken_over()
    assert recovery(evidence, struck("kill worker", 2.2)) == pytest.approx(0.8)
    beside = begin("another", 1, 2.1)
    again = begin("another", 1, 3.3, attempt=2, pid=OTHER)
    assert recovery(with_lines(evidence, 3, beside, again), struck("kill worker", 2.2)) == pytest.approx(1.1)
    assert recovery(evidence, struck("kill worker", 3.8)) is None


def test_from_a_workers_stop_until_it_went_on_by_itself_if_nobody_else_did() -> None:
    assert recovery(chain(), struck("stop worker", 1.2, until=T + 1.4)) == pytest.approx(0.3)


def test_from_a_coordinators_death_to_the_first_step_of_its_successor() -> None:
    evidence = taken_over()
    assert recovery(evidence, evidence.struck[0]) == pytest.approx(0.8)


@pytest.mark.parametrize("victim", ["persistence", "pool", "supervisor"])
def test_from_the_death_of_what_all_use_to_the_end_of_the_longest_stand(victim: str) -> None:
    late = begin("another", 1, 9.0)
    evidence = with_lines(chain(), 6, late)
    assert recovery(evidence, struck(f"kill {victim}", 2.9)) == pytest.approx(6.1)
    assert recovery(evidence, struck(f"kill {victim}", 9.5)) is None


def test_from_the_drivers_death_to_its_next_act() -> None:
    evidence = replace(chain(), acts=[Act(T + at, "start", "x") for at in (1.0, 5.0, 6.0)])
    assert recovery(evidence, struck("kill driver", 2.0)) == pytest.approx(3.0)


def test_from_a_nodes_loss_until_what_it_had_went_on_elsewhere() -> None:
    evidence = taken_over()
    there = begin("chain-0000", 2, 2.4)  # what ran there goes on for a moment, and is no recovery
    evidence = with_lines(evidence, 3, there)
    assert recovery(evidence, struck("kill node", 2.2, pid=9, on=(WORKER,))) == pytest.approx(0.8)
    assert recovery(evidence, struck("kill node", 2.2, pid=9, drove={"chain-0000": 1})) == pytest.approx(0.8)
    assert recovery(evidence, struck("kill node", 2.7, pid=9, on=(98,))) is None


def test_repeats_are_counted_by_what_explains_them() -> None:
    assert repeated(taken_over()) == {"kill coordinator": 1}
    assert repeated(replace(taken_over(), struck=[])) == {"(nothing)": 1}


def test_what_a_run_lacks_is_named() -> None:
    done = [struck("kill coordinator", 1.0)], 1, 3
    assert Minimum().lacking(*done) == []
    assert Minimum(blows=3, executions=2, steps=4).lacking(*done) == [
        f"{int(kind == 'kill coordinator')} of 3 times '{kind}'" for kind in KINDS
    ] + ["1 of 2 executions", "3 of 4 steps"]


def test_the_report_says_all_of_it() -> None:
    evidence = taken_over(second=1)
    text = report(evidence, verdicts(evidence), Minimum(blows=1), 7)
    assert text.startswith("seed 7\nok    1 what was accepted ended: 1 executions\n")
    assert "FAIL  4 no fenced answer counts" in text
    assert "executions: 1 (1 completed); steps: 3; lives of the driver: 0" in text
    assert "begun again: 1\n" in text
    assert "too little was done to say anything: 0 of 1 times 'kill worker'" in text
    [row] = [line for line in text.splitlines() if line.startswith("| kill coordinator")]
    assert row.split() == ["|", "kill", "coordinator", "|", "1", "|", "0.80", "|", "0.80", "|", "1", "|"]


def test_several_runs_are_one_table() -> None:
    later = taken_over(second=1)
    text = joint([taken_over(), replace(later, struck=[*later.struck, struck("kill worker", 9.0)])])
    assert text.startswith("2 runs: 2 executions, 6 steps, 2 begun again\n")
    [row] = [line for line in text.splitlines() if line.startswith("| kill coordinator")]
    assert row.split() == ["|", "kill", "coordinator", "|", "2", "|", "0.80", "|", "0.80", "|", "2", "|"]
    [row] = [line for line in text.splitlines() if line.startswith("| kill worker")]
    assert row.split() == ["|", "kill", "worker", "|", "1", "|", "-", "|", "-", "|", "0", "|"]
