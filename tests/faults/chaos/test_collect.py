"""What the store holds becomes evidence."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest

import rayflow as rf
from tests.faults.chaos import collect, expected, flows, ledger
from tests.faults.chaos.acts import Acts
from tests.faults.chaos.evidence import Act, Evidence, Struck
from tests.faults.chaos.invariants import verdicts
from tests.faults.chaos.ledger import Line, Tail
from tests.faults.chaos.plan import program
from tests.faults.chaos.settings import Settings


def test_a_run_without_blows_leaves_evidence_of_which_all_invariants_hold(tmp_path: Path) -> None:
    # Its schedules end before they begin.
    settings = Settings(str(tmp_path), 7, 1000.0, 1000.0)
    acts = Acts(settings.acts)
    with rf.LocalEngine(store=settings.store) as engine:
        for number in range(2):
            one = program(7, number)
            args = expected.arguments(one, str(settings.ledger))
            engine.start(flows.WORKFLOWS[one.kind].options(id=one.id), *args).result(timeout=60)
            acts.accepted("start", one.id)
    collect.keep(settings, [], [], {"c": 7})
    settings.save()
    found = collect.evidence(Settings.of(tmp_path))
    steps = sum(one.steps for number in range(2) for one in expected.expected(program(7, number)).values())
    assert len(found.attempts) == len(found.lines) / 2 == steps
    assert found.outcomes.keys() == {program(7, 0).id, program(7, 1).id}
    failing = [verdict.name[0] for verdict in verdicts(found) if verdict.problems]
    assert failing == ["1", "7"], "only what the schedules were to start is missing"
    assert isinstance(found, Evidence)
    assert found.callers == {"c": 7}


def test_only_what_was_accepted_is_expected(tmp_path: Path) -> None:
    settings = Settings(str(tmp_path), 7, 1000.0, 1000.0)
    fork = next(p for number in range(10) if (p := program(7, number)).kind == "fork")
    done = [Act(0.0, "start", program(7, number).id) for number in range(fork.number + 1)]
    names = collect.accepted(settings, done).keys()
    assert fork.id in names
    assert fork.fork_id not in names
    assert fork.fork_id in collect.accepted(settings, [*done, Act(0.0, "fork", fork.fork_id)])
    assert program(7, fork.number + 1).id not in names


def test_what_was_due_before_a_schedule_was_accepted_is_early(tmp_path: Path) -> None:
    settings = Settings(str(tmp_path), 7, 1000.0, 1060.0)
    made = [Act(1028.5, "schedule", "tick-0"), Act(1003.0, "schedule", "tick-1")]
    assert collect.early_dues(settings, made) == set(list(settings.dues()["tick-0"])[:2])


def test_a_blow_is_read_with_the_moment_at_which_its_victim_went_on(tmp_path: Path) -> None:
    place = tmp_path / "blows"
    assert collect.struck(place, {}) == []
    blows = [
        Struck(3, "stop node", 1.0, 9.0, 7, "n", {"e": 2}, (8, 9), ("c",)),
        Struck(4, "kill pool", 2.0, 2.0, 5, "p"),
    ]
    for blow in blows:
        ledger.append(place, json.dumps(asdict(blow)))
    ledger.append(place, json.dumps({"number": 3, "went on": 6.0}))
    first, second = collect.struck(place, {"c": 8, "just made": 9, "elsewhere": 5})
    assert (first.until, first.processes, list(first.coordinators)) == (6.0, {7, 8, 9}, ["c", "just made"])
    assert (second.at, second.until, second.pid, second.name) == (2.0, 2.0, 5, "p")


def test_calls_that_ray_was_told_to_fail_are_found_in_its_logs(tmp_path: Path) -> None:
    logs = tmp_path / "ray" / "session_1" / "logs"
    logs.mkdir(parents=True)
    name = "CoreWorkerService.grpc_client.PushTask"
    (logs / "python-core-worker-a_7.log").write_text(
        "[2026-11-26 16:21:49,202 I 7 9] grpc_client.h:147: something else\n"
        f"[2026-11-26 16:21:49,302 I 7 9] grpc_client.h:147: Inject RPC response failure for {name}\n"
        "[2026-11-26 16:21:50,002 I 7 9] grpc_client.h:147: Inject RPC response failure while request in flight for "
        f"{name}\n"
    )
    (logs / "python-core-driver-b_8.log").write_text(
        f"[2026-11-26 16:21:48,202 I 8 9] grpc_client.h:147: Inject RPC request failure for {name}\n"
    )
    at = datetime(2026, 11, 26, 16, 21, 48, 202_000).astimezone().timestamp()
    first, *others = collect.unanswered(tmp_path)
    assert (first.pid, first.how) == (8, "request")
    assert first.at == pytest.approx(at)
    assert [(call.pid, call.how) for call in others] == [(7, "response"), (7, "in flight")]


def test_a_ledger_is_followed_line_by_line(tmp_path: Path) -> None:
    place = tmp_path / "ledger"
    tail = Tail(place)
    assert tail.look() == ledger.read(place) == []
    line = Line(1.0, "begin", "e", 1, "work", 1, 1, "k", 7, "n")
    text = json.dumps(asdict(line))
    ledger.append(place, text)
    with place.open("a") as file:
        file.write(text[:10])  # somebody is writing
    assert tail.look() == [line]
    with place.open("a") as file:
        file.write(text[10:] + "\n")
    assert tail.look() == [line]
    assert tail.lines == ledger.read(place) == [line, line]


def test_acts_are_known_to_the_next_life(tmp_path: Path) -> None:
    acts = Acts(tmp_path / "acts")
    acts.accepted("signal", "e", 1, 2)
    for known in (acts, Acts(tmp_path / "acts")):
        assert known.has("signal", "e", 1, 2)
        assert not known.has("signal", "e", 2, 1)
