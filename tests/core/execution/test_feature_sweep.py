"""Every feature that workflow code has: stop after each entry of the journal, take up, live on, and nothing differs.

What the workflows use together is what `docs/control.md` names; plain steps and asyncio are in `test_crash_sweep`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import pytest
from pydantic import BaseModel

import rayflow as rf
from rayflow.core.events import Event, Forked, Paused, Resumed, StepCompleted, StepFailed, kind_and_name, label
from rayflow.core.execution.actions import Request, RunAttempt
from rayflow.definition.agent import Agent, AgentResult
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.errors import ChildFailed, Deadlock
from rayflow.errors import StepFailed as StepFailedError
from rayflow.ids import ExecutionStatus
from tests.core.fake import Flow, Shell, failure, stub
from tests.core.outside import LATER, Outside, Run, crash_everywhere, ends_of_attempts

draft, check, publish = stub("draft"), stub("check"), stub("publish")
book, refund, tidy = stub("book"), stub("refund"), stub("tidy")

OPTIONS = ExecutionOptions(retry=RetryPolicy(max_retries=2, initial_delay=10, jitter=0.5))


class Verdict(BaseModel):
    ok: bool
    by: str


@rf.workflow
async def page(number: int) -> int:
    """A child: its code is not run here."""
    return number


#: Payloads of the signals that come, in their order. Of the first kind the first does not fit.
SIGNALS: dict[str, list[Any]] = {
    "review": [{"ok": "perhaps"}, {"ok": True, "by": "ada"}],
    "item": [1, 2, 3, 4],
    "never": [],
}


def answer(asked: Any) -> Any:
    """What comes from outside: by the arguments and the number of the attempt, as anybody would answer."""
    if isinstance(asked, RunAttempt):
        return of_step(asked)
    if isinstance(asked, Request):
        return of_other(asked)
    name, before = asked
    payloads = SIGNALS[name]
    return payloads[before] if before < len(payloads) else LATER


def of_step(run: RunAttempt) -> Any:
    name, first = run.call.name, run.call.args[0]
    if run.call.target.part:
        return failure("busy") if run.seq == 1 else AgentResult("agent", first, output=len(first))
    if name == "draft" and run.attempt == 1:
        return failure("no ink")
    if first == "car" or (first == "van" and run.attempt == 1):
        return failure(f"no {first}s", retryable=False)
    return f"{name} {first}"


def of_other(ask: Request) -> Any:
    kind, name = ask.call.kind, ask.call.name
    if kind == "lock":
        return {"busy": LATER, "crossed": failure("in a circle", cls=Deadlock)}.get(name)
    if kind == "signal":
        return failure("nobody is there", cls=LookupError) if name == "lost" else None
    number = ask.call.args[0]  # type: ignore[union-attr]
    return {13: failure("bad luck"), 99: LATER}.get(number, 10 * number)


# --- the workflows ----------------------------------------------------------------------------------------------
async def article() -> Any:
    """Signals of every kind, both ways, state, and what is random in a workflow."""
    text = await draft(str(rf.uuid4()))
    rf.state["phase"] = "in review"
    verdict = await rf.wait_for_signal("review", type=Verdict, timeout=7 * 86_400)
    with contextlib.suppress(TimeoutError):
        await rf.wait_for_signal("never", timeout=60)
    del rf.state["phase"]
    rf.state["reviewed"] = [verdict.by, rf.now(), rf.random().random()]
    await rf.send_signal("other", "done", rf.state["reviewed"])
    try:
        await rf.send_signal("other", "lost")
    except StepFailedError as error:
        rf.state["lost"] = error.failure.message
    checked = await (check(text) if rf.patched("checks") else publish(text))
    return [checked, await rf.wait_for_signal("item"), dict(rf.state)]


async def household() -> Any:
    """Children: awaited, alone and together, started, abandoned, failed, and given up."""
    first = await page(1)
    started = await rf.start_child(page.options(id="left"), 2)
    together = await asyncio.gather(page(3), page.options(on_parent_end="abandon")(4), check("between"), page(5))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            await page(99)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(page.options(on_parent_end="abandon")(99), 30)
    try:
        await page(13)
    except ChildFailed as error:
        return [first, started, together, error.failure.message, await page(6)]


async def workshop() -> Any:
    """Locks: in turn, in one another, given up, refused, and a semaphore that a group of tasks shares."""
    tokens: list[int] = []

    async def one(number: int) -> Any:
        async with rf.semaphore("bench", 2) as permit:
            tokens.append(permit.token)
            await asyncio.sleep(5 * number)
            return await check(number)

    async with rf.lock("key") as key, rf.lock("book"):
        await draft(key.token)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in range(4)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20), rf.lock("busy"):
            raise AssertionError("it is never granted")
    try:
        async with rf.lock("crossed"):
            raise AssertionError("it is never granted")
    except Deadlock:
        async with rf.lock("key") as key:
            return [[task.result() for task in tasks], tokens, key.token]


async def trip() -> Any:
    """What is undone when it does not complete: one compensation fails, and it all comes after the clean-up."""
    try:
        async with rf.lock("wallet"):
            rf.compensate(refund, await book("flight"))
            rf.compensate(refund, "car")
            rf.compensate(tidy, await page(1))
            await asyncio.sleep(3600)
            await asyncio.gather(page(99), book("car"))
    finally:
        await tidy("suitcase")


async def rounds(number: int = 0, *, last: int = 2) -> Any:
    """Runs without end, for three runs: what is under way is given up, what was not received is carried over."""
    rf.state.setdefault("seen", [])
    left = asyncio.get_running_loop().create_task(page(99))
    await asyncio.sleep(1)
    async with rf.lock("key") as key:
        word = await check(f"{rf.random().randint(0, 99)} {key.token}")
    if number == 0:
        await draft("first")
        await asyncio.wait([left], timeout=10)
    rf.state["seen"] = [*rf.state["seen"], word]
    if number < last:
        rf.continue_as_new(number + 1, last=last)
    return [rf.state["seen"], await rf.wait_for_signal("early"), rf.patched("later")]


async def mended() -> Any:
    """Fails while it has locks, has heard a signal, and while a child and a step are still under way."""
    rf.state["heard"] = await rf.wait_for_signal("item")
    async with rf.lock("key") as key, rf.semaphore("bench", 2):
        before = [key.token, await page(1), await check("before")]
        ended = await asyncio.gather(book("van"), check("beside"), page(2), return_exceptions=True)
        for one in ended:
            if isinstance(one, BaseException):
                raise one
        return [before, ended, key.token, await rf.wait_for_signal("item")]


def declared() -> Any:
    """Declared steps: one is tried again, one branch is taken, some run at once, one for each item."""
    sizes = {name: Agent(name, run=len) for name in ("measure", "weigh", "count")}
    weigh = rf.SequentialStep("weigh", agent=sizes["weigh"], input=lambda s: s["text"], output_key="weight")
    both = rf.ParallelStep(
        "both",
        agents=[sizes["measure"], sizes["count"]],
        input=lambda s: [s["text"], s["text"] * 2],
        output_keys=["length", "double"],
    )
    each = rf.MapStep(
        "each", agent=sizes["count"], over=lambda s: ["a", "bb", "ccc"], output_key="sizes", max_workers=2
    )
    workflow = rf.Workflow("declared").add_step(rf.RetryStep(weigh, max_retries=1))
    workflow.add_step(rf.ConditionalStep("heavy", condition=lambda s: s["weight"] > 3, then=both, otherwise=each))
    return workflow.add_step(each).begin([{"text": "a text"}], {})


class Life(NamedTuple):
    """A workflow and what comes from outside to it.

    Args:
        flow: the workflow.
        about: how :class:`Outside` is made.
        deadline: when the execution's time is up.
    """

    flow: Flow
    about: Mapping[str, Any] = MappingProxyType({})
    deadline: float | None = None

    def outside(self) -> Outside:
        return Outside(answer, **self.about)

    def lived(self) -> tuple[list[Run], Outside]:
        outside = self.outside()
        return outside.live(Shell(self.flow, options=OPTIONS, deadline=self.deadline).begin()), outside


LIVES = {
    "signals": Life(article),
    "children": Life(household),
    "locks": Life(workshop),
    "undone on failure": Life(trip),
    "undone on cancellation": Life(trip, {"during": {"car": "cancel"}}),
    "undone when time is up": Life(trip, deadline=1000.0 + 1800),
    "cancelled before anything is done": Life(trip, {"during": {"flight": "cancel"}}),
    "continued as new": Life(rounds, {"during": {"first": "early"}}),
    "resumed": Life(mended, {"resumes": True}),
    "declared": Life(declared),
}

lives = pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())


@lives
def test_a_crash_after_any_entry_changes_nothing(life: Life) -> None:
    runs, outside = life.lived()
    assert outside.ran == ends_of_attempts([run.journal for run in runs])
    assert crash_everywhere(runs, outside, **life.about) > 2


@lives
def test_a_fork_before_any_call_is_an_execution_like_any_other(life: Life) -> None:
    """Whatever is open there is asked again, in its own name, and a crash changes nothing of that."""
    shell = life.lived()[0][-1].shell
    for before in range(1, shell.machine.issued + 1):
        outside = life.outside()
        first, *others = outside.live(shell.forked(before))
        taken_over = next(n for n, entry in enumerate(first.journal, start=1) if isinstance(entry.event, Forked))
        first.ends.add(taken_over)  # it may die before it has begun
        crash_everywhere([first, *others], outside, **life.about)


# --- that they do what they say ---------------------------------------------------------------------------------
def runs_of(name: str) -> list[Shell]:
    return [run.shell for run in LIVES[name].lived()[0]]


def end_of(name: str) -> Shell:
    return runs_of(name)[-1]


def steps_of(shell: Shell) -> list[str]:
    """The steps that were recorded, in that order, with what failed for good."""
    said = {StepCompleted: "", StepFailed: "no "}
    return [said[type(e)] + kind_and_name(e.name)[1] for e in shell.events if isinstance(e, StepCompleted | StepFailed)]


def test_together_they_use_every_feature() -> None:
    runs = [run for name in LIVES for run in runs_of(name)]
    entries = [entry for run in [*runs, end_of("locks").forked(9)] for entry in run.journal]
    assert {type(entry.event) for entry in entries} == set(get_args(Event)) - {Paused, Resumed}
    labels = [label for entry in entries for label in entry.issued]
    assert {kind_and_name(label)[0] for label in labels} == {"step", "undo", "child", "signal", "lock"}
    assert any(None in entry.state.values() for entry in entries)
    assert all(
        any(getattr(entry, what) for entry in entries) for what in ("dropped", "stages", "patches", "compensations")
    )
    assert {run.execution.outcome.status for run in runs if run.execution.outcome} == {
        ExecutionStatus.RUNNING, ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED,
    }  # fmt: skip


def test_signals_come_and_go() -> None:
    shell = end_of("signals")
    checked, item, state = shell.result
    assert (checked.split()[0], item, state["lost"]) == ("check", 1, "nobody is there")
    assert (state["reviewed"][0], state["reviewed"][1] > 1060, "phase" in state) == ("ada", True, False)
    assert [letter.name for letter in shell.letters] == [label("signal", "review")]
    assert shell.others.log == ["signal done 2", "signal lost 3"]


def test_children_are_awaited_left_and_given_up() -> None:
    shell = end_of("children")
    assert shell.result == [10, "c2", [30, 40, "check between", 50], "bad luck", 60]
    assert [line for line in shell.others.log if line.startswith("not")] == ["not child page 7"]


def test_locks_are_shared_given_up_and_refused() -> None:
    shell = end_of("locks")
    assert shell.result == [[f"check {n}" for n in range(4)], [3, 4, 5, 6], 7]
    assert not shell.others.held
    given_up = ["lock busy 12", "not lock busy 12"]
    assert shell.others.log[12:] == [*given_up, "lock crossed 13", "lock key 14", "not lock key 14"]


def test_what_was_done_is_undone_however_it_ends() -> None:
    undone = ["tidy", "tidy", "no refund", "refund"]
    assert steps_of(end_of("undone on failure")) == ["book", "no book", *undone]
    assert steps_of(end_of("undone on cancellation")) == ["book", *undone]
    assert steps_of(end_of("undone when time is up")) == ["book", *undone]
    assert steps_of(end_of("cancelled before anything is done")) == ["tidy"]
    assert "not child page 4" in end_of("undone on cancellation").others.log


def test_each_run_begins_with_what_the_one_before_left() -> None:
    runs = runs_of("continued as new")
    seen, early, patched = runs[-1].result
    assert ([len(run.journal) > 5 for run in runs], len(seen), early, patched) == ([True] * 3, 3, 7, True)
    assert [word.split()[-1] for word in seen] == ["1", "1", "1"]
    assert [run.others.log[-1] for run in runs[:2]] == ["not child page 1"] * 2


def test_what_is_resumed_has_its_locks_again_and_runs_only_what_failed() -> None:
    shell = end_of("resumed")
    before, ended, token, item = shell.result
    assert (before, ended, token, item) == ([1, 10, "check before"], ["book van", "check beside", 20], 3, 2)
    assert [attempt for name, attempt in shell.started if name == "book"] == [2]
    assert shell.others.log == ["lock key 1", "lock bench 2", "not lock bench 2", "not lock key 1"]


def test_declared_steps_are_tried_again_chosen_and_mapped() -> None:
    assert end_of("declared").result == {"text": "a text", "weight": 6, "length": 6, "double": 12, "sizes": [1, 2, 3]}
