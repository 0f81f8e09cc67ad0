"""What may be deleted of what is over, in which order, and what goes with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.rules import retention
from rayflow.storage.rules.retention import PurgeFilter
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    append,
    claim,
    delete,
    deliver,
    done,
    end,
    end_child,
    everything,
    fail,
    note,
    rewind,
    row,
    start,
    start_child,
)

COMPLETED, FAILED, CANCELLED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED


async def ended(
    store: Store,
    name: str,
    at: float,
    *,
    status: ExecutionStatus = COMPLETED,
    expires: float | None = None,
    size: int = 0,
) -> None:
    """An execution that is over since then."""
    await done(
        store,
        start(name, input=b"i" * size, code=b"", options=b""),
        claim(name),
        end(name, status=status, at=at, expires_at=expires, result=b""),
    )


async def without_totals(store: Store) -> list[object]:
    found, totals = await everything(store), await store.totals()
    found.remove(totals)
    return found


async def all_of(store: Store, over: PurgeFilter, *, dry_run: bool = False) -> list[str]:
    """What is collected by asking until there is nothing more."""
    ids: list[str] = []
    while True:
        found = await store.collect(over, dry_run=dry_run)
        ids.extend(found.ids)
        if found.after is None:
            return ids
        over = replace(over, after=found.after)


def test_the_time_is_set_by_the_end_and_taken_back_by_a_rewind(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(expires_at=NOW))
        assert (await row(store)).expires_at is None  # it is not over
        await done(store, fail("x", 1, first=2, expires_at=NOW + 5))
        assert (await row(store)).expires_at == NOW + 5
        assert [found.id for found in await store.executions(Filter())] == ["x"]
        await done(store, rewind(last_seq=2))
        assert (await row(store)).expires_at is None
        assert await all_of(store, PurgeFilter(expired_by=NOW + 99)) == []

    stores.run(body)


def test_what_expired_goes_in_the_order_of_its_times_and_nothing_else(stores: Stores) -> None:
    async def body(store: Store) -> None:
        for name, at, expires in (("c", 1.0, 30.0), ("a", 2.0, 20.0), ("b", 3.0, 20.0), ("ever", 4.0, None)):
            await ended(store, name, NOW + at, expires=expires)
        await done(store, start("live", expires_at=1.0), claim("live"))
        assert await all_of(store, PurgeFilter(expired_by=19.9)) == []
        assert (await store.collect(PurgeFilter(expired_by=20.0, limit=1), dry_run=True)).after == (20.0, "a")
        assert await all_of(store, PurgeFilter(expired_by=30.0, limit=1), dry_run=True) == ["a", "b", "c"]
        assert await all_of(store, PurgeFilter(expired_by=20.0, limit=1)) == ["a", "b"]
        assert await all_of(store, PurgeFilter(expired_by=99.0)) == ["c"]
        assert {found.id for found in await store.executions(Filter())} == {"ever", "live"}

    stores.run(body)


def test_what_is_asked_for_is_deleted_by_age_status_and_workflow(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await ended(store, "old", NOW + 1)
        await ended(store, "failed", NOW + 2, status=FAILED)
        await ended(store, "cancelled", NOW + 3, status=CANCELLED)
        await done(store, start("other", workflow_id="v"), claim("other"), end("other", at=NOW + 4))
        await ended(store, "new", NOW + 5)
        assert await all_of(store, PurgeFilter(ended_before=NOW + 5), dry_run=True) == [
            "old",
            "failed",
            "cancelled",
            "other",
        ]
        assert await all_of(store, PurgeFilter(ended_before=NOW + 5, status=(FAILED, CANCELLED))) == [
            "failed",
            "cancelled",
        ]
        assert await all_of(store, PurgeFilter(ended_before=NOW + 5, workflow_id="v")) == ["other"]
        assert await all_of(store, PurgeFilter(ids=("new", "nobody"))) == ["new"]
        assert await all_of(store, PurgeFilter()) == ["old"]

    stores.run(body)


def test_all_of_an_execution_goes_but_what_it_was_counted_in(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("kept"), claim("kept"))
        before = await without_totals(store)
        await done(
            store,
            start("x", input=b"1" * 100, code=b"2" * 20, options=b"3" * 3),
            claim("x"),
            append("x", bodies=[b"4" * 1000]),
            note("x"),
            deliver("x", body=b"5" * 10_000),
            fail("x", 1, first=2, failure=b"6" * 100_000),
        )
        found = await store.collect(PurgeFilter(ids=("x",)), dry_run=True)
        assert 111_123 <= found.size < 111_500
        assert await without_totals(store) != before
        counted = await store.totals()
        assert counted["executions_failed"] == 1
        assert (await store.collect(PurgeFilter(ids=("x",)))).size == found.size
        assert await without_totals(store) == before
        assert await store.totals() == counted
        await done(store, start("x"))  # the id is free again
        assert (await row(store)).last_seq == 0

    stores.run(body)


def test_a_child_stays_while_the_run_that_called_it_may_need_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        calls = (start_child("x.1"), start_child("x.2", step=2))
        await done(store, start("x"), claim("x"), append("x", asks=calls))
        await done(store, claim("x.1"), end_child("x.1"), claim("x.2"), fail("x.2", 1))
        assert await delete(store, "x.1", "x.2") == 0  # it is running
        await done(store, fail("x", 2, first=2))
        assert await delete(store, "x.1", "x.2") == 0  # it may be resumed
        assert await all_of(store, PurgeFilter(), dry_run=True) == ["x", "x.1", "x.2"]
        assert await all_of(store, PurgeFilter(status=(COMPLETED,)), dry_run=True) == []
        await done(store, rewind("x", last_seq=2))
        assert await delete(store, "x", "x.1", "x.2") == 0
        await done(store, claim("x", expected=2), end("x", epoch=3, first=4))
        assert await delete(store, "x.1") == 1  # it has completed
        assert await delete(store, "x") == 1
        assert await delete(store, "x.2") == 1  # it is gone
        assert await store.executions(Filter()) == []

    stores.run(body)


def test_families_stay_that_go_on_with_one_that_may_be_resumed(stores: Stores) -> None:
    async def body(store: Store) -> None:
        bound = start_child("bound", step=1, parent_step=-1)
        called = start_child("x.2", step=2)
        grandchild = start_child("x.2.1", parent="x.2", start_nonce=f"{called.record.start_nonce}/1/1")
        await done(store, start("x"), claim("x"), append("x", asks=(bound, called)))
        await done(store, claim("x.2"), append("x.2", asks=(grandchild,)), claim("x.2.1"), end_child("x.2.1"))
        await done(store, append("x", first=2, next_run=b"again"), claim("x", expected=1))
        await done(store, claim("bound"), end("bound", status=CANCELLED), end("x.2", first=2, status=CANCELLED))
        await done(store, fail("x", 3, epoch=2, first=3))
        assert await delete(store, "bound") == 0  # it goes on with any run of its parent
        assert await delete(store, "x.2", "x.2.1") == 2  # an earlier run had called them
        assert await all_of(store, PurgeFilter(), dry_run=True) == ["bound", "x"]

    stores.run(body)


def test_what_was_given_up_with_its_parent_stays_with_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        called = start_child("x.1")
        later = start_child("x.1.2", parent="x.1", step=2, start_nonce=f"{called.record.start_nonce}/1/2~1")
        await done(store, start("x"), claim("x"), append("x", asks=(called,)))
        await done(store, claim("x.1"), append("x.1", asks=(later,)), claim("x.1.2"), end_child("x.1.2"))
        await done(store, end("x.1", first=2, status=CANCELLED), fail("x", 2, first=2))
        assert await delete(store, "x.1", "x.1.2") == 0  # both go on with x
        assert await delete(store, "x") == 1
        assert await delete(store, "x.1.2", "x.1") == 2

    stores.run(body)


def test_a_child_of_an_earlier_run_or_of_nobody_who_waits_may_go(stores: Stores) -> None:
    async def body(store: Store) -> None:
        calls = (start_child("x.1"), start_child("alone", step=0))
        await done(store, start("x"), claim("x"), append("x", asks=calls))
        await done(store, claim("x.1"), end_child("x.1"), claim("alone"), end("alone"))
        assert await delete(store, "alone") == 1
        assert await delete(store, "x.1") == 0
        await done(store, append("x", first=2, next_run=b"again"))
        assert await delete(store, "x.1") == 1

    stores.run(body)


def test_what_one_transaction_deletes_is_bounded(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(store: Store) -> None:
        monkeypatch.setattr(retention, "MOST_ENTRIES", 5)
        for number, entries in enumerate((3, 2, 1, 9, 1)):
            name = f"x{number}"
            await done(store, start(name), claim(name), append(name, bodies=[b"e"] * entries))
            await done(store, end(name, first=entries + 1, at=NOW + number))
        batches = []
        over = PurgeFilter()
        while True:
            found = await store.collect(over)
            batches.append(found.ids)
            if found.after is None:
                break
            over = replace(over, after=found.after)
        assert batches == [("x0",), ("x1", "x2"), ("x3",), ("x4",)]

    stores.run(body)
