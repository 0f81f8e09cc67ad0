"""Rows that one execution puts into the inbox of another, with the entry that asked for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayflow.core.events import label
from rayflow.errors import ExecutionNotFound, InvalidTransition, RayflowError
from rayflow.storage.base import Store
from rayflow.storage.model import InboxRow, JournalRow
from rayflow.storage.operations import Operation, Start
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    answered,
    answers,
    append,
    begun,
    claim,
    deliver,
    done,
    end,
    everything,
    park,
    record,
    row,
    send,
    start,
    start_child,
)

LABEL = label("signal", "go")


def test_a_row_is_put_in_and_the_sender_answered_in_one_transaction(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await begun(store, "x", "y")
        sent = send("y", step=3, body=b"payload", at=NOW + 1)
        answer = await done(store, append(at=NOW + 2, asks=(sent,)))
        assert (answer.inbox_last, answer.touched) == (1, ("y",))

    async def read(store: Store) -> None:
        assert await store.inbox("y") == [InboxRow("k", "signal", b"payload", NOW + 1, 1)]
        assert await answers(store) == [answered(3, "signal", "go", at=NOW + 2)]
        assert [(r.kind, r.number) for r in await store.inbox("x")] == [("answer", 1)]

    stores.run(write)
    stores.run(read)


@pytest.mark.parametrize(
    ("before", "error"),
    [([], ExecutionNotFound), ([start("y"), claim("y"), end("y")], InvalidTransition)],
    ids=["unknown", "over"],
)
def test_who_cannot_be_sent_to_is_told_as_a_failure(
    stores: Stores, before: list[Operation], error: type[RayflowError]
) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await store.commit(before)
        answer = await done(store, append(asks=(send("y", step=1), send("y", "another"))))
        assert (answer.inbox_last, answer.touched) == (1, ())
        [told] = await answers(store)
        assert (told.step, told.name) == (1, LABEL)
        assert told.failure is not None
        assert told.failure.matches(error)
        assert await store.inbox("y") == []

    stores.run(body)


def test_what_nobody_waits_for_is_not_answered(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        assert (await done(store, append(asks=(send("y"),)))).inbox_last == 0
        assert [r.key for r in await store.inbox("y")] == ["k"]

    stores.run(body)


def test_the_same_key_again_is_the_same_row_and_is_answered_again(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(send("y", step=1, body=b"first"),)))
        await done(store, append("y", inbox_done=1))
        again = append(first=2, asks=(send("y", step=1, body=b"again"), send("y", step=2, body=b"and again")))
        assert (await done(store, again)).touched == ("y",)  # it may have been told of the first one in vain
        assert await store.inbox("y") == []
        assert [(told.step, told.failure) for told in await answers(store)] == [(1, None), (1, None), (2, None)]

    stores.run(body)


def test_rows_of_several_senders_and_from_outside_keep_the_order_of_the_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "a", "b", "y")
        await done(
            store,
            append("b", asks=(send("y", "1"), send("y", "2"))),
            deliver("y", "3"),
            append("a", asks=(send("y", "4"), send("y", "2"), send("y", "5"))),
        )
        assert [(r.number, r.key) for r in await store.inbox("y")] == [(n, f"{n}") for n in range(1, 6)]

    stores.run(body)


def test_what_is_meant_for_one_start_is_not_put_into_the_inbox_of_another(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, start("y", start_nonce="y's"))
        stranger = replace(send("y", "for another", step=1), start_nonce="another's")
        assert (await done(store, append(asks=(stranger, replace(send("y"), start_nonce="y's"))))).touched == ("y",)
        assert [r.key for r in await store.inbox("y")] == ["k"]
        [told] = await answers(store)
        assert told.failure is not None
        assert told.failure.matches(ExecutionNotFound)

    stores.run(body)


def test_an_execution_may_send_to_itself(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        answer = await done(store, append(asks=(send("x", step=1),)))
        assert (answer.inbox_last, answer.touched) == (2, ())
        assert [(r.number, r.kind) for r in await store.inbox("x")] == [(1, "signal"), (2, "answer")]
        assert (await row(store)).inbox_last == 2

    stores.run(body)


def test_what_is_sent_to_itself_at_the_end_comes_too_late(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        assert (await done(store, end(asks=(send("x", step=1),)))).inbox_last == 0
        assert await store.inbox("x") == []

    stores.run(body)


def test_a_child_may_be_sent_to_by_the_entry_that_starts_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        answer = await done(store, append(asks=(start_child(), send("x.1", step=2))))
        assert answer.touched == ("x.1",)
        assert [told.failure for told in await answers(store)] == [None]
        assert [r.key for r in await store.inbox("x.1")] == ["k"]
        assert ((await row(store, "x.1")).inbox_last, (await row(store, "x.1")).runnable_at) == (1, NOW)

    stores.run(body)


# --- waking ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("until", [None, NOW + 60])
def test_a_parked_execution_is_woken_in_the_same_transaction(stores: Stores, until: float | None) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append("y"), park("y", until=until), append(asks=(send("y", at=NOW + 5),)))
        assert (await row(store, "y")).runnable_at == NOW + 5

    stores.run(body)


def test_an_owned_execution_is_left_to_its_owner_who_may_not_park_before_it_has_seen_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(send("y"),)))
        assert ((await row(store, "y")).owner, (await row(store, "y")).runnable_at) == ("owner", None)
        assert not (await done(store, park("y"))).parked
        assert (await done(store, park("y", seen=1))).parked

    stores.run(body)


#: A start and a fork whose beginning was delayed.
DELAYED = [
    Start(record("y", runnable_at=NOW + 60)),
    Start(record("y", runnable_at=NOW + 60, last_seq=1, forked_from="z"), (JournalRow(1, b"forked"),)),
]


@pytest.mark.parametrize("delayed", DELAYED, ids=["started", "forked"])
def test_a_signal_waits_for_the_beginning_of_an_execution_that_was_delayed(stores: Stores, delayed: Start) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, delayed, deliver("y", "from outside"), append(asks=(send("y", step=1),)))
        waiting = await row(store, "y")
        assert (waiting.runnable_at, waiting.inbox_last) == (NOW + 60, 2)
        assert [told.failure for told in await answers(store)] == [None]
        await done(store, append(first=2, asks=(send("y", "cancel", kind="cancel", at=NOW + 3),)))
        assert (await row(store, "y")).runnable_at == NOW + 3

    stores.run(body)


@pytest.mark.parametrize("delayed", DELAYED, ids=["started", "forked"])
def test_a_signal_wakes_one_that_has_begun_and_sleeps(stores: Stores, delayed: Start) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        first = delayed.record.last_seq + 1
        await done(store, delayed, claim("y"), append("y", first=first), park("y", until=NOW + 90))
        await done(store, append(asks=(send("y", at=NOW + 61),)))
        assert (await row(store, "y")).runnable_at == NOW + 61

    stores.run(body)


def test_an_overdue_start_is_not_put_off_by_a_signal(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, start("y", runnable_at=NOW - 60), append(asks=(send("y", at=NOW + 1),)))
        assert (await row(store, "y")).runnable_at == NOW - 60

    stores.run(body)


def test_nothing_of_the_store_changes_by_what_cannot_be_sent(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, end("y"), append())
        before = await everything(store)
        await done(store, append(first=2, asks=(send("y"), send("nobody"))))
        after = await everything(store)
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert len(changed) == 2  # the sender's row and journal

    stores.run(body)
