"""Replay: whatever happens to a machine, the journal alone brings it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hypothesis import Phase, given, settings

from rayflow.core.events import StepCompleted, StepFailed
from tests.properties.programs import Node, programs
from tests.properties.replays import CRASHES, OUTCOMES, PAUSES, Move, cases, digest, play, schedules

ROOT = Path(__file__).parents[2]


@settings(max_examples=150)
@given(programs, schedules(*OUTCOMES, *CRASHES, *PAUSES))
def test_whatever_happens_the_journal_brings_it_back(program: Node, schedule: Sequence[Move]) -> None:
    play(program, schedule)


@settings(max_examples=60)
@given(programs, schedules(*OUTCOMES))
def test_crashing_before_every_event_changes_nothing(program: Node, schedule: Sequence[Move]) -> None:
    assert play(program, schedule, paranoid=True).journal == play(program, schedule).journal


@settings(max_examples=60)
@given(programs, schedules(*OUTCOMES))
def test_a_crash_after_each_prefix_of_the_journal_loses_nothing(program: Node, schedule: Sequence[Move]) -> None:
    shell = play(program, schedule)
    for entries in range(1, len(shell.journal)):
        other = shell.restored(entries=entries)
        assert other.journal[:entries] == shell.journal[:entries]
        answered = {e.event.step for e in shell.journal[:entries] if isinstance(e.event, StepCompleted | StepFailed)}
        assert answered.isdisjoint(other.running)
        other.execution.evict()


def test_a_process_with_another_hash_seed_writes_the_same_journal() -> None:
    drawn: list[tuple[Node, Sequence[Move]]] = []

    @settings(max_examples=120, phases=[Phase.generate])
    @given(cases)
    def draw(case: tuple[Node, Sequence[Move]]) -> None:
        drawn.append(case)

    draw()
    here = [digest(play(program, schedule)) for program, schedule in drawn]
    for seed in ("1", "4242"):
        there = subprocess.run(
            [sys.executable, "-m", "tests.properties.replays"],
            input=json.dumps(drawn),
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for case, mine, theirs in zip(drawn, here, json.loads(there.stdout), strict=True):
            assert mine == theirs, case
