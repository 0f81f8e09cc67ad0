"""The plan follows from its seed, has everything in it, and its programs come to what a run of them comes to."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

import rayflow as rf
from tests.faults.chaos import expected, flows, plan
from tests.faults.chaos.plan import KINDS, Program
from tests.faults.chaos.settings import Settings


def test_the_same_seed_is_the_same_plan() -> None:
    for seed in (1, 2):
        assert [plan.program(seed, n) for n in range(50)] == [plan.program(seed, n) for n in range(50)]
        first, second = (list(islice(plan.blows(seed, noticed=3.0, node_noticed=7.0), 50)) for _ in range(2))
        assert first == second
    assert [plan.program(1, n) for n in range(50)] != [plan.program(2, n) for n in range(50)]


def test_a_few_programs_are_one_of_each_kind() -> None:
    assert {plan.program(7, number).kind for number in range(10)} == set(flows.WORKFLOWS) == set(plan.MENU)


def test_each_round_of_blows_has_one_of_each_kind() -> None:
    drawn = plan.blows(7, noticed=3.0, node_noticed=7.0)
    rounds = []
    for _ in range(6):
        blows = list(islice(drawn, len(KINDS)))
        assert {blow.kind for blow in blows} == set(KINDS)
        rounds += blows
    stops = [blow.seconds for blow in rounds if blow.how == "stop" and blow.victim != "node"]
    assert any(seconds < 3.0 for seconds in stops)
    assert any(seconds > 3.0 for seconds in stops)
    assert all(blow.seconds == 0 for blow in rounds if blow.how == "kill")
    assert any(blow.seconds > 7.0 for blow in rounds if blow.kind == "stop node")
    assert all(0 < blow.seconds <= plan.LONGEST_TROUBLE for blow in rounds if blow.victim == "store")


def test_a_driver_that_is_told_the_settings_has_the_same_schedules(tmp_path: Path) -> None:
    settings = Settings(str(tmp_path), 7, 1000.0, 1060.0)
    told = Settings.load(str(settings.save()))
    assert told == settings
    dues = told.dues()
    assert dues == settings.dues()
    assert [len(names) for names in dues.values()] == [16, 15]
    assert list(dues["tick-0"])[:2] == ["tick-0@19700101T001705Z", "tick-0@19700101T001707Z"]


@pytest.mark.parametrize("kind", [kind for kind in flows.WORKFLOWS if kind not in {"signals", "rest"}])
def test_a_program_comes_to_what_is_expected_of_it(tmp_path: Path, kind: str) -> None:
    program = Program(0, kind, 7, 6 if kind == "fork" else 3, "l")
    with rf.LocalEngine(store="memory://") as engine:
        arguments = expected.arguments(program, str(tmp_path / "ledger"))
        handle = engine.start(flows.WORKFLOWS[kind].options(id=program.id), *arguments)
        found = expected.expected(program)
        if kind == "saga":
            with pytest.raises(rf.ExecutionFailed, match=found[program.id].failure):
                handle.result(timeout=60)
        else:
            assert handle.result(timeout=60) == found[program.id].value
        if kind == "fork":
            engine.fork(program.id, before=program.cut, id=program.fork_id).result(timeout=60)
        for name, one in found.items():
            record = engine.status(name)
            assert (record.workflow_id, record.result) == (one.kind, one.value)
            assert sum(s.kind in {"step", "undo"} and s.status == "completed" for s in record.steps) == one.steps
        assert set(found) == {snapshot.execution_id for snapshot in engine.list()}


def test_signals_come_to_what_is_expected_of_them(tmp_path: Path) -> None:
    program = Program(0, "signals", 7, 2, "l")
    with rf.LocalEngine(store="memory://") as engine:
        handle = engine.start(
            flows.signals.options(id=program.id), *expected.arguments(program, str(tmp_path / "ledger"))
        )
        for number in range(2):
            for sender in range(plan.SENDERS):
                handle.signal("item", [sender, number])
        result = handle.result(timeout=60)
    assert result["value"] == expected.expected(program)[program.id].value
    assert result["items"] == [[sender, number] for number in range(2) for sender in range(plan.SENDERS)]


def test_a_step_takes_a_moment_and_sometimes_longer() -> None:
    times = [plan.pause(7, number) for number in range(200)]
    assert 0 <= min(times) < 0.01
    assert 0.05 <= max(times) < 0.25
