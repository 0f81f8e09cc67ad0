"""Appends: order, fencing, sending again, parking and the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayflow.errors import CorruptRecord, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Store
from rayflow.storage.model import JournalRow
from rayflow.storage.operations import Done
from tests.contract.conftest import Stores
from tests.contract.operations import NOW, append, claim, deliver, done, end, park, refused, row, start


def test_rows_are_read_back_in_order_and_from_a_position(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await done(store, start(), claim(), append(bodies=(b"1", b"2")))
        await done(store, append(first=3, bodies=(b"3",), at=NOW + 3))

    async def read(store: Store) -> None:
        assert await store.journal("x") == [JournalRow(1, b"1"), JournalRow(2, b"2"), JournalRow(3, b"3")]
        assert await store.journal("x", after=2) == [JournalRow(3, b"3")]
        assert await store.journal("x", after=3) == []
        assert await store.journal("nobody") == []
        current = await row(store)
        assert (current.last_seq, current.status, current.updated_at) == (3, ExecutionStatus.RUNNING, NOW + 3)
        assert current.last_digest == append(first=3, bodies=(b"3",)).digest

    stores.run(write)
    stores.run(read)


def test_journals_of_neighbours_do_not_mix(stores: Stores) -> None:
    async def body(store: Store) -> None:
        for name in ("a", "ab", "b"):
            await done(store, start(name), claim(name), append(name, bodies=(name.encode(),)))
        assert [r.body for r in await store.journal("a")] == [b"a"]
        assert [r.body for r in await store.journal("ab")] == [b"ab"]

    stores.run(body)


def test_an_append_sent_again_is_acknowledged_and_not_applied_again(stores: Stores) -> None:
    async def body(store: Store) -> None:
        operation = append(bodies=(b"1", b"2"), counts={"steps": 2})
        first = await done(store, start(), claim(), operation)
        before = await row(store)
        assert await done(store, replace(operation, at=NOW + 99)) == first
        assert await row(store) == before
        assert len(await store.journal("x")) == 2
        assert (await store.totals())["steps"] == 2

    stores.run(body)


def test_a_late_duplicate_of_an_older_append_takes_nothing_back(stores: Stores) -> None:
    async def body(store: Store) -> None:
        first = append(bodies=(b"1",))
        await done(store, start(), claim(), first, append(first=2, status=ExecutionStatus.PAUSED, failure=b"why"))
        before = await row(store)
        answer = await done(store, first)
        assert answer.last_seq == 2
        assert await row(store) == before
        assert before.status is ExecutionStatus.PAUSED

    stores.run(body)


def test_two_different_appends_at_one_place_are_a_corrupt_record(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(bodies=(b"1",)))
        error = await refused(store, append(bodies=(b"other",)), CorruptRecord)
        assert error.execution_id == "x"
        assert "entry 1 in epoch 1" in str(error)

    stores.run(body)


@pytest.mark.parametrize(
    ("first", "bodies", "said"),
    [(3, (b"",), "begins at entry 3"), (1, (b"", b""), "begins at entry 1"), (2, (), "holds entries []")],
    ids=["gap", "overlap", "empty"],
)
def test_an_append_continues_where_the_journal_ends(
    stores: Stores, first: int, bodies: tuple[bytes, ...], said: str
) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append())
        assert said in str(await refused(store, append(first=first, bodies=bodies), CorruptRecord))

    stores.run(body)


def test_rows_must_be_numbered_as_the_append_says(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim())
        await refused(store, append(rows=(JournalRow(2, b""),)), CorruptRecord)

    stores.run(body)


def test_nobody_appends_without_a_claim(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start())
        await refused(store, append(epoch=0), WriterFenced)
        await refused(store, append(epoch=1), WriterFenced)

    stores.run(body)


def test_parking_gives_the_execution_up_until_it_is_due(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append())
        answer = await done(store, park(until=NOW + 60))
        assert answer == Done(epoch=1, last_seq=1, inbox_last=0, parked=True)
        parked = await row(store)
        assert (parked.owner, parked.runnable_at, parked.status) == ("", NOW + 60, ExecutionStatus.RUNNING)
        assert await done(store, park(until=NOW + 60)) == answer  # sent again
        assert "was released" in str(await refused(store, append(first=2), WriterFenced))
        await done(store, claim(expected=1, nonce="next"), append(first=2, epoch=2))

    stores.run(body)


def test_parking_is_refused_while_an_inbox_row_was_not_seen(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(), deliver())
        answer = await done(store, park(until=NOW + 60))
        assert answer == Done(epoch=1, last_seq=1, inbox_last=1, parked=False)
        kept = await row(store)
        assert (kept.owner, kept.runnable_at, kept.last_seq) == ("owner", None, 1)
        assert (await done(store, append(first=2, inbox_done=1), park(seen=1))).parked
        assert ((await row(store)).owner, (await row(store)).runnable_at) == ("", None)

    stores.run(body)


def test_an_append_sent_again_after_parking_says_that_nobody_owns_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(), park())
        assert (await done(store, append())).parked

    stores.run(body)


@pytest.mark.parametrize("status", [s for s in ExecutionStatus if s.terminal])
def test_the_end_is_final(stores: Stores, status: ExecutionStatus) -> None:
    async def body(store: Store) -> None:
        operation = end(status=status, at=NOW + 30, result=b"result", failure=b"failure", counts={"steps": 1.5})
        await done(store, start(), claim(), deliver(), operation)
        over = await row(store)
        assert (over.status, over.result, over.failure) == (status, b"result", b"failure")
        assert (over.owner, over.runnable_at, over.inbox_done) == ("", None, 0)
        assert [left.number for left in await store.inbox("x")] == [1]  # it came too late, and stays visible
        assert await store.totals() == {
            "executions_started": 1,
            f"executions_{status}": 1,
            "execution_seconds": 30,
            "steps": 1.5,
        }
        await done(store, operation)  # sent again
        await refused(store, append(first=2), WriterFenced)
        assert await row(store) == over

    stores.run(body)


def test_an_append_says_what_the_row_says_of_deadline_result_and_failure(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(deadline=NOW + 1), claim(), append(status=ExecutionStatus.PAUSED, failure=b"why"))
        paused = await row(store)
        assert (paused.deadline, paused.failure, paused.owner) == (NOW + 1, b"why", "owner")
        await done(store, append(first=2, deadline=NOW + 2))
        resumed = await row(store)
        assert (resumed.deadline, resumed.failure, resumed.status) == (NOW + 2, None, ExecutionStatus.RUNNING)

    stores.run(body)
