"""Starts: one at a time (singletons), later (delays), and from another's journal (forks)."""

from __future__ import annotations

from rayflow.errors import SingletonConflict, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.model import InboxRow, JournalRow
from rayflow.storage.operations import AlreadyExists, Done, Rejected, Start
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    append,
    claim,
    delete,
    deliver,
    done,
    end,
    everything,
    fail,
    park,
    record,
    refused,
    rewind,
    row,
    start,
)

FAILED = ExecutionStatus.FAILED


# --- singletons -------------------------------------------------------------------------------------------------
def test_of_one_singleton_there_is_one_unfinished_execution(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await done(store, start("a", singleton="one"), start("b"), start("c", singleton="two"))

    async def read(store: Store) -> None:
        error = await refused(store, start("d", singleton="one"), SingletonConflict)
        assert error.execution_id == "a"
        assert (await row(store, "a")).singleton == "one"
        await done(store, claim("a"), append("a", status=ExecutionStatus.PAUSED), park("a"))
        await refused(store, start("d", singleton="one"), SingletonConflict)

    stores.run(write)
    stores.run(read)


def test_the_same_start_again_is_answered_and_not_refused(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("a", singleton="one"))
        [answer] = await store.commit([start("a", singleton="one")])
        assert isinstance(answer, AlreadyExists)
        await done(store, claim("a"), end("a"), start("b", singleton="one"))
        [answer] = await store.commit([start("a", singleton="one")])  # also where another has it by now
        assert isinstance(answer, AlreadyExists)

    stores.run(body)


def test_two_in_one_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        answers = await store.commit([start(name, singleton="one") for name in "abc"])
        assert [type(answer) for answer in answers] == [Done, Rejected, Rejected]
        assert [found.id for found in await store.executions(Filter())] == ["a"]
        assert (await store.totals())["executions_started"] == 1

    stores.run(body)


def test_the_end_makes_room_for_the_next_one_also_in_the_same_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("a", singleton="one"), claim("a"))
        answers = await store.commit([
            start("b", singleton="one"),
            end("a"),
            start("c", singleton="one"),
            claim("c"),
            start("d", singleton="one"),
        ])  # fmt: skip
        assert [type(answer) for answer in answers] == [Rejected, Done, Done, Done, Rejected]
        await done(store, end("c"), start("d", singleton="one"), claim("d"), end("d"), start("e", singleton="one"))
        assert [found.id for found in await store.executions(Filter())] == ["e", "d", "c", "a"]

    stores.run(body)


def test_a_rewind_takes_the_singleton_again_unless_another_has_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("a", singleton="one"), claim("a"), end("a", status=FAILED))
        await done(store, start("b", singleton="one"))
        error = await refused(store, rewind("a"), SingletonConflict)
        assert error.execution_id == "b"
        await done(store, claim("b"), end("b"), rewind("a"))
        await refused(store, start("c", singleton="one"), SingletonConflict)
        await done(store, rewind("a"))  # sent again

    stores.run(body)


def test_a_start_and_a_rewind_of_one_singleton_in_one_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("a", singleton="one"), claim("a"), end("a", status=FAILED))
        answers = await store.commit([start("b", singleton="one"), rewind("a")])
        assert [type(answer) for answer in answers] == [Done, Rejected]
        await done(store, claim("b"), end("b"))
        answers = await store.commit([rewind("a"), start("c", singleton="one")])
        assert [type(answer) for answer in answers] == [Done, Rejected]

    stores.run(body)


# --- delayed ----------------------------------------------------------------------------------------------------
def test_a_delayed_start_needs_an_owner_when_its_time_has_come(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("later", runnable_at=NOW + 60), start("now"))
        assert [found.id for found in await store.executions(Filter(runnable_before=NOW + 59))] == ["now"]
        assert [found.id for found in await store.executions(Filter(runnable_before=NOW + 60))] == ["now", "later"]
        assert [found.id for found in await store.executions(Filter(driven=True))] == ["now", "later"]

    stores.run(body)


def test_a_delayed_start_is_begun_early_for_whoever_steers_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(runnable_at=NOW + 60), deliver(key="signal"))
        assert (await row(store)).runnable_at == NOW + 60
        await done(store, deliver(key="cancel", kind="cancel", at=NOW + 1))
        assert (await row(store)).runnable_at == NOW + 1

    stores.run(body)


# --- forks ------------------------------------------------------------------------------------------------------
ROWS = (JournalRow(1, b"started"), JournalRow(2, b"forked"))


def test_a_fork_begins_with_the_rows_that_it_takes_over(stores: Stores) -> None:
    async def write(store: Store) -> None:
        made = record("fork", last_seq=2, forked_from="x", run=3)
        assert await done(store, Start(made, ROWS)) == Done(epoch=0, last_seq=2, inbox_last=0)

    async def read(store: Store) -> None:
        forked = await row(store, "fork")
        assert (forked.forked_from, forked.run, forked.last_seq, forked.epoch) == ("x", 3, 2, 0)
        assert await store.journal("fork") == list(ROWS)
        await done(store, claim("fork"), append("fork", first=3))
        assert [r.seq for r in await store.journal("fork")] == [1, 2, 3]

    stores.run(write)
    stores.run(read)


def test_a_fork_begins_with_the_inbox_that_it_is_given(stores: Stores) -> None:
    async def body(store: Store) -> None:
        carried = tuple(InboxRow(f"fork/{n}", "carried", b"%d" % n, NOW) for n in range(2))
        made = record("fork", last_seq=2, forked_from="x")
        assert (await done(store, Start(made, ROWS, carried))).inbox_last == 2
        await done(store, deliver("fork", "late"), deliver("fork", "fork/1"))
        assert [(r.number, r.key) for r in await store.inbox("fork")] == [(1, "fork/0"), (2, "fork/1"), (3, "late")]
        await done(store, claim("fork"), append("fork", first=3, inbox_done=2))
        assert [r.key for r in await store.inbox("fork")] == ["late"]

    stores.run(body)


def test_the_same_fork_again_writes_no_row_twice(stores: Stores) -> None:
    async def body(store: Store) -> None:
        made = Start(record("fork", last_seq=2, forked_from="x"), ROWS)
        first, second = await store.commit([made, made])
        assert isinstance(first, Done)
        assert isinstance(second, AlreadyExists)
        before = await everything(store)
        [again] = await store.commit([made])
        assert isinstance(again, AlreadyExists)
        assert again.record == made.record
        assert await everything(store) == before

    stores.run(body)


def test_a_fork_whose_singleton_is_taken_leaves_no_rows(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("other", singleton="one"))
        await refused(store, Start(record("fork", last_seq=2, singleton="one"), ROWS), SingletonConflict)
        assert await store.journal("fork") == []

    stores.run(body)


def test_the_other_execution_stays_as_it_is_and_may_be_deleted(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), fail("x", 1))
        before = (await row(store), await store.journal("x"), await store.dead_letters(execution_id="x"))
        await done(store, Start(record("fork", last_seq=2, forked_from="x"), ROWS))
        assert (await row(store), await store.journal("x"), await store.dead_letters(execution_id="x")) == before
        assert await store.dead_letters(execution_id="fork") == []
        await delete(store, "x")
        assert await store.journal("fork") == list(ROWS)
        await refused(store, append("fork", first=3, epoch=0), WriterFenced)  # it has to be claimed like any other

    stores.run(body)
