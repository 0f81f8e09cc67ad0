"""Parents, children, locks, signals, forks, schedules: whoever dies, is cancelled, resumed or deleted meanwhile.

See :mod:`tests.properties.across_world` for what is real here, and :mod:`tests.properties.across_watch` for what must
hold after every commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import rayflow as rf
from rayflow.client.backend import Backend
from rayflow.client.control import ExecutionCommands
from rayflow.definition.schedule import Overlap
from rayflow.errors import InvalidTransition, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors.base import ActorSystem
from rayflow.runtime.code.environment import Environment
from rayflow.storage.codec.payloads import LargeValueEncoder
from rayflow.storage.model import ExecutionRecord, ScheduleRecord
from rayflow.storage.operations import Answer, Done, Operation, Rejected
from tests.properties import across_flows as flows
from tests.properties.across_world import CODEC, Crash, NoCode, World, tried

FAILED = ExecutionStatus.FAILED
OVER = tuple(status for status in ExecutionStatus if status.terminal)
UNFINISHED = tuple(status for status in ExecutionStatus if not status.terminal)
OVERLAPS: tuple[Overlap, ...] = ("skip", "queue_one", "allow", "cancel_running")

#: More executions than that are not started by hand.
MOST = 25

#: A few ids, so that one that was deleted begins anew.
IDS = ("p", "q", "r", "s")
NUMBERS = st.integers(1, 4)
CRASHES: st.SearchStrategy[Crash] = st.sampled_from([None, None, None, None, None, None, "before", "after"])

STARTS: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    st.tuples(st.sampled_from([flows.family, flows.thorough, flows.dynasty, flows.keeping, flows.saga]), NUMBERS),
    st.tuples(st.sampled_from([flows.clumsy, flows.undoing, flows.nested, flows.crossing, flows.bench]), NUMBERS),
    st.tuples(st.sampled_from([flows.sharing, flows.fleeting]), NUMBERS),
    st.tuples(st.sampled_from([flows.looping, flows.hasty]), NUMBERS, st.integers(1, 3)),
    st.tuples(st.just(flows.chatting), NUMBERS, st.sampled_from([*IDS, "nobody"])),
)


class Racing(Backend):
    """A backend that has not written yet what was decided."""

    def __init__(self, system: ActorSystem) -> None:
        super().__init__(system)
        self.operations: list[Operation] = []

    def apply(self, operations: Sequence[Operation]) -> list[Answer]:
        self.operations.extend(operations)
        return [Done(0, 0, 0) for _ in operations]


class Families(RuleBasedStateMachine):
    """Executions that need each other are driven, fail, die, are cancelled, resumed and deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.hand = self.world.hand

    def teardown(self) -> None:
        self.world.close()

    def any_of(self, data: st.DataObject, status: Sequence[ExecutionStatus]) -> ExecutionRecord:
        """An execution in one of these statuses."""
        names = self.world.records(lambda record: record.status in status)
        return self.world.data.executions[data.draw(st.sampled_from(names))]

    def has(self, *status: ExecutionStatus) -> bool:
        return bool(self.world.records(lambda record: record.status in status))

    # --- going on ------------------------------------------------------------------------------------------
    @initialize(first=STARTS, second=STARTS)
    def begin(self, first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
        self.world.start(*first, name="p")
        self.world.start(*second, name="q")

    @precondition(lambda self: len(self.world.data.executions) < MOST)
    @rule(name=st.sampled_from(IDS), asked=STARTS, delay=st.sampled_from([0, 0, 0, 4]))
    def start(self, name: str, asked: tuple[Any, ...], delay: float) -> None:
        self.world.start(*asked, name=name, delay=delay)

    @precondition(lambda self: self.world.wanting())
    @rule(data=st.data(), crash=CRASHES, hello=st.booleans())
    def one_goes_on(self, data: st.DataObject, crash: Crash, *, hello: bool) -> None:
        """And perhaps somebody says hello meanwhile, or its coordinator dies."""
        name = data.draw(st.sampled_from(self.world.wanting()))
        self.world.drive([name], crash, meanwhile=lambda: self.hand.signal(name, "hello", 1) if hello else None)

    @precondition(lambda self: self.world.wanting())
    @rule(data=st.data(), crash=CRASHES)
    def some_go_on_together(self, data: st.DataObject, crash: Crash) -> None:
        """In one transaction."""
        names = st.lists(st.sampled_from(self.world.wanting()), min_size=1, max_size=4, unique=True)
        self.world.drive(data.draw(names), crash)

    @precondition(lambda self: self.world.wanting())
    @rule(rounds=st.integers(1, 4), seconds=st.sampled_from([0, 0, 0, 6]))
    def all_go_on(self, rounds: int, seconds: float) -> None:
        self.world.clock.time += seconds
        for _ in range(rounds):
            self.world.drive_all()

    @precondition(lambda self: self.world.wanting())
    @rule(rounds=st.integers(1, 4))
    def all_goes_well_for_a_while(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.answer_all()
            self.world.drive_all()

    @precondition(lambda self: self.world.attempts)
    @rule(data=st.data())
    def a_step_succeeds(self, data: st.DataObject) -> None:
        self.world.answer(data.draw(st.sampled_from(list(self.world.attempts))))

    @precondition(lambda self: self.world.attempts)
    @rule(data=st.data(), crash=CRASHES, rounds=st.sampled_from([0, 3]))
    def a_step_fails(self, data: st.DataObject, crash: Crash, rounds: int) -> None:
        """And perhaps whoever depends on it hears of it."""
        key = data.draw(st.sampled_from(list(self.world.attempts)))
        self.world.answer(key, fails=True)
        self.world.drive([key[0]], crash)
        for _ in range(rounds):
            self.world.drive_all()

    @precondition(lambda self: self.world.drivers)
    @rule(data=st.data(), late=st.booleans())
    def a_coordinator_dies(self, data: st.DataObject, *, late: bool) -> None:
        """Or it only seems so: what it commits later, under its old epoch, is refused, and asks nothing."""
        driver = self.world.drivers[data.draw(st.sampled_from(list(self.world.drivers)))]
        if not late:
            self.world.drop(driver)
            return
        operations = self.world.overtake(driver)
        before = self.world.photograph()
        answers = self.world.commit(operations)
        assert all(isinstance(answer, Rejected) and isinstance(answer.error, WriterFenced) for answer in answers)
        assert self.world.photograph() == before

    # --- persons -------------------------------------------------------------------------------------------
    @precondition(lambda self: self.has(*UNFINISHED))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.hand.cancel(self.any_of(data, UNFINISHED).id)

    @precondition(lambda self: self.has(FAILED))
    @rule(data=st.data(), letter=st.booleans())
    def resume(self, data: st.DataObject, *, letter: bool) -> None:
        """A failed one goes on, with the children that failed or that it gave up; if what they did is not undone."""
        name = self.any_of(data, [FAILED]).id
        steps = [step for whose, step in self.world.data.letters if whose == name]
        epochs = {record.id: record.epoch for record in self.world.data.executions.values()}
        if letter and steps:
            error = tried(lambda: self.hand.dead_letters.requeue(name, steps[-1]))
        else:
            error = tried(lambda: self.hand.resume(name))
        assert error is None or isinstance(error, InvalidTransition), error
        for other in self.world.records(lambda record: record.epoch != epochs[record.id]):
            assert name in self.world.ancestry(other), f"{other} is a stranger"

    @precondition(lambda self: self.has(*OVER))
    @rule(data=st.data(), which=st.sampled_from(["some", "children", "parents"]))
    def retention(self, data: st.DataObject, which: str) -> None:
        names = self.world.records(lambda record: record.status in OVER)
        if which == "some":
            names = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        else:
            names = [name for name in names if bool(self.world.data.executions[name].parent) == (which == "children")]
        self.world.delete(names)

    # --- what must hold ------------------------------------------------------------------------------------
    @precondition(lambda self: len(self.world.records(lambda record: not record.status.terminal)) > 4)
    @rule()
    def everything_goes_well_from_here_on(self) -> None:
        """Then all of it ends."""
        for name in self.world.data.schedules:
            self.hand.schedules.resume(name)
        self.world.settle()

    @invariant()
    def what_code_believes_to_have_it_has(self) -> None:
        for driver in self.world.drivers.values():
            self.world.watch.believes(driver)


class Across(Families):
    """The same among forks and schedules, under a clock that jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.schedules = 0
        self.read: list[ScheduleRecord] = []

    @precondition(lambda self: self.has(FAILED))
    @rule(data=st.data())
    def two_resume_at_once(self, data: st.DataObject) -> None:
        """Both have read the same journal: one of them goes through."""
        found, written = self.any_of(data, [FAILED]), []
        for _ in range(2):
            racing = Racing(self.world.system)
            encoder = LargeValueEncoder(CODEC, lambda reference, data: None)
            commands = ExecutionCommands(racing, CODEC, encoder, NoCode(Environment(), racing))
            if tried(lambda commands=commands: commands._rewind(found)):  # type: ignore[misc]
                return
            assert racing.operations
            written.append(racing.operations)
            self.world.clock.time += 0.25
        first, second = [self.world.commit(operations) for operations in written]
        assert all(isinstance(answer, Done) for answer in first)
        assert isinstance(second[-1], Rejected)
        assert isinstance(second[-1].error, WriterFenced)

    @precondition(lambda self: 0 < len(self.world.data.executions) < MOST)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        name = self.any_of(data, list(ExecutionStatus)).id
        if issued := self.world.watch.issued(name):
            before, fork = data.draw(st.integers(1, issued)), f"fork{self.world.number()}"
            self.hand.fork(name, before=before, id=fork, allow_reacquire=True)

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0, 30.0, -1.0, -10.0]))
    def the_clock_goes_on_or_back(self, seconds: float) -> None:
        self.world.clock.time += seconds

    @rule(seconds=st.sampled_from([0.0, 3.0, 9.0]), late=st.booleans())
    def a_timekeeper_looks(self, seconds: float, *, late: bool) -> None:
        """Perhaps one that read the schedules when another one did, and comes too late."""
        self.world.clock.time += seconds
        if not late:
            self.read = self.world.ask("schedules")
        self.world.look(schedules=self.read)

    @precondition(lambda self: self.schedules < 2)
    @rule(overlap=st.sampled_from(OVERLAPS), flow=st.sampled_from([flows.leaf, flows.family]))
    def schedule(self, overlap: Overlap, flow: Any) -> None:
        self.schedules += 1
        spec = rf.Schedule(every=4, overlap=overlap, max_runs=3)
        self.hand.schedules.create(f"s{self.schedules}", flow.call(self.schedules), spec)

    @precondition(lambda self: self.world.data.schedules)
    @rule(data=st.data(), what=st.sampled_from(["pause", "resume", "delete", None]))
    def change_a_schedule(self, data: st.DataObject, what: str | None) -> None:
        name = data.draw(st.sampled_from(list(self.world.data.schedules)))
        self.world.trigger(name) if what is None else getattr(self.hand.schedules, what)(name)


TestFamilies: Any = Families.TestCase
TestFamilies.settings = settings(max_examples=60, stateful_step_count=50)
TestAcross: Any = Across.TestCase
TestAcross.settings = settings(max_examples=40, stateful_step_count=50)
