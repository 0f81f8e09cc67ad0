"""Families: children that go on with their parents, that end with them, and calls that a rewind has superseded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rayflow.core.events import CancelRequested
from rayflow.errors import ExecutionAlreadyExists, InvalidTransition, SingletonConflict, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Store
from rayflow.storage.codec.journal import decode_entry
from rayflow.storage.model import ExecutionRecord, InboxRow
from rayflow.storage.operations import Note, Start, StartChild
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    answers,
    append,
    begun,
    claim,
    claims,
    delete,
    deliver,
    done,
    end,
    end_child,
    everything,
    leave,
    record,
    refused,
    rewind,
    row,
    start,
    start_child,
    take,
)

CANCELLED, COMPLETED = ExecutionStatus.CANCELLED, ExecutionStatus.COMPLETED
FAILED, PENDING = ExecutionStatus.FAILED, ExecutionStatus.PENDING


async def over(store: Store, *, child: ExecutionStatus = CANCELLED, **changes: Any) -> None:
    """A parent that has failed, and its child, which ended after it was given up."""
    await begun(store, "x")
    await done(store, append(asks=(start_child(**changes),)), claim("x.1"), append("x.1"), end(first=2, status=FAILED))
    await done(store, append("x.1", first=2, status=child))


def together(**changes: Any) -> Any:
    return rewind(last_seq=2, children=(replace(rewind("x.1", last_seq=2, to=1), **changes),))


# --- going on ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("child", [CANCELLED, FAILED])
def test_a_child_goes_on_in_the_transaction_in_which_its_parent_does(stores: Stores, child: ExecutionStatus) -> None:
    async def write(store: Store) -> None:
        await over(store, child=child)
        answer = await done(store, together(carried=(InboxRow("k", "carried", b"", NOW),)))
        assert (answer.touched, answer.epoch, answer.last_seq) == (("x.1",), 2, 3)
        before = await everything(store)
        await done(store, together())  # sent again
        assert await everything(store) == before

    async def read(store: Store) -> None:
        for name in ("x", "x.1"):
            found = await row(store, name)
            assert (found.status, found.epoch, found.last_seq, found.runnable_at) == (PENDING, 2, 3, NOW)
        assert [found.key for found in await store.inbox("x.1")] == ["k"]
        await done(store, claim("x.1", expected=2), end_child(first=4, epoch=3))
        assert [told.worker for told in await answers(store)] == ["x.1"]

    stores.run(write)
    stores.run(read)


def test_the_same_is_done_also_where_the_child_has_gone_on_since(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await over(store)
        await done(store, together(), claim("x.1", expected=2), append("x.1", first=4, epoch=3))
        before = await everything(store)
        assert (await done(store, together())).last_seq == 3
        assert await everything(store) == before

    stores.run(body)


def test_neither_goes_on_where_one_cannot(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await over(store)
        await refused(store, together(expected=7), WriterFenced)
        await refused(store, rewind(last_seq=7, children=together().children), WriterFenced)
        await done(store, together(), claim(expected=2), end(first=4, epoch=3))
        await refused(store, rewind(expected=3, last_seq=4, children=()), InvalidTransition)

    stores.run(body)


@pytest.mark.parametrize("status", [CANCELLED, COMPLETED])
def test_what_was_cancelled_goes_on_only_with_its_parent(stores: Stores, status: ExecutionStatus) -> None:
    async def body(store: Store) -> None:
        await over(store, child=status)
        await refused(store, rewind("x.1", last_seq=2), InvalidTransition)
        if status is COMPLETED:
            await refused(store, together(), InvalidTransition)

    stores.run(body)


def test_singletons_are_taken_by_all_of_them_or_none(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await over(store, singleton="one")
        await done(store, start("other", singleton="one"))
        assert (await refused(store, together(), SingletonConflict)).execution_id == "other"
        await done(store, claim("other"), end("other", status=CANCELLED))
        both = replace(together(), children=(*together().children, rewind("other")))
        assert (await refused(store, both, SingletonConflict)).execution_id == "x.1"
        await done(store, together())

    stores.run(body)


# --- ending together --------------------------------------------------------------------------------------------
def bound(name: str = "x.1", *, step: int = 1) -> StartChild:
    """A child that is only started, and ends with its parent."""
    return start_child(name, step=step, parent_step=-step)


async def cancels(store: Store, name: str) -> list[str]:
    events = [decode_entry(name, 0, found.body).event for found in await store.inbox(name) if found.kind == "cancel"]
    return [event.by for event in events if isinstance(event, CancelRequested)]


@pytest.mark.parametrize("how", [COMPLETED, FAILED, CANCELLED])
def test_those_that_are_to_end_with_their_parent_are_cancelled_by_its_end(stores: Stores, how: ExecutionStatus) -> None:
    async def write(store: Store) -> None:
        await begun(store, "x", "y")
        asks = (bound(), bound("mine", step=2), start_child("left", step=3, waits=False), start_child("x.4", step=4))
        await done(store, append(asks=asks), append("y", asks=(replace(bound("y.1"), record=record("y.1")),)))
        await done(store, claim("mine"), end("mine"))
        assert [told.value for told in await answers(store)] == ["x.1", "mine", "left"]

    async def read(store: Store) -> None:
        last = end(first=2, status=how)
        assert (await done(store, last)).touched == ("x.1",)
        assert [await cancels(store, name) for name in ("x.1", "left", "x.4", "y.1")] == [["x"], [], [], []]
        assert (await done(store, last)).touched == ()  # sent again
        assert len(await store.inbox("x.1")) == 1

    stores.run(write)
    stores.run(read)


def test_those_that_are_started_by_the_last_append_are_cancelled_too(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, end(asks=(bound(),)))
        assert await cancels(store, "x.1") == ["x"]

    stores.run(body)


def test_the_next_run_of_their_parent_keeps_them(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(bound(),)), append(first=2, next_run=b"input"))
        assert await cancels(store, "x.1") == []
        await done(store, claim(expected=1), end(first=3, epoch=2))
        assert await cancels(store, "x.1") == ["x"]

    stores.run(body)


def test_another_execution_with_their_parents_id_leaves_them_alone(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(bound(),)), claim("x.1"), end(first=2))
        assert len(await cancels(store, "x.1")) == 1
        assert await delete(store, "x") == 1
        await done(store, start(start_nonce="another"), claim(), end())
        assert len(await cancels(store, "x.1")) == 1

    stores.run(body)


def test_one_that_goes_on_with_its_parent_ends_with_it_once_more(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(bound(),)), claim("x.1"), end(first=2, status=FAILED))
        await done(store, end_child(status=CANCELLED), rewind(last_seq=2, children=(rewind("x.1", to=0),)))
        assert await cancels(store, "x.1") == []
        await done(store, claim(expected=2), end(first=4, epoch=3))
        assert await cancels(store, "x.1") == ["x"]

    stores.run(body)


# --- calls that a rewind has superseded -------------------------------------------------------------------------
def again(name: str = "x.w1.1", **changes: Any) -> StartChild:
    """The call of number 1 after a rewind, which may be another one."""
    return replace(start_child(name, start_nonce="nonce/1/1~1", **changes), earlier=(("x.1", "nonce/1/1"),))


async def rewound(store: Store, first: StartChild, *how: Any) -> None:
    """A parent that is rewound to before it started a child, and what became of that."""
    await begun(store, "x")
    await done(store, append(asks=(first,)), claim("x.1"), *how, end(first=2, status=FAILED))
    await done(store, rewind(last_seq=2), claim(expected=2))


def test_a_child_that_has_done_the_same_answers_that_call_too(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await rewound(store, start_child(), end_child())
        await done(store, append(first=4, epoch=3, asks=(again(),)))
        assert [(told.step, told.result, told.worker) for told in await answers(store)] == [(1, b"result", "x.1")]
        assert await store.execution("x.w1.1") is None

    stores.run(body)


@pytest.mark.parametrize(
    ("given", "how"),
    [({"identity": "other"}, COMPLETED), ({"identity": ""}, COMPLETED), ({}, FAILED), ({}, CANCELLED), ({}, None)],
    ids=["another input", "inputs that cannot be compared", "failed", "cancelled", "under way"],
)
def test_otherwise_it_is_another_child(stores: Stores, given: dict[str, Any], how: ExecutionStatus | None) -> None:
    async def body(store: Store) -> None:
        asked = {"identity": ""} if given.get("identity") == "" else {}
        ended = () if how is None else (end("x.1", status=how, result=b"old"),)
        await rewound(store, start_child(**given), *ended)
        answer = await done(store, append(first=4, epoch=3, asks=(again(**asked),)))
        assert answer.touched == ("x.w1.1",)
        if how is None:
            await done(store, end_child())  # of the call that is no more
            assert [(told.worker, told.rewinds) for told in await answers(store)] == [("x.1", 0)]
        await done(store, claim("x.w1.1"), end_child("x.w1.1"))
        told = (await answers(store))[-1]
        assert (told.worker, told.result, told.rewinds) == ("x.w1.1", b"result", 1)

    stores.run(body)


def test_one_that_was_only_started_is_not_started_again(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await rewound(store, start_child(waits=False))
        await done(store, append(first=4, epoch=3, asks=(again(waits=False),)))
        assert [(told.value, told.worker) for told in await answers(store)] == [("x.1", "x.1")]
        await done(store, append(first=5, epoch=3, asks=(again(waits=False, identity="other"),)))
        assert [told.value for told in await answers(store)] == ["x.1", "x.w1.1"]

    stores.run(body)


def test_an_id_that_the_code_gives_is_that_of_one_child(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await rewound(store, start_child(), end_child())
        await done(store, append(first=4, epoch=3, asks=(again("x.1", identity="other"),)))
        [told] = await answers(store)
        assert told.failure is not None
        assert told.failure.matches(ExecutionAlreadyExists)
        assert "this call had started it before the execution was resumed" in told.failure.message

    stores.run(body)


# --- permits ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("between", [False, True])
def test_a_permit_that_nobody_had_meanwhile_keeps_its_token(stores: Stores, *, between: bool) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), end(first=2, status=FAILED))
        if between:
            await done(store, append("y", asks=(take(),)), append("y", first=2, asks=(leave(),)))
        await done(store, rewind(last_seq=2), claim(expected=2))
        await done(store, append(first=4, epoch=3, asks=(replace(take(), token=1),)))
        token = 3 if between else 1
        assert ([told.value for told in await answers(store)], await claims(store)) == ([token], [("x", token)])
        await done(store, end("x", first=5, epoch=3), append("y", first=3 if between else 1, asks=(take(2),)))
        assert await claims(store) == [("y", token + 1)]

    stores.run(body)


# --- inboxes ----------------------------------------------------------------------------------------------------
def test_a_note_says_how_far_the_inbox_was_applied_without_an_entry(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, deliver(key="a"), deliver(key="b"), Note("x", 1, (), 1))
        assert [found.key for found in await store.inbox("x")] == ["b"]
        await done(store, Note("x", 1, (), 0))
        assert (await row(store)).inbox_done == 1

    stores.run(body)


def test_the_inbox_of_a_fork_is_numbered_after_what_it_takes_over(stores: Stores) -> None:
    async def body(store: Store) -> None:
        made: ExecutionRecord = record("fork", forked_from="x", inbox_last=7, inbox_done=7)
        await done(store, Start(made, carried=(InboxRow("k", "carried", b"", NOW),)), deliver("fork", "l"))
        assert [(found.key, found.number) for found in await store.inbox("fork")] == [("k", 8), ("l", 9)]

    stores.run(body)
