"""Continuing as new: the next run begins with its own input and journal, and everything else stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rayflow.errors import CorruptRecord, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.model import JournalRow, StepNote
from rayflow.storage.operations import AlreadyExists, Append, Done
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
    everything,
    leave,
    letter,
    note,
    refused,
    rewind,
    row,
    start,
    start_child,
    take,
)


def next_run(*, first: int = 2, data: bytes = b"next input", last: bytes = b"continued", **changes: Any) -> Append:
    return append(first=first, bodies=(b"last of this run", last), next_run=data, **changes)


def test_the_input_is_replaced_and_the_journal_before_its_last_entry_deleted(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await done(store, start(deadline=NOW + 99), claim(), append())
        before = await row(store)
        operation = next_run(at=NOW + 5)
        assert await done(store, operation) == Done(epoch=1, last_seq=3, inbox_last=0, parked=True)
        assert await row(store) == replace(
            before, input=b"next input", run=2, owner="", runnable_at=NOW + 5, updated_at=NOW + 5, last_seq=3,
            last_digest=operation.digest,
        )  # fmt: skip

    async def read(store: Store) -> None:
        assert await store.journal("x") == [JournalRow(3, b"continued")]
        assert (await row(store)).input == b"next input"
        assert (await store.executions(Filter()))[0].input == b"next input"
        assert await store.totals() == {"executions_started": 1}  # it is the same execution, and has not ended

    stores.run(write)
    stores.run(read)


def test_it_is_given_up_and_its_next_owner_has_another_epoch(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(), next_run())
        await refused(store, append(first=4), WriterFenced)
        assert [found.id for found in await store.executions(Filter(runnable_before=NOW))] == ["x"]
        await done(store, claim(expected=1), append(first=4, epoch=2))
        assert [r.seq for r in await store.journal("x")] == [3, 4]
        assert ((await row(store)).run, (await row(store)).runnable_at) == (2, None)

    stores.run(body)


def test_sent_again_it_is_acknowledged_and_nothing_more(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(), next_run())
        before = await everything(store)
        assert (await done(store, next_run())).parked
        await refused(store, next_run(last=b"another"), CorruptRecord)
        assert await everything(store) == before
        await done(store, claim(expected=1), append(first=4, epoch=2))
        await refused(store, next_run(), WriterFenced)
        assert (await row(store)).run == 2

    stores.run(body)


def test_several_runs_in_one_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(
            store,
            start(),
            claim(),
            append(),
            next_run(data=b"second"),
            claim(expected=1),
            append(first=4, epoch=2),
            next_run(first=5, epoch=2, data=b"third"),
            claim(expected=2),
            append(first=7, epoch=3),
        )
        assert [r.seq for r in await store.journal("x")] == [6, 7]
        assert ((await row(store)).run, (await row(store)).input) == (3, b"third")

    stores.run(body)


def test_what_the_run_did_not_apply_stays_in_the_inbox_and_keys_stay_known(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(), deliver(key="a"), deliver(key="b"), next_run(inbox_done=1))
        assert [(r.number, r.key) for r in await store.inbox("x")] == [(2, "b")]
        await done(store, deliver(key="a"), deliver(key="c", at=NOW - 1))
        assert [(r.number, r.key) for r in await store.inbox("x")] == [(2, "b"), (3, "c")]
        assert (await row(store)).runnable_at == NOW - 1

    stores.run(body)


def test_notes_go_with_the_run_and_dead_letters_stay(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(
            store,
            append(dead_letters=(letter(),)),
            note("x", StepNote(1, 1, NOW, "progress", b"half")),
            note("y", StepNote(1, 1, NOW, "progress", b"all")),
        )
        await done(store, note("x", StepNote(2, 1, NOW, "progress", b"half")), next_run())
        assert (await store.notes("x"), len(await store.notes("y"))) == ([], 1)
        assert await store.dead_letters(execution_id="x") == [letter()]
        later = StepNote(1, 1, NOW - 5, "progress", b"of the third run")
        again = next_run(first=5, epoch=2)
        await done(
            store, claim(expected=1), append(first=4, epoch=2), again, claim(expected=2), note("x", later, epoch=3)
        )
        assert await store.notes("x") == [later]

    stores.run(body)


def test_what_its_last_entries_ask_is_asked_in_the_same_transaction(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), append("y", asks=(take(),)))
        answer = await done(store, next_run(inbox_done=1, asks=(leave(), start_child("mine", step=2, waits=False))))
        assert answer.touched == ("y", "mine")
        assert await claims(store) == [("y", 2)]
        assert (await row(store)).claims == 0
        assert await answers(store, after=1) == []  # the run that asked is over

    stores.run(body)


def test_the_start_stays_the_same_start(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(), next_run())
        [answer] = await store.commit([start(start_nonce="another client's")])
        assert isinstance(answer, AlreadyExists)
        assert (answer.record.identity, answer.record.input, answer.record.run) == ("identity", b"next input", 2)

    stores.run(body)


def test_a_later_run_fails_and_is_rewound_within_itself(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(), next_run(), claim(expected=1), append(first=4, epoch=2))
        await done(store, end(first=5, epoch=2, status=ExecutionStatus.FAILED))
        await done(store, rewind(expected=2, last_seq=5, to=3), claim(expected=3))
        assert [r.seq for r in await store.journal("x")] == [3, 4, 5, 6]
        assert (await row(store)).run == 2

    stores.run(body)


def test_neighbours_keep_their_journals(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "xx")
        await done(store, append("xx", bodies=(b"1", b"2", b"3")), append(), next_run())
        assert [r.seq for r in await store.journal("xx")] == [1, 2, 3]
        assert (await row(store, "xx")).input == b"input"

    stores.run(body)
