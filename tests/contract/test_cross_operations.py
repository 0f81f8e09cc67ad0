"""What an append asks of others happens with it: all in one transaction, once, or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rayflow.errors import CorruptRecord, StorageError, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Store
from rayflow.storage.model import JournalRow
from rayflow.storage.operations import Append, Done, FireSchedule, Operation, Rejected
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    answers,
    append,
    begun,
    claim,
    claims,
    deliver,
    done,
    end,
    end_child,
    everything,
    lease,
    leave,
    letter,
    park,
    record,
    refused,
    row,
    schedule,
    send,
    start,
    start_child,
    take,
)

#: One of each kind, of an execution that has the lock "had" by its call 1.
ASKS = (
    start_child("awaited", step=2),
    start_child("started", step=3, waits=False),
    send("y", step=4),
    take(5, "free"),
    take(6, "taken"),
    leave(1, "had"),
)


async def scene(store: Store) -> None:
    """An execution x that has a lock which y waits for, and waits for one that y has."""
    await begun(store, "x", "y")
    await done(store, append(asks=(take(1, "had"),)), append("y", asks=(take(1, "had"), take(2, "taken"))))


async def happened(store: Store) -> bool:
    """Whether all that ASKS ask has happened; it must be all or nothing."""
    signs = [
        await store.execution("awaited") is not None,
        await store.execution("started") is not None,
        "k" in [r.key for r in await store.inbox("y")],
        await claims(store, "free") == [("x", 1)],
        await claims(store, "taken") == [("y", 1), ("x", 0)],
        await claims(store, "had") == [("y", 2)],
        [told.step for told in await answers(store, after=1)] == [3, 4, 5],
    ]
    assert len(set(signs)) == 1, signs
    return signs[0]


def test_all_that_an_append_asks_happens_with_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await scene(store)
        assert not await happened(store)
        answer = await done(store, append(first=2, asks=ASKS))
        assert answer.touched == ("awaited", "started", "y")
        assert answer.inbox_last == 4
        assert await happened(store)
        assert ((await row(store)).claims, (await row(store, "y")).claims) == (2, 2)

    stores.run(body)


# --- refused, or applied before ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("before", "wrong", "error"),
    [
        ([claim(expected=1, nonce="other")], {}, WriterFenced),
        ([park(seen=1)], {}, WriterFenced),
        ([end(first=2)], {"first": 3}, WriterFenced),
        ([], {"first": 3}, CorruptRecord),
        ([], {"first": 1}, CorruptRecord),
        ([], {"dead_letters": (letter(seq=9),)}, CorruptRecord),
        ([], {"rows": (JournalRow(9, b""),)}, CorruptRecord),
    ],
    ids=["stale epoch", "given up", "over", "gap", "another append", "letter of another entry", "misnumbered"],
)
def test_an_append_that_is_refused_asks_nothing(
    stores: Stores, before: list[Operation], wrong: dict[str, Any], error: type[StorageError]
) -> None:
    async def body(store: Store) -> None:
        await scene(store)
        await done(store, append("y", first=2), *before)
        await refused(store, append(**{"first": 2, "asks": ASKS, "bodies": (b"new",), **wrong}), error)

    stores.run(body)


def test_an_append_that_was_applied_before_asks_nothing_again(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await scene(store)
        operation = append(first=2, asks=ASKS)
        await done(store, operation, append("y", first=2, inbox_done=2, asks=(leave(2, "taken"),)))
        await done(store, append(first=3, inbox_done=5, asks=(leave(5, "free"),)))
        await done(store, claim("started"), end("started"))
        before = await everything(store)
        assert await done(store, operation) == Done(epoch=1, last_seq=3, inbox_last=5)
        assert await everything(store) == before

    stores.run(body)


def test_the_last_append_sent_again_at_once_asks_nothing_again(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await scene(store)
        operation = append(first=2, asks=ASKS)
        first, again = await store.commit([operation, replace(operation, at=NOW + 9)])
        assert isinstance(first, Done)
        assert again == replace(first, touched=())
        assert await happened(store)

    stores.run(body)


def test_an_end_sent_again_gives_nothing_back_twice(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await scene(store)
        operation = end(first=2, asks=(send("y"),))
        await done(store, operation, append("y", first=2, asks=(leave(1, "had"), take(3, "had"))))
        before = await everything(store)
        assert (await done(store, operation)).touched == ()
        assert await everything(store) == before

    stores.run(body)


# --- neighbours -------------------------------------------------------------------------------------------------
def test_one_that_is_refused_does_not_fail_its_neighbours(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await scene(store)
        told = await store.commit([
            append("y", first=9, asks=(leave(2, "taken"),)),
            start("y", start_nonce="another"),
            append(first=2, asks=ASKS),
            lease(name="free", wait=False),
            append("nobody", asks=(send("y", "from nobody"),)),
            deliver("y", "last"),
        ])  # fmt: skip
        assert [isinstance(answer, Rejected) for answer in told] == [True, False, False, True, True, False]
        assert await happened(store)
        assert [r.key for r in await store.inbox("y")] == ["lock/taken/1", "k", "lock/had/2", "last"]

    stores.run(body)


def unwritable(operation: Append) -> Append:
    """Only SQLite cannot write a lone surrogate; memory can."""
    return replace(operation, digest="\ud800")


def test_what_an_append_asks_is_undone_with_one_that_cannot_be_written(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await scene(store)
        bad = unwritable(append(first=2, asks=ASKS))
        first, answer, last = await store.commit([deliver("y", "first"), bad, append("y", first=2, inbox_done=1)])
        assert isinstance(first, Done)
        assert isinstance(last, Done)
        assert await happened(store) == isinstance(answer, Done)
        if isinstance(answer, Rejected):
            assert type(answer.error) is StorageError
            await done(store, append(first=2, asks=ASKS))
            assert await happened(store)

    stores.run(body)


def test_neighbours_ask_what_they_ask_beside_one_that_cannot_be_written(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await scene(store)
        bad = unwritable(append("y", first=2, asks=(leave(2, "taken"), start_child("lost", parent="y", waits=False))))
        good, answer, told = await store.commit([
            append(first=2, asks=ASKS),
            bad,
            append("y", first=2, bodies=(b"instead",)),
        ])  # fmt: skip
        assert isinstance(good, Done)
        if isinstance(answer, Rejected):
            assert isinstance(told, Done)
            assert await happened(store)
            assert await store.execution("lost") is None

    stores.run(body)


def test_a_schedule_that_cannot_be_written_starts_nothing(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        starts = (record("good"), record("bad", start_nonce="\ud800"))
        answer, other = await store.commit([FireSchedule(schedule(version=2), starts, (), NOW), start("other")])
        assert isinstance(other, Done)
        if isinstance(answer, Rejected):
            assert await store.schedules() == [schedule()]
            assert await store.execution("good") is None

    stores.run(body)


def test_a_fenced_writer_asks_nothing(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await scene(store)
        other = stores.new()
        await other.open()
        assert await other.claim_writer("other", now=NOW, fresh_for=10, take_over=True) == 2
        with pytest.raises(WriterFenced):
            await store.commit([append(first=2, asks=ASKS)])
        assert not await happened(other)
        await done(other, append(first=2, asks=ASKS))
        assert await happened(other)
        await other.close()

    stores.run(body)


# --- in one commit ----------------------------------------------------------------------------------------------
def test_a_family_that_lives_and_dies_in_one_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(
            store,
            start(),
            claim(),
            append(asks=(take(1), start_child("x.2", step=2))),
            claim("x.2"),
            append("x.2", asks=(take(1), send("x", "hello"))),
            end_child("x.2", first=2),
            append(first=2, inbox_done=3),
            end(first=3, status=ExecutionStatus.COMPLETED),
        )
        assert [(r.kind, r.number) for r in await store.inbox("x")] == []
        assert ((await row(store)).inbox_last, (await row(store)).status) == (3, ExecutionStatus.COMPLETED)
        assert (await claims(store), (await store.locks(["l"]))[0].last_token) == ([], 1)

    stores.run(body)
