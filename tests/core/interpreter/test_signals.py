"""Signals: each is received once, in order, by whoever has waited longest, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from pydantic import BaseModel

import rayflow as rf
from rayflow.core.events import Ended, Entry, Resumed, SignalReceived, Started, kind_and_name
from rayflow.core.execution.actions import NewDeadLetter
from rayflow.core.interpreter.machine import Machine
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import NonDeterminismError
from rayflow.ids import ExecutionStatus
from tests.core.fake import Flow, Shell, run, stub, sweep
from tests.core.others import CODEC

one = stub("one")


class Verdict(BaseModel):
    ok: bool
    by: str = "nobody"


async def review() -> Any:
    return await rf.wait_for_signal("review")


def signals(shell: Shell) -> list[SignalReceived]:
    return [event for event in shell.events if isinstance(event, SignalReceived)]


# --- receiving -------------------------------------------------------------------------------------------------
def test_a_signal_lets_the_code_go_on() -> None:
    shell = Shell(review).begin()
    assert shell.execution.awaited_signals == (("review", ""),)
    shell.now = 1005.0
    assert shell.signal("review", {"ok": True}).result == {"ok": True}
    assert signals(shell) == [SignalReceived(1005.0, "review", CODEC.encode({"ok": True}), 1)]
    assert (shell.inbox_done, shell.counts["signals_received"]) == (1, 1)
    assert not shell.execution.awaited_signals


def test_what_came_before_the_wait_is_kept_for_it_in_order() -> None:
    async def flow() -> list[Any]:
        await one()
        return [await rf.wait_for_signal("a"), await rf.wait_for_signal("b"), await rf.wait_for_signal("a")]

    shell = Shell(flow).begin().signal("b", 1).signal("a", 2).signal("c", 3).signal("a", 4)
    assert shell.execution.outcome is None
    assert shell.complete("one").result == [2, 1, 4]
    ended = shell.events[-1]
    assert isinstance(ended, Ended)
    assert ended.unconsumed == ("c",)


def test_those_who_wait_get_them_first_come_first_served() -> None:
    async def flow() -> list[Any]:
        seen: list[Any] = []

        async def wait(who: int, name: str) -> None:
            seen.append((who, await rf.wait_for_signal(name)))

        await asyncio.gather(wait(1, "a"), wait(2, "a"), wait(3, "b"), wait(4, "a"))
        return seen

    shell = Shell(flow).begin()
    assert shell.execution.awaited_signals == (("a", ""), ("a", ""), ("b", ""), ("a", ""))
    shell.signal("a", "x").signal("b", "y").signal("a", "z").signal("a", "last")
    assert shell.result == [(1, "x"), (3, "y"), (2, "z"), (4, "last")]


def test_a_payload_is_rebuilt_as_the_type_says() -> None:
    async def flow() -> Any:
        verdict = await rf.wait_for_signal("review", type=Verdict)
        count = await rf.wait_for_signal("count", type=int | None)
        return [verdict.ok, verdict.by, count]

    shell = Shell(flow).begin()
    assert shell.execution.awaited_signals == (("review", f"{__name__}:Verdict"),)
    assert shell.signal("review", {"ok": True, "by": "ada"}).signal("count").result == [True, "ada", None]


def test_a_signal_that_does_not_fit_is_a_letter_and_the_wait_goes_on() -> None:
    async def flow() -> Any:
        return (await rf.wait_for_signal("review", type=Verdict, timeout=60)).by

    shell = Shell(flow).begin().pass_time(5).signal("review", {"ok": "perhaps"}).signal("other").pass_time(5)
    assert shell.execution.outcome is None
    [letter] = shell.letters
    assert isinstance(letter, NewDeadLetter)
    assert (letter.seq, letter.step, kind_and_name(letter.name)) == (2, -1, ("signal", "review"))
    assert (letter.attempts, letter.at, letter.payload) == (1, 1005.0, CODEC.encode({"ok": "perhaps"}))
    assert letter.failure.type.endswith("ValidationError")
    crashed = shell.restored()
    assert crashed.letters == []
    for each in (shell, crashed):
        assert each.signal("review", {"ok": False, "by": "bob"}).result == "bob"
    assert crashed.journal == shell.journal


def test_signals_that_wait_for_code_that_they_do_not_fit_are_passed_over() -> None:
    async def flow() -> Any:
        await one()
        return await rf.wait_for_signal("n", type=int)

    shell = Shell(flow).begin().signal("n", "x").signal("n", "y").signal("n", 3).complete("one")
    assert shell.result == 3
    assert [(letter.seq, letter.step) for letter in shell.letters] == [(5, -1), (5, -2)]
    assert shell.restored(entries=5).letters == []  # they went with that entry


# --- not receiving ---------------------------------------------------------------------------------------------
def test_a_wait_has_a_timeout_and_what_comes_later_is_kept() -> None:
    async def flow() -> Any:
        with contextlib.suppress(TimeoutError):
            await rf.wait_for_signal("a", timeout=10)
        rf.state["gave up"] = rf.now()
        await one()
        return await rf.wait_for_signal("a", timeout=10)

    shell = Shell(flow).begin().wake()
    assert CODEC.decode(shell.journal[-1].state["gave up"] or b"") == 1010.0
    assert shell.execution.awaited_signals == ()
    assert shell.signal("a", 7).complete("one").result == 7


def test_a_timeout_that_passes_is_a_timeout_error() -> None:
    async def flow() -> Any:
        return await rf.wait_for_signal("a", timeout=10)

    assert Shell(flow).begin().wake().failure.matches(TimeoutError)


def test_a_waiter_that_is_cancelled_loses_nothing() -> None:
    async def flow() -> Any:
        waiting = asyncio.create_task(rf.wait_for_signal("a"))
        with contextlib.suppress(TimeoutError):
            await rf.wait_for_signal("b", timeout=5)
        waiting.cancel()
        ended: Any = await asyncio.gather(waiting, rf.wait_for_signal("a"), return_exceptions=True)
        return [type(ended[0]).__name__, ended[1]]

    shell = Shell(flow).begin().signal("b")
    assert shell.execution.awaited_signals == (("a", ""),)
    assert shell.signal("a", 9).result == ["CancelledError", 9]


def test_a_waiter_that_has_its_signal_cannot_be_cancelled_any_more() -> None:
    """The first one is served before the second, who cancels it when it is served in turn."""

    async def flow() -> Any:
        first = asyncio.create_task(rf.wait_for_signal("a"))

        async def stop() -> None:
            await rf.wait_for_signal("a")
            first.cancel()

        await asyncio.wait([first, asyncio.create_task(stop())])
        return [first.result(), await rf.wait_for_signal("a")]

    assert Shell(flow).begin().signal("a", 1).signal("a", 2).signal("a", 3).result == [1, 3]


def test_what_nobody_received_is_named_at_the_end_in_order_of_acceptance() -> None:
    shell = Shell(one).begin().signal("b").signal("a").signal("b").complete("one")
    assert isinstance(shell.events[-1], Ended)
    assert shell.events[-1].unconsumed == ("b", "a", "b")
    outcome = shell.execution.outcome
    assert outcome is not None
    assert [signal.number for signal in outcome.unconsumed] == [1, 2, 3]
    sweep_after = shell.restored(entries=3)
    assert len(signals(sweep_after)) == 2


def test_one_that_comes_after_the_end_stays_in_the_inbox() -> None:
    shell = Shell(one).begin().complete("one").signal("late")
    assert (shell.inbox_done, len(shell.rows)) == (0, 1)
    assert isinstance(shell.events[-1], Ended)
    assert shell.events[-1].unconsumed == ()


def test_in_the_clean_up_after_a_cancellation_signals_are_received() -> None:
    async def flow() -> Any:
        try:
            await one()
        finally:
            rf.state["last words"] = await rf.wait_for_signal("words", timeout=5)

    shell = Shell(flow).begin().cancel().signal("words", "bye")
    assert CODEC.decode(shell.journal[2].state["last words"] or b"") == "bye"
    outcome = shell.execution.outcome
    assert outcome is not None
    assert outcome.status is ExecutionStatus.CANCELLED


# --- pause, crash ----------------------------------------------------------------------------------------------
def test_during_a_pause_signals_are_kept_and_applied_in_order_on_resume() -> None:
    async def flow() -> Any:
        return [await rf.wait_for_signal("a"), await one(), await rf.wait_for_signal("a")]

    shell = Shell(flow).begin().signal("a", 1).send("one").pause().signal("a", 2).complete("one", "done").signal("b", 3)
    assert len(signals(shell)) == 1
    assert shell.inbox_done == 2  # the pause; what came during it is still to be applied
    crashed = shell.restored()
    assert crashed.execution.paused
    assert len(signals(crashed)) == 1
    for each in (shell, crashed):
        each.resume()
        assert each.result == [1, "done", 2]
        after = [type(event).__name__ for event in each.events]
        assert after.index("Resumed") < after.index("StepCompleted")
        assert [(signal.name, signal.number) for signal in signals(each)] == [("a", 1), ("a", 3)]


def test_signals_pass_no_pause_but_a_cancellation_lets_them_in_first() -> None:
    async def flow() -> Any:
        try:
            await rf.wait_for_signal("never")
        finally:
            rf.state["kept"] = await rf.wait_for_signal("a")

    shell = Shell(flow).begin().pause().signal("a", 5).cancel()
    kinds = [type(event).__name__ for event in shell.events]
    assert kinds == ["Started", "Paused", "Resumed", "SignalReceived", "CancelRequested", "Ended"]
    assert isinstance(shell.events[2], Resumed)


def test_a_signal_that_was_accepted_before_the_first_coordinator_came_is_received() -> None:
    execution = Shell(review, rows=[SignalReceived(999.0, "review", CODEC.encode("early"))])
    execution.execution.begin(1000.0)
    execution.execution.inbox(1, execution.rows[0], 1000.0)
    assert execution.collect().result == "early"
    assert [type(event) for event in execution.events] == [Started, SignalReceived, Ended]
    assert execution.events[1].at == 1000.0  # never before the entry that it follows


@pytest.mark.parametrize("checkpoints", ["sync", "async"])
def test_signals_survive_a_crash_after_each_entry(checkpoints: Any) -> None:
    async def flow() -> Any:
        got: list[int] = []
        while len(got) < 4:
            got.append(await rf.wait_for_signal("n", type=int))
            if got[-1] % 2:
                await one(got[-1])
        return got

    def answer(asked: Any) -> Any:
        return 3 if asked == "n" else None

    ended = run(flow, answer, options=ExecutionOptions(checkpoints=checkpoints))
    assert ended.result == [3, 3, 3, 3]
    assert [type(event).__name__ for event in ended.events[1:5]] == ["SignalReceived", "StepCompleted"] * 2
    sweep(ended, answer)


def test_without_checkpoints_a_signal_stays_in_the_inbox_until_the_end() -> None:
    async def flow() -> Any:
        return [await rf.wait_for_signal("a"), await one(), await rf.wait_for_signal("a")]

    shell = Shell(flow, options=ExecutionOptions(checkpoints="off")).begin().signal("a", 1).complete("one", 2)
    assert (len(shell.journal), shell.inbox_done) == (1, 0)
    again = shell.restored()
    assert again.signal("a", 3).complete("one", 4).result == [1, 4, 3]
    assert again.inbox_done == 2


def test_signals_in_a_journal_that_the_code_does_not_repeat() -> None:
    async def other() -> Any:
        await one()

    shell = Shell(review).begin().signal("review", 1)
    machine = Machine(other, execution_id="e", workflow_id="w", payloads=CODEC)
    with pytest.raises(NonDeterminismError, match="expected no further step, saw step 'one'"):
        machine.replay(shell.journal[:-1])


def test_a_signal_to_a_finished_machine_does_nothing() -> None:
    async def ends() -> str:
        return "done"

    machine = Machine(ends, execution_id="e", workflow_id="w", payloads=CODEC)
    machine.apply(Started(1.0))
    assert machine.apply(SignalReceived(2.0, "a", CODEC.encode(1), 1)).outcome is None
    entries = [Entry(1, Started(1.0)), Entry(2, SignalReceived(2.0, "a", CODEC.encode(1), 1))]
    again = Machine(ends, execution_id="e", workflow_id="w", payloads=CODEC)
    with pytest.raises(NonDeterminismError, match="expected signal 'a' to be waited for"):
        again.replay(entries)


def test_outside_a_workflow() -> None:
    flows: list[Flow] = [lambda: rf.wait_for_signal("a"), lambda: rf.send_signal("x", "a")]
    for flow in flows:
        with pytest.raises(RuntimeError, match="no workflow is running here"):
            asyncio.run(flow())
