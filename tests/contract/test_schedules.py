"""Schedules: what is due is started and noted in one transaction, by compare-and-set on the version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayflow.errors import SingletonConflict, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.model import ExecutionRecord
from rayflow.storage.operations import DeliverTo, Done, FireSchedule, Rejected
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    append,
    begun,
    claim,
    delete,
    done,
    end,
    everything,
    park,
    record,
    refused,
    row,
    schedule,
    send,
    start,
)


def due(name: str, **changes: str) -> ExecutionRecord:
    return record(name, schedule="nightly", start_nonce=f"schedule/{name}", **changes)


def fire(*starts: str, version: int = 2, cancels: tuple[DeliverTo, ...] = (), name: str = "nightly") -> FireSchedule:
    return FireSchedule(schedule(name, version), tuple(due(start) for start in starts), cancels, NOW)


# --- records ----------------------------------------------------------------------------------------------------
def test_schedules_are_kept_by_name_and_replaced(stores: Stores) -> None:
    async def write(store: Store) -> None:
        for saved in (schedule("b"), schedule("a", wake=None), schedule("b", 2, spec=b"other")):
            await store.save_schedule(saved)

    async def read(store: Store) -> None:
        assert await store.schedules() == [schedule("a", wake=None), schedule("b", 2, spec=b"other")]
        assert await store.delete_schedule("a") is True
        assert await store.delete_schedule("a") is False
        assert [found.name for found in await store.schedules()] == ["b"]

    stores.run(write)
    stores.run(read)


# --- firing -----------------------------------------------------------------------------------------------------
def test_starts_cancels_and_the_new_state_are_one_transaction(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await store.save_schedule(schedule())
        await done(store, start("old"), claim("old"), append("old"), park("old"))
        cancels = (send("old", "cancel", kind="cancel", at=NOW + 1), send("nobody", "cancel", kind="cancel"))
        assert await done(store, fire("d1", "d2", cancels=cancels)) == Done(0, 0, 0, touched=("d1", "d2", "old"))

    async def read(store: Store) -> None:
        assert await store.schedules() == [schedule(version=2)]
        assert [await row(store, name) for name in ("d1", "d2")] == [due("d1"), due("d2")]
        assert [r.key for r in await store.inbox("old")] == ["cancel"]
        assert (await row(store, "old")).runnable_at == NOW + 1
        assert (await store.totals())["executions_started"] == 3

    stores.run(write)
    stores.run(read)


@pytest.mark.parametrize("version", [0, 1, 3])
def test_another_version_than_the_next_is_fenced_and_changes_nothing(stores: Stores, version: int) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        await begun(store, "old")
        operation = fire("d1", version=version, cancels=(send("old"),))
        assert "at version 1" in str(await refused(store, operation, WriterFenced))

    stores.run(body)


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "in one commit"])
def test_of_two_timekeepers_with_the_same_version_one_fires(stores: Stores, *, together: bool) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        first, second = fire("d1"), replace(fire("d2"), record=schedule(version=2, state=b"of the second"))
        if together:
            one, other = await store.commit([first, second])
        else:
            [one], [other] = await store.commit([first]), await store.commit([second])
        assert isinstance(one, Done)
        assert isinstance(other, Rejected)
        assert isinstance(other.error, WriterFenced)
        assert await store.schedules() == [schedule(version=2)]
        assert [found.id for found in await store.executions(Filter())] == ["d1"]

    stores.run(body)


def test_one_that_is_sent_again_because_its_answer_was_lost_starts_nothing_twice(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        await done(store, fire("d1"), claim("d1"), end("d1"))
        await delete(store, "d1")
        await refused(store, fire("d1"), WriterFenced)

    stores.run(body)


def test_a_schedule_that_is_gone_fires_no_more(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        await store.delete_schedule("nightly")
        assert "gone" in str(await refused(store, fire("d1"), WriterFenced))

    stores.run(body)


def test_several_versions_and_schedules_in_one_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule("a"))
        await store.save_schedule(schedule("b", 8))
        await done(
            store,
            fire("a1", name="a"),
            fire("b1", name="b", version=9),
            fire("a2", name="a", version=3),
        )
        assert await store.schedules() == [schedule("a", 3), schedule("b", 9)]
        assert [found.id for found in await store.executions(Filter())] == ["a2", "b1", "a1"]

    stores.run(body)


def test_an_execution_that_is_there_already_is_left_alone(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        await begun(store, "d1")
        there = await row(store, "d1")
        assert (await done(store, fire("d1", "d2"))).touched == ("d2",)
        assert await row(store, "d1") == there
        assert await store.schedules() == [schedule(version=2)]

    stores.run(body)


def test_starts_of_which_one_may_not_be_are_refused_together(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        await done(store, start("other", singleton="one"))
        taken = FireSchedule(schedule(version=2), (due("d2"), due("d1", singleton="one")), (), NOW)
        assert (await refused(store, taken, SingletonConflict)).execution_id == "other"
        twice = FireSchedule(schedule(version=2), (due("d3", singleton="two"), due("d4", singleton="two")), (), NOW)
        assert (await refused(store, twice, SingletonConflict)).execution_id == "d3"
        one = FireSchedule(schedule(version=2), (due("d2"), due("d3", singleton="two")), (), NOW)
        assert (await done(store, one)).touched == ("d2", "d3")
        there = FireSchedule(schedule(version=3), (due("d3", singleton="two"),), (), NOW)
        assert (await done(store, there)).touched == ()

    stores.run(body)


def test_one_that_gives_way_may_be_over_and_the_next_starts_all_the_same(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        await done(store, fire("d1"), claim("d1"), end("d1"))
        answer = await done(store, fire("d2", version=3, cancels=(send("d1", "cancel", kind="cancel"),)))
        assert answer.touched == ("d2",)
        assert (await row(store, "d1")).status is ExecutionStatus.COMPLETED

    stores.run(body)


def test_a_neighbour_that_is_refused_keeps_nobody_from_firing(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        answers = await store.commit([append("nobody"), fire("d1"), append("d1"), claim("d1")])
        assert [type(answer) for answer in answers] == [Rejected, Done, Rejected, Done]
        assert (await row(store, "d1")).owner == "owner"

    stores.run(body)


def test_executions_are_listed_by_their_schedule_newest_first(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        await done(store, start("by hand"), fire("d1", "d2"), start("other", schedule="weekly"))
        assert [found.id for found in await store.executions(Filter(schedule="nightly"))] == ["d2", "d1"]
        assert [found.id for found in await store.executions(Filter(schedule="weekly"))] == ["other"]
        assert await store.executions(Filter(schedule="unknown")) == []

    stores.run(body)


def test_nothing_to_start_is_a_change_of_the_schedule_alone(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.save_schedule(schedule())
        await begun(store, "x")
        before = await everything(store)
        assert await done(store, fire()) == Done(0, 0, 0)
        after = await everything(store)
        assert [new for old, new in zip(before, after, strict=True) if old != new] == [[schedule(version=2)]]

    stores.run(body)
