"""Slots against a plain model: each task goes out once, in order of priority, and the pool is told everything."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rayflow.core.pool.protocol import Grant, Limit, ray_task_environment
from rayflow.core.pool.slots import IDLE_KEEP, Key, Report, SendBatch, Slots
from rayflow.core.pool.wait_queue import BATCH_SECONDS, BATCH_TASKS, Kind

KEY, RATE = Limit("key", 1), Limit("rate", 2, 1.0)

KINDS: list[Kind] = [
    ("env", False, ()),
    ("env", True, ()),
    ("other", False, ()),
    (ray_task_environment("env"), False, ()),
    ("env", False, (KEY,)),
    ("env", False, (RATE,)),
    ("env", True, (KEY, RATE)),
    ("other", False, (RATE,)),
]


def is_rated(kind: Kind) -> bool:
    return RATE in kind[2]


def is_single(kind: Kind) -> bool:
    environment, exclusive, limits = kind
    return exclusive or bool(limits) or environment == ray_task_environment("env")


@dataclass(frozen=True)
class Wanted:
    """A task that waits, as the model knows it."""

    kind: Kind
    priority: int
    step: str
    since: float


class SlotsModel(RuleBasedStateMachine):
    """Tasks, slots and a pool that grants, recalls, voids, repeats itself, restarts and is not always reached."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots()
        self.slots.accept_epoch(1)
        self.epoch = 1
        self.now = 0.0
        self.made = 0
        self.wanted: dict[Key, Wanted] = {}
        self.withdrawn: set[Key] = set()
        self.sent: Counter[Key] = Counter()
        #: By number, those of the present epoch; the kind of each slot that is held; which are idle since when.
        self.grants: dict[int, Grant] = {}
        self.held: dict[str, Kind] = {}
        self.idle: dict[str, float] = {}
        self.recalled: set[str] = set()
        #: Rated leases: those that may still begin, what is to be told, what was in no report, what arrived.
        self.unbegun: set[str] = set()
        self.begun: dict[str, float] = {}
        self.news: set[str] = set()
        self.dealt_with: set[str] = set()
        #: What the pool was told last, as far as is known, and the report that is under way to it.
        self.told: object = None
        self.asking: Report | None = None
        self.expected = {"known": 0.002, "tiny": 0.0}
        for step, seconds in self.expected.items():
            self.slots.observe(step, seconds)

    # --- what happens ------------------------------------------------------------------------------------------
    @rule(step=st.sampled_from(["known", "tiny", "unknown"]), priority=st.integers(0, 2), kind=st.sampled_from(KINDS))
    def want(self, *, step: str, priority: int, kind: Kind) -> None:
        self.made += 1
        self.want_it(("e", self.made, 1), step, priority, kind)

    @precondition(lambda self: self.wanted)
    @rule(data=st.data(), priority=st.integers(0, 2), kind=st.sampled_from(KINDS))
    def want_anew(self, *, data: st.DataObject, priority: int, kind: Kind) -> None:
        self.want_it(data.draw(st.sampled_from(sorted(self.wanted))), "known", priority, kind)

    def want_it(self, key: Key, step: str, priority: int, kind: Kind) -> None:
        environment, exclusive, limits = kind
        self.slots.enqueue(
            key, step, environment=environment, priority=priority, exclusive=exclusive, limits=limits, now=self.now
        )
        self.wanted.pop(key, None)
        self.wanted[key] = Wanted(kind, priority, step, self.now)

    @rule(which=st.integers(0, 50))
    def withdraw(self, which: int) -> None:
        key = ("e", which, 1)
        waited = self.wanted.pop(key, None) is not None
        assert self.slots.withdraw(key) == waited
        self.withdrawn |= {key} if waited else set()

    @rule(kind=st.sampled_from(KINDS), start_within=st.sampled_from([None, 2.0]))
    def grant(self, *, kind: Kind, start_within: float | None) -> None:
        environment, exclusive, limits = kind
        number = len(self.grants) + 1
        token = f"{self.epoch}.{number}"
        start_by = None if start_within is None else self.now + start_within
        grant = Grant("c", number, token, f"w{number}", environment, 5, exclusive, limits, start_by)
        self.slots.granted(grant, self.now)
        self.grants[number] = grant
        self.held[token] = kind
        self.idle[token] = self.now
        if is_rated(kind):
            self.unbegun.add(token)

    @precondition(lambda self: self.grants)
    @rule(data=st.data())
    def pool_repeats_itself(self, data: st.DataObject) -> None:
        self.slots.granted(self.grants[data.draw(st.integers(1, len(self.grants)))], self.now)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def pool_wants_a_slot_back(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.held)))
        if data.draw(st.booleans()):
            self.slots.recalled(token)
            self.recalled.add(token)
        else:
            self.slots.revoked(token)
            self.gone(token)

    @rule()
    def pool_restarts(self) -> None:
        self.epoch += 1
        assert self.slots.accept_epoch(self.epoch)
        assert not self.slots.accept_epoch(self.epoch - 1)
        self.grants.clear()
        self.unbegun.clear()
        self.begun.clear()
        self.news.clear()
        self.dealt_with.clear()
        self.told = None

    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.01, 1.0]))
    def time_passes(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        for token in sorted(self.held.keys() - self.idle.keys()):
            if data.draw(st.booleans()):
                self.slots.done(token, self.now)
                if self.held[token][2]:
                    del self.held[token]
                else:
                    self.idle[token] = self.now

    @precondition(lambda self: self.unbegun - self.idle.keys())
    @rule(data=st.data(), never=st.booleans())
    def a_begin_becomes_known(self, *, data: st.DataObject, never: bool) -> None:
        self.it_began(data.draw(st.sampled_from(sorted(self.unbegun - self.idle.keys()))), 0.0 if never else self.now)

    @rule(data=st.data())
    def a_begin_means_nothing(self, data: st.DataObject) -> None:
        tokens = {grant.token for grant in self.grants.values()} | self.held.keys() | {"0.1"}
        for token in sorted(tokens - self.unbegun):
            if data.draw(st.booleans()):
                self.slots.began(token, self.now)

    def it_began(self, token: str, at: float) -> None:
        self.slots.began(token, at)
        self.note_begin(token, at)

    def note_begin(self, token: str, at: float) -> None:
        self.unbegun.remove(token)
        self.begun[token] = at
        self.news.add(token)

    def gone(self, token: str) -> None:
        del self.held[token]
        if self.idle.pop(token, None) is not None and token in self.unbegun:
            self.note_begin(token, 0.0)

    # --- what goes out -----------------------------------------------------------------------------------------
    @rule()
    def plan(self) -> None:
        for send in self.slots.plan(self.now):
            assert send.token in self.idle
            assert send.token not in self.recalled
            del self.idle[send.token]
            self.check_batch(send)
        waiting = {task.kind for task in self.wanted.values()}
        for token, since in list(self.idle.items()):
            kind = self.held[token]
            assert token in self.recalled or kind not in waiting, "a task waits beside an idle slot"
            if token in self.recalled or kind[2] or self.now >= since + IDLE_KEEP:
                self.gone(token)

    def check_batch(self, send: SendBatch) -> None:
        kind = self.held[send.token]
        environment, exclusive, limits = kind
        assert (send.environment, send.exclusive, send.limited, send.rated) == (
            environment,
            exclusive,
            bool(limits),
            is_rated(kind),
        )
        started = [grant.start_by for grant in self.grants.values() if grant.token == send.token]
        assert started in ([], [send.start_by])  # none for a lease of an earlier epoch
        assert 1 <= len(send.keys) <= (1 if is_single(kind) else BATCH_TASKS)
        known = [self.expected.get(self.wanted[key].step, BATCH_SECONDS) for key in send.keys]
        assert len(known) == 1 or sum(known) <= BATCH_SECONDS + 1e-9
        for key in send.keys:
            task = self.wanted[key]
            assert task.kind == kind
            same = {other: wanted for other, wanted in self.wanted.items() if wanted.kind == kind}
            assert all(wanted.priority <= task.priority for wanted in same.values()), "somebody more important waits"
            line = [other for other, wanted in same.items() if wanted.priority == task.priority]
            assert line[0] == key, "somebody older waits"
            del self.wanted[key]
            self.sent[key] += 1
            assert self.sent[key] == 1

    # --- what the pool is told ---------------------------------------------------------------------------------
    def state(self) -> Report:
        """What it would tell the pool now, without telling it."""
        return copy.deepcopy(self.slots).full_report()

    @precondition(lambda self: self.asking is None)
    @rule()
    def ask(self) -> None:
        state = self.state()
        says = (state.demand, state.holding, state.seen)
        report = self.slots.report()
        assert (report is None) == (self.told == says and not self.news)
        if report is not None:
            assert report == state
            self.told, self.asking = says, report
            self.news.clear()

    @precondition(lambda self: self.asking is not None)
    @rule(lost=st.booleans())
    def answer(self, *, lost: bool) -> None:
        assert self.asking is not None
        if lost:
            self.slots.report_lost()
            self.told = None
        else:
            self.slots.report_received(self.asking)
            for token in self.asking.begun.keys() & self.begun.keys():
                del self.begun[token]
                self.dealt_with.add(token)
        self.asking = None

    @invariant()
    def tells_what_it_holds(self) -> None:
        report = self.state()
        assert (report.epoch, report.seen) == (self.epoch, len(self.grants))
        assert report.holding.keys() == self.held.keys()
        assert self.slots.holding == len(self.held)

    @invariant()
    def tells_each_begin_until_it_was_told(self) -> None:
        assert self.state().begun == self.begun
        rated = {grant.token for grant in self.grants.values() if RATE in grant.limits}
        assert rated == self.unbegun | self.begun.keys() | self.dealt_with

    @invariant()
    def tells_what_it_wants(self) -> None:
        demand = self.state().demand
        groups: dict[tuple[Kind, int], list[Wanted]] = {}
        for task in self.wanted.values():
            groups.setdefault((task.kind, task.priority), []).append(task)
        assert {
            ((d.environment, d.exclusive, d.limits), d.priority): (d.count, d.tasks, d.waiting_since) for d in demand
        } == {
            at: (self.slots_for(tasks), len(tasks), min(task.since for task in tasks)) for at, tasks in groups.items()
        }
        assert len(demand) == len(groups)
        ranks = [(-entry.priority, entry.waiting_since) for entry in demand]
        assert ranks == sorted(ranks)
        assert self.slots.queued == len(self.wanted)
        assert self.slots.has_waiting == bool(self.wanted)

    def slots_for(self, tasks: list[Wanted]) -> int:
        if is_single(tasks[0].kind):
            return len(tasks)
        milliseconds = sum(round(self.expected.get(task.step, BATCH_SECONDS) * 1000) for task in tasks)
        return max(1, min(len(tasks), max(-(-milliseconds // 10), -(-len(tasks) // BATCH_TASKS))))

    def teardown(self) -> None:
        """In the end all tasks were sent or withdrawn, and the pool knows of all begins."""
        while self.wanted:
            self.grant(kind=next(iter(self.wanted.values())).kind, start_within=None)
            self.plan()
        assert self.sent.keys() | self.withdrawn >= {("e", number, 1) for number in range(1, self.made + 1)}
        assert not self.sent.keys() & self.withdrawn
        self.plan()
        for token in sorted(self.unbegun):
            self.it_began(token, self.now)
        for _ in range(2):  # one answer may still be under way
            if self.asking is None:
                self.ask()
            if self.asking is not None:
                self.answer(lost=False)
        assert self.state().begun == {}
        self.tells_each_begin_until_it_was_told()


TestSlotsModel: Any = SlotsModel.TestCase
TestSlotsModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
