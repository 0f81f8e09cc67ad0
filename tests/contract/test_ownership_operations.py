"""Start, claim, release and rewind: who may drive an execution."""

from __future__ import annotations

import pytest

from rayflow.errors import CorruptRecord, ExecutionNotFound, InvalidTransition, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.model import InboxRow, JournalRow
from rayflow.storage.operations import AlreadyExists, Done, Operation, Park
from tests.contract.conftest import Stores
from tests.contract.operations import NOW, append, claim, deliver, done, end, note, record, refused, rewind, row, start

FAILED = ExecutionStatus.FAILED


def test_a_start_is_durable_once_it_is_answered(stores: Stores) -> None:
    async def write(store: Store) -> None:
        assert await done(store, start(input=b"abc", deadline=NOW + 5)) == Done(epoch=0, last_seq=0, inbox_last=0)

    async def read(store: Store) -> None:
        assert await store.execution("x") == record(input=b"abc", deadline=NOW + 5)
        assert await store.totals() == {"executions_started": 1}

    stores.run(write)
    stores.run(read)


def test_a_second_start_answers_the_whole_row_that_is_there(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(start_nonce="first"), claim())
        [answer] = await store.commit([start(start_nonce="second", input=b"other")])
        assert isinstance(answer, AlreadyExists)
        assert answer.record == await row(store)
        assert (answer.record.start_nonce, answer.record.input, answer.record.code) == ("first", b"input", b"code")
        assert (await store.totals())["executions_started"] == 1

    stores.run(body)


def test_two_starts_of_one_id_in_one_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        first, second = await store.commit([start(start_nonce="first"), start(start_nonce="second")])
        assert isinstance(first, Done)
        assert isinstance(second, AlreadyExists)
        assert second.record == await row(store) == record(start_nonce="first")

    stores.run(body)


@pytest.mark.parametrize(
    "operation",
    [claim(), append(), Park("x", 1, NOW, NOW), deliver(), rewind(), note()],
    ids=lambda op: type(op).__name__,
)
def test_what_is_asked_of_an_unknown_execution_is_not_found(stores: Stores, operation: Operation) -> None:
    async def body(store: Store) -> None:
        error = await refused(store, operation, ExecutionNotFound)
        assert error.execution_id == "x"

    stores.run(body)


def test_a_claim_raises_the_epoch_and_names_the_owner(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start())
        assert await done(store, claim(at=NOW + 1)) == Done(epoch=1, last_seq=0, inbox_last=0)
        claimed = await row(store)
        assert (claimed.epoch, claimed.owner, claimed.coordinator) == (1, "owner", "coordinator of owner")
        assert (claimed.runnable_at, claimed.updated_at) == (None, NOW + 1)

    stores.run(body)


def test_of_two_claims_with_one_expectation_one_wins(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start())
        won = await done(store, claim(nonce="a"))
        error = await refused(store, claim(nonce="b"), WriterFenced)
        assert "epoch 1" in str(error)
        assert await done(store, claim(nonce="a")) == won  # its own, sent again
        assert (await row(store)).owner == "a"

    stores.run(body)


def test_a_claim_takes_over_from_a_live_owner_who_then_is_fenced(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(nonce="a"), append(first=1))
        taken = await done(store, claim(expected=1, nonce="b"))
        assert (taken.epoch, taken.last_seq) == (2, 1)
        await refused(store, append(first=2, epoch=1), WriterFenced)
        await refused(store, Park("x", 1, NOW, NOW), WriterFenced)
        await refused(store, deliver(epoch=1), WriterFenced)
        await refused(store, claim(nonce="a"), WriterFenced)
        await done(store, append(first=2, epoch=2))

    stores.run(body)


def test_an_execution_that_is_over_has_no_owner_any_more(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), end())
        error = await refused(store, claim(expected=1), InvalidTransition)
        assert error.status == "completed"

    stores.run(body)


def test_release_asks_for_another_owner_once(stores: Stores) -> None:
    async def body(store: Store) -> None:
        release = Park("x", 1, NOW + 50, NOW + 1)
        await done(store, start(), claim(), release)
        released = await row(store)
        assert (released.owner, released.runnable_at, released.epoch) == ("", NOW + 50, 1)
        await done(store, deliver(at=NOW + 2))
        await done(store, release)  # sent again: it does not put the wake-up off
        assert (await row(store)).runnable_at == NOW + 2
        await refused(store, append(), WriterFenced)

    stores.run(body)


def test_release_with_an_unread_inbox_row_is_runnable_at_once(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), deliver(), Park("x", 1, NOW + 50, NOW + 1))
        assert (await row(store)).runnable_at == NOW + 1

    stores.run(body)


def test_an_owner_may_release_with_rows_that_it_has_seen(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), deliver(key="kept", epoch=1))
        release = Park("x", 1, None, NOW + 1, seen=1)
        assert (await done(store, release)).parked
        assert ((await row(store)).owner, (await row(store)).runnable_at) == ("", None)
        assert (await done(store, release)).parked  # sent again
        await done(store, deliver(key="resume", at=NOW + 2))
        assert (await row(store)).runnable_at == NOW + 2
        assert [r.key for r in await store.inbox("x")] == ["kept", "resume"]

    stores.run(body)


def test_a_row_that_was_not_seen_keeps_the_owner(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), deliver(key="a"), deliver(key="b"))
        before = await row(store)
        assert not (await done(store, Park("x", 1, None, NOW + 1, seen=1))).parked
        assert await row(store) == before

    stores.run(body)


@pytest.mark.parametrize("wake", [None, NOW + 50, NOW - 50])
def test_a_blind_release_is_due_no_later_than_its_unread_rows(stores: Stores, wake: float | None) -> None:
    async def body(store: Store) -> None:
        await done(store, start("read"), claim("read"), Park("read", 1, wake, NOW + 1))
        assert (await row(store, "read")).runnable_at == wake
        await done(store, start(), claim(), deliver(), Park("x", 1, wake, NOW + 1))
        assert (await row(store)).runnable_at == (NOW - 50 if wake == NOW - 50 else NOW + 1)

    stores.run(body)


def test_release_after_the_end_changes_nothing(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), end())
        before = await row(store)
        await done(store, Park("x", 1, NOW, NOW + 9))
        assert await row(store) == before

    stores.run(body)


def test_a_rewind_lets_a_failed_execution_go_on(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(deadline=NOW + 1), claim(), deliver(key="left"), end(status=FAILED, failure=b"why"))
        carried = (InboxRow("c1", "carried", b"1", NOW), InboxRow("c2", "carried", b"2", NOW))
        operation = rewind(carried=carried, at=NOW + 7)
        won = await done(store, operation)
        assert won == Done(epoch=2, last_seq=2, inbox_last=3)
        again = await row(store)
        assert (again.status, again.owner, again.runnable_at) == (ExecutionStatus.PENDING, "", NOW + 7)
        assert (again.failure, again.deadline, again.epoch) == (None, None, 2)
        assert [r.body for r in await store.journal("x")] == [b"ended", b"rewound"]
        assert [(r.number, r.key) for r in await store.inbox("x")] == [(2, "c1"), (3, "c2")]
        assert await done(store, operation) == won  # sent again
        assert await row(store) == again

    stores.run(body)


def test_of_two_rewinds_one_wins(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), end(status=FAILED))
        first, second = rewind(at=NOW), rewind(row=JournalRow(2, b"other"), digest="other")
        await done(store, first)
        await refused(store, second, WriterFenced)
        assert [r.body for r in await store.journal("x")] == [b"ended", b"rewound"]

    stores.run(body)


def test_a_carried_row_may_come_again_in_a_second_rewind(stores: Stores) -> None:
    async def body(store: Store) -> None:
        carried = (InboxRow("result:3", "carried", b"", NOW),)
        await done(store, start(), claim(), end(status=FAILED), rewind(carried=carried))
        await done(store, claim(expected=2), end(first=3, epoch=3, status=FAILED))
        await done(store, rewind(expected=3, last_seq=3, carried=carried))
        assert [(r.number, r.key) for r in await store.inbox("x")] == [(2, "result:3")]

    stores.run(body)


@pytest.mark.parametrize("status", [ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED])
def test_only_a_failed_execution_is_rewound(stores: Stores, status: ExecutionStatus) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), end(status=status))
        error = await refused(store, rewind(), InvalidTransition)
        assert (error.action, error.status) == ("resume", status)

    stores.run(body)


def test_a_rewind_of_another_journal_is_fenced_and_a_misnumbered_one_corrupt(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), end(status=FAILED))
        await refused(store, rewind(last_seq=5), WriterFenced)
        await refused(store, rewind(expected=0), WriterFenced)
        await refused(store, rewind(row=JournalRow(9, b"")), CorruptRecord)

    stores.run(body)


def test_a_refused_member_fails_alone_and_order_is_kept(stores: Stores) -> None:
    async def body(store: Store) -> None:
        answers = await store.commit(
            [start("a"), claim("a"), append("nobody"), start("b"), append("a"), append("a", first=9), claim("b")]
        )
        assert [type(answer).__name__ for answer in answers] == [
            "Done",
            "Done",
            "Rejected",
            "Done",
            "Done",
            "Rejected",
            "Done",
        ]
        assert ((await row(store, "a")).last_seq, (await row(store, "b")).epoch) == (1, 1)

    stores.run(body)


def test_a_member_that_cannot_be_written_fails_alone(stores: Stores) -> None:
    """Only SQLite cannot write a lone surrogate; memory can, and then nobody fails."""

    async def body(store: Store) -> None:
        bad = append("a", first=2, digest="\ud800")
        answers = await store.commit([start("a"), claim("a"), append("a"), bad, start("b"), deliver("b"), start("b")])
        kinds = [type(answer).__name__ for answer in answers]
        assert kinds[:3] + kinds[4:] == ["Done", "Done", "Done", "Done", "Done", "AlreadyExists"]
        written = isinstance(answers[3], Done)
        assert (await row(store, "a")).last_seq == (2 if written else 1)
        assert [r.key for r in await store.inbox("b")] == ["k"]
        if not written:
            assert "Append of execution 'a' cannot be written" in str(answers[3])
            await done(store, append("a", first=2))

    stores.run(body)


def test_nothing_to_commit_is_nothing_to_answer(stores: Stores) -> None:
    async def body(store: Store) -> None:
        assert await store.commit([]) == []

    stores.run(body)


def test_a_thousand_operations_in_one_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        names = [f"e{i}" for i in range(250)]
        operations: list[Operation] = [start(n) for n in names]
        operations += [claim(n) for n in names]
        operations += [append(n, bodies=(b"1", b"2")) for n in names]
        operations += [append(n, first=3) for n in names]
        await done(store, *operations)
        assert len(await store.executions(Filter())) == 250
        assert [r.seq for r in await store.journal("e249")] == [1, 2, 3]

    stores.run(body)
