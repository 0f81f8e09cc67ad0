"""What is over is deleted when its time is up, and nothing that goes on, or may go on, ever misses it.

The world is that of :mod:`tests.properties.test_across`: parents, children, locks, forks and schedules, whoever dies,
is cancelled or resumed meanwhile. Here much of what ends is kept for a while only, and the real collector deletes it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

import rayflow as rf
from rayflow.ids import ExecutionStatus
from rayflow.runtime.supervisor.maintenance import RetentionSweeper
from rayflow.storage.model import ExecutionRecord
from tests.properties import across_flows as flows
from tests.properties.test_across import FAILED, IDS, MOST, NUMBERS, OVER, STARTS, Across

#: Some of what fails is kept longer than what completes, some shorter.
KEPT = st.builds(
    rf.Retention,
    completed=st.sampled_from([None, 1.0, 10.0]),
    failed=st.sampled_from([None, 1.0, 10.0]),
    cancelled=st.sampled_from([None, 1.0]),
)


#: What most others have as children: they are kept for a moment only, where nothing else is said of the execution.
CHILDREN = (flows.leaf, flows.free, flows.stubborn)

#: What has such children, and is kept for ever where nothing else is said.
PARENTS = (flows.family, flows.thorough, flows.clumsy, flows.undoing, flows.dynasty)


class Keeping(Across):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        for flow in CHILDREN:
            flow.retention = rf.Retention(completed=1, failed=1, cancelled=1)
        self.collector = RetentionSweeper(self.world.ask)
        self.lives: dict[str, ExecutionRecord] = {}

    @precondition(lambda self: len(self.world.data.executions) < MOST)
    @rule(name=st.sampled_from(IDS), asked=STARTS, kept=KEPT)
    def start_one_to_be_kept_for_a_while(self, name: str, asked: tuple[Any, ...], kept: rf.Retention) -> None:
        self.world.start(*asked, name=name, retention=kept)

    @precondition(lambda self: len(self.world.data.executions) < MOST)
    @rule(data=st.data(), flow=st.sampled_from(PARENTS), number=NUMBERS, rounds=st.integers(1, 3))
    def a_family_breaks(self, data: st.DataObject, flow: Any, number: int, rounds: int) -> None:
        """Some of it has completed when a step of it fails, and all hear of that."""
        name = f"family{self.world.number()}"
        self.world.start(flow, number, name=name)
        for last in [False] * rounds + [True]:
            self.world.drive_all()
            mine = [key for key in self.world.attempts if name in self.world.ancestry(key[0])]
            if mine:
                self.world.answer(data.draw(st.sampled_from(mine)), fails=last)
        for _ in range(3):
            self.world.drive_all()

    @precondition(lambda self: self.has(*OVER))
    @rule(seconds=st.sampled_from([0.0, 2.0, 11.0]), at_once=st.booleans())
    def a_collector_looks(self, seconds: float, *, at_once: bool) -> None:
        """It does one piece of its work, or all that there is."""
        self.world.clock.time += seconds
        data, now = self.world.data, self.world.clock.time
        before, totals = dict(data.executions), dict(data.totals)
        left = len(before) + 1
        while at_once and len(data.executions) < left:  # round after round, as once a second
            left = len(data.executions)
            while self.collector.sweep(now):
                pass
        if not at_once:
            self.collector.sweep(now)
        self.world.watch.committed()
        assert data.totals == totals
        gone = [before[name] for name in before.keys() - data.executions.keys()]
        for record in gone:
            assert record.status.terminal
            assert record.expires_at is not None
            assert record.expires_at <= now
        for record in data.executions.values():
            assert before[record.id] is record
            if at_once and record.expires_at is not None and record.expires_at <= now:
                self.still_needed(record)

    def teardown(self) -> None:
        for flow in CHILDREN:
            flow.retention = None
        super().teardown()

    def still_needed(self, record: ExecutionRecord) -> None:
        """Why something is kept beyond its time: the execution that waited for it goes on, or may go on."""
        assert record.parent_step
        parent = self.world.data.executions[record.parent]
        if parent.status is ExecutionStatus.CANCELLED:  # it goes on with its own parent
            self.still_needed(parent)
        else:
            assert not parent.status.terminal or parent.status is FAILED

    def retention(self) -> None:
        """Nobody else deletes anything: see the base."""

    @invariant()
    def no_start_is_made_twice(self) -> None:
        """A child that was deleted would be started anew by whoever asks for it again."""
        born = {record.start_nonce: record for record in self.world.data.executions.values()}
        for nonce, record in born.items():
            known = self.lives.setdefault(nonce, record)
            assert (known.id, known.created_at) == (record.id, record.created_at), f"{record.id} is started anew"

    @invariant()
    def what_is_not_over_has_no_time(self) -> None:
        for record in self.world.data.executions.values():
            assert record.status.terminal or record.expires_at is None

    @precondition(lambda self: self.has(FAILED))
    @rule(data=st.data(), settled=st.booleans())
    def one_is_resumed_after_long(self, data: st.DataObject, *, settled: bool) -> None:
        """With its children, all of which would have been deleted by then if nobody needed them."""
        self.a_collector_looks(11.0, at_once=True)
        if self.has(FAILED):
            self.resume(data, letter=False)
        if settled:
            self.everything_goes_well_from_here_on()


TestKeeping: Any = Keeping.TestCase
TestKeeping.settings = settings(max_examples=25, stateful_step_count=50)


def test_a_failed_child_is_there_when_its_parent_is_resumed_long_after() -> None:
    """The machine's case by hand: without the rule the child would be started anew, and its steps would run again."""
    machine = Keeping()
    world = machine.world
    try:
        world.start(flows.thorough, 1, name="p")
        for _ in range(3):  # until the first child has the lock that both want
            world.drive_all()
        world.answer(next(key for key in world.attempts if key[0] == "p.2"), fails=True)
        for _ in range(8):
            world.answer_all()
            world.drive_all()
        assert {record.status for record in world.data.executions.values() if record.id in ("p", "p.2")} == {FAILED}
        machine.no_start_is_made_twice()
        machine.a_collector_looks(11.0, at_once=True)
        machine.hand.resume("p")
        world.settle()
        machine.no_start_is_made_twice()
        assert world.data.executions["p"].status is ExecutionStatus.COMPLETED
        machine.a_collector_looks(11.0, at_once=True)
        assert list(world.data.executions) == ["p"]
    finally:
        machine.teardown()
