"""The supervisor's recovery over a real store: what it resumes, and what it quarantines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from rayflow.core.cluster.recovery import CRASH_LOOP, MAX_TAKEOVERS, TAKEOVERS_BEFORE_ISOLATION
from rayflow.errors import Failure, StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors.clock import SystemClock
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.supervisor import recovery
from rayflow.runtime.supervisor.actor_specs import store_spec
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
    """A recovery loop, a store, and the submitted executions."""

    def __init__(self, ask: Any) -> None:
        self._store = ask
        self.clock = Clock()
        self.mailbox = Mailbox("test", lambda: None, lambda: None, clock=self.clock)
        self.submitted: list[tuple[str, bool]] = []
        self.driven: set[str] = set()
        self.broken = 0
        self.quarantine = Quarantine(self.mailbox, self.ask)
        self.recovery = RecoveryLoop(self.mailbox, self.ask, lambda: self.driven, self._submit, self.quarantine.put)

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
        """Advance the clock and run what is due."""
        self.clock.moment += seconds
        self.mailbox._end_turn()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with threads() as system:
        store = system.spawn(store_spec("memory://"))
        store.call("ready")
        yield Bench(store.call)


def test_what_was_found_at_the_beginning_is_told_to_who_asks_first(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one"), start("two"), start("later", runnable_at=NOW + 60)])
    bench.recovery.start()
    assert sorted(bench.told()) == [("one", False), ("two", False)]
    bench.driven = {"one", "two"}
    assert bench.recovery.recover(["two"]) == ["two"]
    assert bench.recovery.recover() == []
    assert bench.told() == []


def test_one_whose_coordinators_die_again_and_again_is_set_aside_with_the_reason(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one"), start("other"), claim("other")])
    for _ in range(MAX_TAKEOVERS):
        bench.recovery.lost("coordinator", ["one"])
    alone = [suspect for _, suspect in bench.told()]
    assert alone == [number + 1 >= TAKEOVERS_BEFORE_ISOLATION for number in range(MAX_TAKEOVERS)]
    bench.recovery.lost("coordinator", ["one", "other"])
    assert bench.told() == [("other", False)], "it runs no more; others do"
    record = bench.ask("execution", "one")
    assert (record.status, record.owner, record.runnable_at, record.epoch) == (ExecutionStatus.PAUSED, "", None, 2)
    failure = decode_failure(record.failure, execution_id="one")
    assert failure.type == CRASH_LOOP
    [row] = bench.ask("journal", "one")
    assert decode_entry("one", row.seq, row.body).event.reason == failure.message  # type: ignore[union-attr]
    assert f"died {MAX_TAKEOVERS + 1} times in a row" in failure.message
    assert "one" not in bench.recovery.takeovers.counts()


def test_one_that_somebody_else_has_meanwhile_is_left_to_it(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one")])
    record = bench.ask("execution", "one")
    bench.ask("start", [claim("one", expected=1, nonce="another")])
    bench.quarantine.put(record, Failure(type=CRASH_LOOP, message="it died"))
    assert bench.ask("execution", "one").status is ExecutionStatus.PENDING


def test_a_store_that_is_away_is_asked_again(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one")])
    bench.broken = 2
    bench.recovery.lost("coordinator", ["one"])
    assert bench.told() == []
    bench.pass_time(recovery.RETRY_DELAY)
    assert bench.told() == []
    bench.pass_time(recovery.RETRY_DELAY)
    assert bench.told() == [("one", False)]
    bench.broken = 1
    bench.recovery.submit_again(["one"])
    bench.pass_time(recovery.RETRY_DELAY)
    assert bench.told() == [("one", False)]


def test_what_was_lost_sight_of_is_found_by_the_look_from_time_to_time(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one")])
    bench.clock.moment += 2 * recovery.SWEEP_INTERVAL
    bench.recovery.sweep()
    assert bench.told() == [], "nobody has asked for anything to be recovered here"
    bench.recovery.recover([])
    bench.recovery.sweep()
    assert bench.told() == [], "nor for everything"
    bench.driven = {"one"}
    bench.recovery.recover()
    bench.driven = set()
    bench.recovery.sweep()
    assert bench.told() == [("one", False)]
    bench.recovery.sweep()
    assert bench.told() == [], "not so soon again"
    bench.clock.moment += recovery.SWEEP_INTERVAL
    bench.recovery.sweep()
    assert bench.told() == [("one", False)]


def test_what_is_overdue_is_taken_up_unless_somebody_has_it(bench: Bench) -> None:
    bench.ask("start", [start("one", deadline=NOW + 1), start("two", deadline=NOW + 1), claim("two"), start("three")])
    bench.driven = {"two", "three"}
    bench.clock.moment += 10
    found = {(one.execution_id, one.kind) for one in bench.recovery.overdue(5.0)}
    assert found == {("one", "deadline"), ("two", "deadline"), ("three", "wake")}
    assert bench.told() == [("one", False)]


def test_progress_is_asked_of_the_store(bench: Bench) -> None:
    bench.ask("start", [start("one"), claim("one")])
    bench.recovery.lost("coordinator", ["one"])
    assert not bench.recovery.made_progress(["one"])
    assert bench.recovery.made_progress(["never-was"])
    bench.recovery.forget(["one"])
    assert bench.recovery.made_progress(["one"])
