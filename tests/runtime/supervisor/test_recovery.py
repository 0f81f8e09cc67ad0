"""The supervisor's recovery over a real store: what it takes up, what it sets aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from rayflow.core.cluster.recovery import CRASH_LOOP, MAX_TAKEOVERS, TAKEOVERS_BEFORE_ISOLATION
from rayflow.errors import Failure, StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors.clock import SystemClock
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.supervisor import recovery as recovering
from rayflow.runtime.supervisor.actor_specs import persistence_spec
from rayflow.runtime.supervisor.recovery import Quarantine, RecoveryLoop
from rayflow.storage.codec.journal import decode_entry, decode_failure
from rayflow.storage.model import ExecutionRecord
from tests.contract.operations import NOW, claim, start
from tests.runtime.actors.actors import threads


class Clock(SystemClock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.moment = NOW

    def now(self) -> float:
        return self.moment


class Bench:
    """A recovery, a store, and who was submitted."""

    def __init__(self, ask: Any) -> None:
        self._store = ask
        self.clock = Clock()
        self.turns = Mailbox("test", lambda: None, lambda: None, clock=self.clock)
        self.submitted: list[tuple[str, bool]] = []
        self.driven: set[str] = set()
        self.broken = 0
        self.asides = Quarantine(self.turns, self.ask)
        self.recovering = RecoveryLoop(self.turns, self.ask, lambda: self.driven, self._submit, self.asides.put)

    def _submit(self, records: Sequence[ExecutionRecord], *, suspect: bool = False) -> None:
        self.submitted.extend((record.id, suspect) for record in records)

    def ask(self, method: str, *args: Any) -> Any:
        if self.broken:
            self.broken -= 1
            raise StorageUnavailable("the store is away")
        return self._store(method, *args)

    def told(self) -> list[tuple[str, bool]]:
        told, self.submitted = self.submitted, []
        return told

    def pass_time(self, seconds: float) -> None:
        """Have done what is due by then."""
        self.clock.moment += seconds
        self.turns._end_turn()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with threads() as system:
        store = system.spawn(persistence_spec("memory://"))
        store.call("ready")
        yield Bench(store.call)


def test_what_was_found_at_the_beginning_is_told_to_who_asks_first(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one"), start("two"), start("later", runnable_at=NOW + 60)])
    bench.recovering.begin()
    assert sorted(bench.told()) == [("one", False), ("two", False)]
    bench.driven = {"one", "two"}
    assert bench.recovering.recover(["two"]) == ["two"]
    assert bench.recovering.recover() == []
    assert bench.told() == []


def test_one_whose_coordinators_die_again_and_again_is_set_aside_with_the_reason(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one"), start("other"), claim("other")])
    for _ in range(MAX_TAKEOVERS):
        bench.recovering.lost("coordinator", ["one"])
    alone = [suspect for _, suspect in bench.told()]
    assert alone == [number + 1 >= TAKEOVERS_BEFORE_ISOLATION for number in range(MAX_TAKEOVERS)]
    bench.recovering.lost("coordinator", ["one", "other"])
    assert bench.told() == [("other", False)], "it runs no more; others do"
    record = bench.ask("execution", "one")
    assert (record.status, record.owner, record.runnable_at, record.epoch) == (ExecutionStatus.PAUSED, "", None, 2)
    failure = decode_failure(record.failure, execution_id="one")
    assert failure.type == CRASH_LOOP
    [row] = bench.ask("journal", "one")
    assert decode_entry("one", row.seq, row.body).event.reason == failure.message  # type: ignore[union-attr]
    assert f"died {MAX_TAKEOVERS + 1} times in a row" in failure.message
    assert "one" not in bench.recovering.takeovers.counts()


def test_one_that_somebody_else_has_meanwhile_is_left_to_it(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one")])
    record = bench.ask("execution", "one")
    bench.ask("start", [claim("one", expected=1, nonce="another")])
    bench.asides.put(record, Failure(type=CRASH_LOOP, message="it died"))
    assert bench.ask("execution", "one").status is ExecutionStatus.PENDING


def test_a_store_that_is_away_is_asked_again(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one")])
    bench.broken = 2
    bench.recovering.lost("coordinator", ["one"])
    assert bench.told() == []
    bench.pass_time(recovering.AGAIN)
    assert bench.told() == []
    bench.pass_time(recovering.AGAIN)
    assert bench.told() == [("one", False)]
    bench.broken = 1
    bench.recovering.submit_again(["one"])
    bench.pass_time(recovering.AGAIN)
    assert bench.told() == [("one", False)]


def test_what_was_lost_sight_of_is_found_by_the_look_from_time_to_time(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one")])
    bench.clock.moment += 2 * recovering.LOOK
    bench.recovering.look()
    assert bench.told() == [], "nobody has asked for anything to be recovered here"
    bench.recovering.recover([])
    bench.recovering.look()
    assert bench.told() == [], "nor for everything"
    bench.driven = {"one"}
    bench.recovering.recover()
    bench.driven = set()
    bench.recovering.look()
    assert bench.told() == [("one", False)]
    bench.recovering.look()
    assert bench.told() == [], "not so soon again"
    bench.clock.moment += recovering.LOOK
    bench.recovering.look()
    assert bench.told() == [("one", False)]


def test_what_is_overdue_is_taken_up_unless_somebody_has_it(bench: Bench) -> None:
    bench.ask("start", [start("one", deadline=NOW + 1), start("two", deadline=NOW + 1), claim("two"), start("three")])
    bench.driven = {"two", "three"}
    bench.clock.moment += 10
    found = {(one.execution_id, one.kind) for one in bench.recovering.overdue(5.0)}
    assert found == {("one", "deadline"), ("two", "deadline"), ("three", "wake")}
    assert bench.told() == [("one", False)]


def test_progress_is_asked_of_the_store(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one")])
    bench.recovering.lost("coordinator", ["one"])
    assert not bench.recovering.made_progress(["one"])
    assert bench.recovering.made_progress(["never-was"])
    bench.recovering.forget(["one"])
    assert bench.recovering.made_progress(["one"])
