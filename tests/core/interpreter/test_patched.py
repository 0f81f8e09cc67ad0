"""rf.patched: changed code for executions that have not passed the place of the change, old code for the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rayflow as rf
from rayflow.errors import NonDeterminismError
from tests.core.fake import Flow, Shell, run, stub, sweep

draft = stub("draft")
cited = stub("cited")
check = stub("check")
send = stub("send")


async def before() -> Any:
    text = await draft()
    return await send(text)


async def after() -> Any:
    text = await (cited() if rf.patched("citations") else draft())
    if rf.patched("checks"):
        await check(text)
    return await send(text)


def names(shell: Shell) -> list[str]:
    return [name for name, _ in shell.started]


def test_a_new_execution_follows_the_change_and_records_it() -> None:
    shell = run(after)
    assert names(shell) == ["cited", "check", "send"]
    assert [entry.patches for entry in shell.journal] == [("citations",), ("checks",), (), (), ()]
    sweep(shell)


def test_one_that_has_passed_the_place_goes_on_as_it_was() -> None:
    old = Shell(before).begin()
    again = old.restored(after)
    assert names(again) == ["draft"]
    # The second change is ahead of it: it takes that.
    again.complete("draft").finish()
    assert names(again) == ["draft", "check", "send"]
    assert [entry.patches for entry in again.journal] == [(), ("checks",), (), (), ()]
    sweep(again)


def test_one_that_has_passed_both_follows_neither() -> None:
    again = Shell(before).begin().complete("draft").restored(after).complete("send", "sent")
    assert again.result == "sent"
    assert [entry.patches for entry in again.journal] == [(), (), (), ()]


def test_the_answer_stays_the_same_for_the_execution() -> None:
    async def asks_twice() -> Any:
        first = rf.patched("citations")
        await draft()
        return [first, rf.patched("citations"), rf.patched("new")]

    shell = Shell(asks_twice).begin()
    assert shell.complete("draft").result == [True, True, True]
    assert [entry.patches for entry in shell.journal] == [("citations",), ("new",), ()]
    old = Shell(before).begin().restored(asks_twice).complete("draft")
    assert old.result == [False, False, True]
    assert [entry.patches for entry in old.journal] == [(), ("new",), ()]
    sweep(old)


def test_a_loop_that_learned_something_goes_over_to_it_only_in_new_executions() -> None:
    async def old() -> Any:
        for _ in range(3):
            await draft()

    async def new() -> Any:
        for _ in range(3):
            await (cited() if rf.patched("citations") else draft())

    again = Shell(old).begin().complete("draft").restored(new).finish()
    assert names(again) == ["draft", "draft"]
    assert [name for entry in again.journal for name in entry.issued] == ["draft"] * 3
    assert names(run(new)) == ["cited"] * 3


def test_tasks_ask_in_the_order_in_which_they_run() -> None:
    async def flow() -> Any:
        async def ask(change: str) -> bool:
            await draft()
            return rf.patched(change)

        return await asyncio.gather(ask("b"), ask("a"))

    shell = Shell(flow).begin().finish()
    assert shell.result == [True, True]
    assert [entry.patches for entry in shell.journal] == [(), ("b",), ("a",), ()]
    sweep(shell)


@pytest.mark.parametrize("flow", [before, after])
def test_a_change_that_was_followed_and_is_gone_does_not_replay(flow: Flow) -> None:
    shell = Shell(after).begin()
    if flow is after:
        assert shell.restored(flow).started == [("cited", 1)]
        return
    with pytest.raises(NonDeterminismError, match=r"expected step 'cited' .*, saw step 'draft'"):
        shell.restored(flow)


def test_a_fork_and_a_rewind_keep_the_answers() -> None:
    old = Shell(before).begin().restored(after).complete("draft").complete("check").fail("send")
    again = old.rewound()
    assert names(again) == ["send"]
    assert again.complete("send", 1).result == 1
    fork = old.forked("check")
    assert names(fork) == ["check"]
    assert [entry.patches for entry in fork.journal] == [(), (), ("checks",)]


def test_a_change_has_a_name() -> None:
    async def flow() -> None:
        rf.patched("")

    assert Shell(flow).begin().failure.message.startswith("change id")
    with pytest.raises(RuntimeError, match=r"rf\.patched\(\) works in a workflow's own code"):
        rf.patched("citations")
