"""Slots against a plain model: each task goes out once, in order of priority, and the pool is told everything."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rayflow.core.slots import BATCH_SECONDS, BATCH_TASKS, Key, Send, Slots


def key(number: int) -> Key:
    return ("e", number, 1)


def grant(slots: Slots, number: int, *, alone: bool = False, now: float = 0.0) -> None:
    slots.granted(f"t{number}", f"w{number}", alone=alone, number=number, now=now)


class SlotsModel(RuleBasedStateMachine):
    """Tasks, slots and a pool that grants, recalls, voids and repeats itself, against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots("env")
        self.slots.heard_from(1)
        self.now = 0.0
        self.wanted: dict[Key, tuple[int, bool, str]] = {}
        self.sent: Counter[Key] = Counter()
        self.made = 0
        self.granted = 0
        self.live: dict[str, bool] = {}
        self.busy: set[str] = set()
        self.expected = {"known": 0.002, "tiny": 0.0}
        for step, seconds in self.expected.items():
            self.slots.observe(step, seconds)

    @rule(step=st.sampled_from(["known", "tiny", "unknown"]), priority=st.integers(0, 2), alone=st.booleans())
    def want(self, *, step: str, priority: int, alone: bool) -> None:
        self.made += 1
        self.wanted[key(self.made)] = (priority, alone, step)
        self.slots.want(key(self.made), step, priority=priority, alone=alone, now=self.now)

    @rule(which=st.integers(0, 50))
    def withdraw(self, which: int) -> None:
        assert self.slots.withdraw(key(which)) == (self.wanted.pop(key(which), None) is not None)

    @rule(alone=st.booleans())
    def grant(self, *, alone: bool) -> None:
        self.granted += 1
        grant(self.slots, self.granted, alone=alone, now=self.now)
        self.live[f"t{self.granted}"] = alone

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def pool_says_something(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, self.granted))
        token = f"t{number}"
        what = data.draw(st.sampled_from(["again", "recall", "void"]))
        if what == "again":
            grant(self.slots, number, now=self.now)
        elif what == "recall":
            self.slots.recalled(token)
        else:
            self.slots.void(token)
            self.live.pop(token, None)
            self.busy.discard(token)

    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.01, 1.0]))
    def time_passes(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        for token in sorted(self.busy):
            if data.draw(st.booleans()):
                self.busy.discard(token)
                self.slots.done(token, self.now)

    @rule()
    def plan(self) -> None:
        for send in self.slots.plan(self.now):
            assert send.token in self.live
            assert send.token not in self.busy
            assert send.alone == self.live[send.token]
            self.busy.add(send.token)
            self.check_batch(send)
        held = self.slots.full_report().holding
        assert self.busy <= held.keys() <= self.live.keys()
        self.live = {token: alone for token, alone in self.live.items() if token in held}

    def check_batch(self, send: Send) -> None:
        assert 1 <= len(send.keys) <= (1 if send.alone else BATCH_TASKS)
        known = [self.expected.get(self.wanted[k][2], BATCH_SECONDS) for k in send.keys]
        assert len(known) == 1 or sum(known) <= BATCH_SECONDS + 1e-9
        for sent in send.keys:
            priority, alone, _ = self.wanted.pop(sent)
            self.sent[sent] += 1
            assert self.sent[sent] == 1
            assert alone == send.alone
            same = [(p, k) for k, (p, a, _) in self.wanted.items() if a == alone]
            assert all(p <= priority for p, _ in same), "somebody more important waits"
            assert all(k > sent for p, k in same if p == priority), "somebody older waits"

    @invariant()
    def tells_what_it_wants(self) -> None:
        report = self.slots.full_report()
        assert report.seen == self.granted
        groups: dict[tuple[int, bool], list[str]] = {}
        for priority, alone, step in self.wanted.values():
            groups.setdefault((priority, alone), []).append(step)
        assert {(d.priority, d.alone): d.count for d in report.demand} == {
            at: self.slots_for(steps, alone=at[1]) for at, steps in groups.items()
        }
        assert self.slots.wanting == bool(self.wanted)
        assert self.slots.holding == len(report.holding)

    def slots_for(self, steps: list[str], *, alone: bool) -> int:
        if alone:
            return len(steps)
        milliseconds = sum(round(self.expected.get(step, BATCH_SECONDS) * 1000) for step in steps)
        return max(1, min(len(steps), max(-(-milliseconds // 10), -(-len(steps) // BATCH_TASKS))))


TestSlotsModel: Any = SlotsModel.TestCase
TestSlotsModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
