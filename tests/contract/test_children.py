"""Children: started in the transaction of the entry that calls for them, and their ends told in their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayflow.core.events import label
from rayflow.errors import CorruptRecord, ExecutionAlreadyExists, Failure, SingletonConflict
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.operations import AlreadyExists
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    answered,
    answers,
    append,
    begun,
    claim,
    delete,
    done,
    end,
    end_child,
    everything,
    park,
    rewind,
    row,
    start,
    start_child,
)

FAILED = ExecutionStatus.FAILED
LABEL = label("child", "child")
NO = Failure("ValueError", "no")


# --- starting ---------------------------------------------------------------------------------------------------
def test_a_child_is_started_with_the_entry_that_calls_for_it(stores: Stores) -> None:
    ask = start_child(input=b"its input", runnable_at=NOW + 5)

    async def write(store: Store) -> None:
        await begun(store, "x")
        answer = await done(store, append(asks=(ask,)))
        assert (answer.last_seq, answer.inbox_last, answer.touched) == (1, 0, ("x.1",))

    async def read(store: Store) -> None:
        assert await row(store, "x.1") == ask.record
        assert await answers(store) == []
        assert await store.totals() == {"executions_started": 2}
        await done(store, claim("x.1"), append("x.1"))

    stores.run(write)
    stores.run(read)


def test_children_are_listed_by_their_parent_in_the_order_of_their_calls(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(start_child("x.2", step=2), start_child("x.1"))))
        await done(store, append("y", asks=(start_child("y.1", parent="y"),)))
        await done(store, append(first=2, asks=(start_child("x.3", step=3, created_at=NOW + 1),)))
        assert [found.id for found in await store.executions(Filter(parent="x"))] == ["x.2", "x.1", "x.3"]
        assert [found.id for found in await store.executions(Filter(parent="x", limit=2))] == ["x.2", "x.1"]
        assert [found.id for found in await store.executions(Filter(parent="y"))] == ["y.1"]
        assert await store.executions(Filter(parent="x.1")) == []

    stores.run(body)


def test_one_that_is_only_started_is_answered_at_once_with_its_id(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        answer = await done(store, append(at=NOW + 1, asks=(start_child("mine", waits=False),)))
        assert (answer.inbox_last, answer.touched) == (1, ("mine",))
        told = answered(value="mine", worker="mine", at=NOW + 1)
        assert await answers(store) == [told]
        # Asked again, after a rewind: this very call has started it.
        await done(store, append(first=2, at=NOW + 2, asks=(start_child("mine", waits=False),)))
        assert await answers(store) == [told, replace(told, at=NOW + 2)]
        assert (await store.totals())["executions_started"] == 2

    stores.run(body)


def test_the_same_call_again_starts_nothing_and_is_not_answered_while_the_child_runs(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(),)), claim("x.1"), append("x.1"))
        child = await row(store, "x.1")
        assert (await done(store, append(first=2, asks=(start_child(input=b"other"),)))).touched == ()
        assert await row(store, "x.1") == child
        assert await answers(store) == []

    stores.run(body)


def test_a_parent_may_end_with_the_entry_that_starts_a_child(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        answer = await done(store, end(asks=(start_child("mine", waits=False),)))
        assert (answer.parked, answer.touched, answer.inbox_last) == (True, ("mine",), 0)
        assert (await row(store, "mine")).status is ExecutionStatus.PENDING

    stores.run(body)


# --- an id that is taken --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("there", "waits"),
    [
        ({"workflow_id": "child", "identity": "identity"}, True),  # the same input, but its end is told to nobody
        ({"workflow_id": "child", "identity": "other"}, False),
        ({"workflow_id": "other", "identity": "identity"}, False),
        ({"workflow_id": "child", "identity": ""}, False),
    ],
    ids=["awaited", "another input", "another workflow", "inputs that cannot be compared"],
)
def test_a_child_whose_id_is_taken_fails_and_leaves_the_other_alone(
    stores: Stores, there: dict[str, str], *, waits: bool
) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, start("mine", start_nonce="a client's", **there))
        taken = await row(store, "mine")
        identity = there["identity"] and "identity"
        answer = await done(store, append(asks=(start_child("mine", waits=waits, identity=identity),)))
        assert answer.touched == ()
        [told] = await answers(store)
        assert (told.step, told.name, told.value, told.worker) == (1, LABEL, None, "")  # it has no child
        assert told.failure is not None
        assert told.failure.matches(ExecutionAlreadyExists)
        assert await row(store, "mine") == taken

    stores.run(body)


def test_the_same_execution_that_somebody_else_started_may_be_started(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, start("mine", workflow_id="child", start_nonce="a client's"))
        await done(store, append(asks=(start_child("mine", waits=False),)))
        [told] = await answers(store)
        assert (told.value, told.failure) == ("mine", None)

    stores.run(body)


def test_a_start_from_outside_meets_the_child(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        _, met = await store.commit([append(asks=(start_child("mine"),)), start("mine")])
        assert isinstance(met, AlreadyExists)
        assert met.record == await row(store, "mine") == start_child("mine").record

    stores.run(body)


def test_a_child_whose_singleton_is_taken_fails(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, start("other", singleton="one"))
        await done(store, append(asks=(start_child(singleton="one"), start_child("x.2", step=2))))
        [told] = await answers(store)
        assert told.step == 1
        assert told.failure is not None
        assert told.failure.matches(SingletonConflict)
        assert await store.execution("x.1") is None
        assert await store.execution("x.2") is not None

    stores.run(body)


# --- ending ---------------------------------------------------------------------------------------------------------
def test_a_childs_end_is_told_in_its_own_last_append_and_wakes_its_parent(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(),)), park(), claim("x.1"))
        assert (await row(store)).runnable_at is None
        last = end_child(at=NOW + 9)
        answer = await done(store, last)
        assert (answer.parked, answer.touched) == (True, ("x",))
        before = await everything(store)
        assert (await done(store, last)).touched == ()  # sent again
        assert await everything(store) == before

    async def read(store: Store) -> None:
        assert await answers(store) == [answered(result=b"result", began=NOW, worker="x.1", at=NOW + 9, rewinds=0)]
        assert ((await row(store)).runnable_at, (await row(store, "x.1")).result) == (NOW + 9, b"result")

    stores.run(write)
    stores.run(read)


def test_a_child_may_begin_and_end_in_one_commit_with_its_parents_call(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(),)), claim("x.1"), end_child(failure=NO), append(first=2))
        [told] = await answers(store)
        assert (told.step, told.result, told.failure) == (1, None, NO)
        assert (await row(store)).owner == "owner"

    stores.run(body)


@pytest.mark.parametrize("gone", [False, True], ids=["over", "deleted"])
def test_a_parent_that_is_over_hears_nothing_and_the_child_ends_all_the_same(stores: Stores, *, gone: bool) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(),)), claim("x.1"), end(first=2))
        if gone:
            assert await delete(store, "x") == 1
        answer = await done(store, end_child())
        assert (answer.parked, answer.touched) == (True, ())
        assert (await row(store, "x.1")).status is ExecutionStatus.COMPLETED
        assert await store.inbox("x") == []

    stores.run(body)


def test_another_execution_with_the_parents_id_hears_nothing(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(),)), claim("x.1"), end(first=2))
        await delete(store, "x")
        await done(store, start(start_nonce="another"), claim(), append())
        assert (await done(store, end_child())).touched == ()
        assert await answers(store) == []

    stores.run(body)


def test_the_next_run_of_the_parent_hears_nothing(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(),)), claim("x.1"), append(first=2, next_run=b"input"))
        assert (await done(store, end_child())).touched == ()
        ask = start_child("x.r2.1", start_nonce="nonce/2/1")
        await done(store, claim(expected=1), append(first=3, epoch=2, asks=(ask,)), claim("x.r2.1"))
        await done(store, end_child("x.r2.1"))
        assert [(told.worker, told.run) for told in await answers(store)] == [("x.r2.1", 2)]

    stores.run(body)


def test_a_child_whose_record_is_damaged_fails_its_parents_call_and_nobody_else(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(start_child(),)), claim("x.1"), end(first=2, status=FAILED))
        await done(store, end("x.1", status=FAILED, failure=b"damaged"), rewind(last_seq=2), claim(expected=2))
        await done(store, append("y"), append(first=4, epoch=3, asks=(start_child(),)))
        [told] = await answers(store)
        assert told.failure is not None
        assert told.failure.matches(CorruptRecord)
        assert (await row(store, "y")).last_seq == 1

    stores.run(body)


@pytest.mark.parametrize("failure", [None, NO], ids=["completed", "failed"])
def test_a_rewound_parent_asks_again_for_a_child_that_ended_meanwhile(stores: Stores, failure: Failure | None) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(created_at=NOW - 7),)), claim("x.1"), end(first=2, status=FAILED))
        await done(store, end_child(failure=failure), rewind(last_seq=2), claim(expected=2))
        assert await answers(store) == []
        again = append(first=4, epoch=3, at=NOW + 1, asks=(start_child(),))
        assert (await done(store, again)).inbox_last == 1
        result = b"result" if failure is None else None
        told = answered(result=result, failure=failure, began=NOW - 7, worker="x.1", at=NOW + 1)
        assert await answers(store) == [told]
        await done(store, again)  # sent again
        assert await answers(store) == [told]

    stores.run(body)


def test_a_rewound_parent_hears_of_a_child_that_still_runs_when_it_ends(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(),)), claim("x.1"), end(first=2, status=FAILED))
        await done(store, rewind(last_seq=2), claim(expected=2), append(first=4, epoch=3, asks=(start_child(),)))
        assert await answers(store) == []
        await done(store, end_child())
        assert [told.worker for told in await answers(store)] == ["x.1"]

    stores.run(body)


def test_a_child_that_was_rewound_tells_its_end_once_more(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(),)), claim("x.1"), end_child(failure=NO))
        await done(store, rewind("x.1"), claim("x.1", expected=2), end_child(first=3, epoch=3))
        assert [told.failure for told in await answers(store)] == [NO, None]

    stores.run(body)


def test_a_record_of_a_child_keeps_whose_it_is(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(start_child(step=7),)), claim("x.1"), append("x.1"), park("x.1"))

    async def read(store: Store) -> None:
        child = await row(store, "x.1")
        assert (child.parent, child.parent_step, child.start_nonce) == ("x", 7, "nonce/1/7")
        parent = await row(store)
        assert (parent.parent, parent.parent_step) == ("", 0)

    stores.run(write)
    stores.run(read)
