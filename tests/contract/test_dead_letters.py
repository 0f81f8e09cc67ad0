"""Dead letters and notes: written with the journal, superseded by rewinds, deleted with their executions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayflow.errors import CorruptRecord, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Store
from rayflow.storage.model import DeadLetter, StepNote
from rayflow.storage.operations import Done, Park
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    append,
    claim,
    delete,
    deliver,
    done,
    end,
    fail,
    letter,
    note,
    refused,
    rewind,
    row,
    start,
)


def keys(letters: list[DeadLetter]) -> list[tuple[str, int]]:
    return [(found.execution_id, found.step) for found in letters]


# --- dead letters -----------------------------------------------------------------------------------------
def test_a_dead_letter_is_durable_with_the_entry_that_it_belongs_to(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await done(store, start(), claim(), append(), fail("x", 3, first=2))

    async def read(store: Store) -> None:
        assert await store.dead_letters() == [letter("x", 3, seq=2)]
        assert len(await store.journal("x")) == 2

    stores.run(write)
    stores.run(read)


def test_a_refused_append_leaves_no_dead_letter(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim())
        await refused(store, fail("x", 1, epoch=2), WriterFenced)
        await refused(store, fail("x", 1, first=2), CorruptRecord)
        assert await store.dead_letters() == []

    stores.run(body)


@pytest.mark.parametrize(
    "wrong", [letter(seq=2), letter(seq=0), letter("y")], ids=["after its rows", "before its rows", "of another"]
)
def test_a_dead_letter_belongs_to_an_entry_of_its_append(stores: Stores, wrong: DeadLetter) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim())
        error = await refused(store, append(dead_letters=(wrong,)), CorruptRecord)
        assert f"a dead letter of entry {wrong.seq} of {wrong.execution_id!r}" in str(error)
        assert await store.dead_letters() == []

    stores.run(body)


def test_an_append_sent_again_brings_no_dead_letter_back(stores: Stores) -> None:
    async def body(store: Store) -> None:
        operation = append(dead_letters=(letter(),))
        await done(store, start(), claim(), operation)
        assert await store.delete_dead_letters([("x", 1)]) == 1
        await done(store, operation)
        await done(store, append(first=2))
        await done(store, operation)  # late
        assert await store.dead_letters() == []

    stores.run(body)


def test_dead_letters_are_listed_newest_first_filtered_and_limited(stores: Stores) -> None:
    async def body(store: Store) -> None:
        for name in ("a", "b"):
            await done(store, start(name), claim(name))
        await done(store, fail("b", 1, 2, at=NOW + 5), fail("a", 4, at=NOW + 9))
        other = replace(letter("c", 1, at=NOW + 7), workflow_id="v")
        await done(store, start("c"), claim("c"), append("c", dead_letters=(other,)))
        assert keys(await store.dead_letters()) == [("a", 4), ("c", 1), ("b", 2), ("b", 1)]
        assert keys(await store.dead_letters(limit=2)) == [("a", 4), ("c", 1)]
        assert keys(await store.dead_letters(workflow_id="w")) == [("a", 4), ("b", 2), ("b", 1)]
        assert keys(await store.dead_letters(execution_id="b", workflow_id="w")) == [("b", 2), ("b", 1)]
        assert keys(await store.dead_letters(execution_id="b", step=1)) == [("b", 1)]
        assert keys(await store.dead_letters(execution_id="b", workflow_id="v")) == []

    stores.run(body)


def test_a_deleted_dead_letter_is_gone_and_its_execution_stays(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), fail("x", 1, 2, 3))
        before = await row(store)
        assert await store.delete_dead_letters([("x", 1), ("x", 3), ("x", 1), ("y", 1)]) == 2
        assert await store.delete_dead_letters([("x", 1)]) == 0
        assert await store.delete_dead_letters([]) == 0
        assert keys(await store.dead_letters()) == [("x", 2)]
        assert await row(store) == before

    stores.run(body)


def test_a_rewind_removes_the_dead_letters_of_what_it_supersedes(stores: Stores) -> None:
    async def body(store: Store) -> None:
        for name in ("x", "y"):
            await done(store, start(name), claim(name), fail(name, 7, 8, 9))
        await refused(store, rewind(last_seq=2, to=0), WriterFenced)
        assert len(await store.dead_letters(execution_id="x")) == 3
        back = rewind(last_seq=3, to=1)
        await done(store, back)
        assert keys(await store.dead_letters(execution_id="x")) == [("x", 7)]
        assert keys(await store.dead_letters(execution_id="y")) == [("y", 9), ("y", 8), ("y", 7)]
        await done(store, claim(expected=2), fail("x", 8, first=5, epoch=3))
        assert await store.dead_letters(execution_id="x", step=8) == [letter("x", 8, seq=5)]

    stores.run(body)


def test_a_rewind_sent_again_removes_nothing(stores: Stores) -> None:
    async def body(store: Store) -> None:
        back = rewind(last_seq=1, to=0)
        await done(store, start(), claim(), fail("x", 1), back)
        await done(store, back)
        assert await store.dead_letters() == []

    stores.run(body)


def test_in_one_transaction_a_rewind_counts_where_it_stands(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(
            store,
            *(start(), claim(), fail("x", 1, 2)),
            *(rewind(last_seq=2, to=1), claim(expected=2), fail("x", 2, first=4, epoch=3)),
            *(rewind(expected=3, last_seq=4, to=3), claim(expected=4), fail("x", 5, first=6, epoch=5)),
        )
        assert keys(await store.dead_letters()) == [("x", 5), ("x", 1)]

    stores.run(body)


# --- notes ------------------------------------------------------------------------------------------------
def test_the_newest_note_of_a_step_is_kept_and_the_row_stays_as_it_is(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await done(store, start(), claim(), append(), deliver())
        before = await row(store)
        answer = await done(store, note("x", StepNote(2, 1, NOW, "progress", b"1"), StepNote(1, 1, NOW, "waits", b"w")))
        assert answer == Done(epoch=1, last_seq=1, inbox_last=1)
        await done(store, note("x", StepNote(2, 1, NOW + 1, "progress", b"2")))
        assert await row(store) == before

    async def read(store: Store) -> None:
        assert await store.notes("x") == [
            StepNote(1, 1, NOW, "waits", b"w"),
            StepNote(2, 1, NOW + 1, "progress", b"2"),
        ]
        assert await store.notes("nobody") == []

    stores.run(write)
    stores.run(read)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
def test_a_note_that_arrives_late_changes_nothing(stores: Stores, *, together: bool) -> None:
    newest = StepNote(1, 2, NOW, "progress", b"second attempt")
    operations = [
        note("x", newest),
        note("x", StepNote(1, 1, NOW + 9, "progress", b"first attempt")),
        note("x", StepNote(1, 2, NOW - 1, "progress", b"earlier")),
    ]

    async def body(store: Store) -> None:
        await done(store, start(), claim())
        for group in [operations] if together else [[operation] for operation in operations]:
            await done(store, *group)
        assert await store.notes("x") == [newest]
        await done(store, note("x", replace(newest, body=b"same moment")))
        assert [kept.body for kept in await store.notes("x")] == [b"same moment"]

    stores.run(body)


def test_only_the_owner_notes(stores: Stores) -> None:
    async def body(store: Store) -> None:
        progress = StepNote(1, 1, NOW, "progress", b"")
        await done(store, start(), claim())
        assert "epoch 2 may no longer write" in str(await refused(store, note("x", progress, epoch=2), WriterFenced))
        await done(store, Park("x", 1, NOW, NOW))
        assert "was released" in str(await refused(store, note("x", progress), WriterFenced))
        await done(store, claim(expected=1), end(epoch=2))
        await refused(store, note("x", progress, epoch=2), WriterFenced)
        assert await store.notes("x") == []

    stores.run(body)


def test_a_deleted_execution_takes_its_letters_and_notes_along(stores: Stores) -> None:
    async def body(store: Store) -> None:
        for name in ("over", "kept"):
            await done(store, start(name), claim(name), note(name, StepNote(1, 1, NOW, "progress", b"")))
            await done(store, fail(name, 1))
        live = append("live", dead_letters=(letter("live"),))
        await done(store, start("live"), claim("live"), live)
        assert await delete(store, "over", "live") == 1
        assert keys(await store.dead_letters()) == [("live", 1), ("kept", 1)]
        assert (await store.notes("over"), len(await store.notes("kept"))) == ([], 1)
        await done(store, start("over"), claim("over"))
        assert await store.dead_letters(execution_id="over") == []
        assert await store.notes("over") == []
        assert (await row(store, "live")).status is ExecutionStatus.RUNNING

    stores.run(body)
