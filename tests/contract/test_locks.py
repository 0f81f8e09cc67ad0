"""Locks of executions: granted, queued, passed on and given back in the transactions of those concerned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayflow.core.events import RequestCompleted, label
from rayflow.core.locks.machine import Claim, Lock
from rayflow.errors import Failure, LockPermitsMismatch
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Store
from rayflow.storage.codec.journal import encode_failure
from rayflow.storage.operations import Done, FailLockWait
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    answered,
    answers,
    append,
    begun,
    claim,
    claims,
    delete,
    done,
    end,
    everything,
    leave,
    park,
    rewind,
    row,
    start,
    take,
)

LABEL = label("lock", "l")
DEADLOCK = Failure("rayflow.errors.Deadlock", "in a circle")


def granted(token: int, *, step: int = 1, at: float = NOW, name: str = "l") -> RequestCompleted:
    return answered(step, "lock", name, token, at=at)


def break_lock(name: str, *, step: int = 1, lock: str = "l") -> FailLockWait:
    return FailLockWait(name, step, lock, NOW + 9, encode_failure(DEADLOCK))


# --- granting ---------------------------------------------------------------------------------------------------
def test_a_free_lock_is_granted_in_the_transaction_that_asks(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await begun(store, "x")
        answer = await done(store, append(at=NOW + 1, asks=(take(step=4),)))
        assert (answer.inbox_last, answer.touched) == (1, ())

    async def read(store: Store) -> None:
        assert await answers(store) == [granted(1, step=4, at=NOW + 1)]
        assert await store.locks() == [Lock("l", 1, 1, 1, (Claim("l", 1, "x", 4, "", 1, None, NOW + 1),))]
        assert (await row(store)).claims == 1

    stores.run(write)
    stores.run(read)


def test_who_comes_later_waits_and_is_granted_in_the_transaction_that_gives_back(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), append("y", asks=(take(),)), park("y"))
        assert await answers(store, "y") == []
        assert ((await row(store, "y")).claims, (await row(store, "y")).runnable_at) == (1, None)
        answer = await done(store, append(first=2, at=NOW + 5, asks=(leave(),)))
        assert answer.touched == ("y",)
        assert await answers(store, "y") == [granted(2, at=NOW + 5)]
        assert ((await row(store)).claims, (await row(store, "y")).claims) == (0, 1)
        assert (await row(store, "y")).runnable_at == NOW + 5

    stores.run(body)


def test_first_come_first_served_whoever_leaves_the_queue(stores: Stores) -> None:
    async def body(store: Store) -> None:
        names = ["a", "b", "c", "d"]
        await begun(store, *names)
        await done(store, *(append(name, asks=(take(),)) for name in names))
        assert await claims(store) == [("a", 1), ("b", 0), ("c", 0), ("d", 0)]
        await done(store, append("b", first=2, asks=(leave(),)))
        assert await answers(store, "c") == []
        await done(store, append("a", first=2, asks=(leave(),)))
        assert await claims(store) == [("c", 2), ("d", 0)]
        await done(store, append("b", first=3, asks=(take(step=2),)), append("c", first=2, asks=(leave(),)))
        assert await claims(store) == [("d", 3), ("b", 0)]

    stores.run(body)


def test_a_semaphore_has_as_many_holders_as_permits_also_of_one_execution(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=tuple(take(step=n, limit=3) for n in (1, 2))))
        await done(store, append("y", asks=tuple(take(step=n, limit=3) for n in (1, 2))))
        assert await claims(store) == [("x", 1), ("x", 2), ("y", 3), ("y", 0)]
        assert ((await row(store)).claims, (await row(store, "y")).claims) == (2, 2)
        await done(store, append(first=2, asks=(leave(2),)))
        assert await claims(store) == [("x", 1), ("y", 3), ("y", 4)]
        assert [told.value for told in await answers(store, "y")] == [3, 4]

    stores.run(body)


def test_whoever_asks_again_for_what_it_has_is_told_the_same_token(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), append("y", asks=(take(),)))
        await done(store, append(first=2, asks=(take(),)), append("y", first=2, asks=(take(),)))
        assert await answers(store) == [granted(1), granted(1)]
        assert await answers(store, "y") == []
        assert await claims(store) == [("x", 1), ("y", 0)]
        assert ((await row(store)).claims, (await row(store, "y")).claims) == (1, 1)

    stores.run(body)


def test_all_of_it_in_one_commit(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(
            store,
            append(asks=(take(), take(2, "m"))),
            append("y", asks=(take(),)),
            append(first=2, asks=(leave(), take(3), leave(2, "m"))),
            append("y", first=2, asks=(leave(),)),
        )
        assert [(told.step, told.value) for told in await answers(store)] == [(1, 1), (2, 1), (3, 3)]
        assert [(told.step, told.value) for told in await answers(store, "y")] == [(1, 2)]
        assert await claims(store) == [("x", 3)]
        assert ((await row(store)).claims, (await row(store, "y")).claims) == (1, 0)

    stores.run(body)


def test_taken_and_given_back_by_one_append_goes_on_to_the_next(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(take(), leave(), take(2))))
        assert [(told.step, told.value) for told in await answers(store)] == [(1, 1), (2, 2)]
        assert (await row(store)).claims == 1

    stores.run(body)


def test_giving_back_what_it_has_not_changes_nothing(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)))
        await done(store, append("y", asks=(leave(), leave(1, "unknown"))), append(first=2, asks=(leave(2),)))
        assert await claims(store) == [("x", 1)]
        assert [lock.name for lock in await store.locks()] == ["l"]

    stores.run(body)


def test_another_number_of_permits_is_a_failure_while_anybody_has_or_waits_for_one(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), append("y", asks=(take(limit=2),)))
        [told] = await answers(store, "y")
        assert (told.step, told.name, told.value) == (1, LABEL, None)
        assert told.failure is not None
        assert told.failure.matches(LockPermitsMismatch)
        assert ((await row(store, "y")).claims, await claims(store)) == (0, [("x", 1)])
        await done(store, append(first=2, asks=(leave(),)), append("y", first=2, asks=(take(2, limit=2),)))
        assert await store.locks() == [Lock("l", 2, 2, 2, (Claim("l", 2, "y", 2, "", 2, None, NOW),))]

    stores.run(body)


# --- the end ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [status for status in ExecutionStatus if status.terminal])
def test_the_transaction_that_ends_an_execution_gives_back_all_that_it_has(
    stores: Stores, status: ExecutionStatus
) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y", "z")
        await done(store, append("z", asks=(take(1, "n"),)))
        await done(store, append(asks=(take(1, "l"), take(2, "m", 2), take(3, "n"))))
        await done(store, append("y", asks=(take(1, "l"), take(2, "n"))))
        assert (await row(store)).claims == 3
        answer = await done(store, end(first=2, status=status))
        assert answer.touched == ("y",)
        assert [await claims(store, name) for name in "lmn"] == [[("y", 2)], [], [("z", 1), ("y", 0)]]
        assert [told.step for told in await answers(store, "y")] == [1]
        assert ((await row(store)).claims, (await row(store, "y")).claims) == (0, 2)
        assert [lock.name for lock in await store.locks()] == ["l", "n"]

    stores.run(body)


def test_what_is_taken_by_the_last_append_is_given_back_by_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, end(asks=(take(),)), append("y", asks=(take(),)))
        assert await claims(store) == [("y", 2)]
        assert (await row(store)).claims == 0

    stores.run(body)


def test_a_lock_is_kept_while_its_owner_parks_and_is_taken_over(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), append("y", asks=(take(),)))
        await done(store, park(seen=1), claim(expected=1, nonce="next"), append(first=2, epoch=2, inbox_done=1))
        assert await claims(store) == [("x", 1), ("y", 0)]
        await done(store, append(first=3, epoch=2, asks=(leave(),)))
        assert await claims(store) == [("y", 2)]

    stores.run(body)


def test_after_a_rewind_it_is_claimed_anew_behind_the_others(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), append("y", asks=(take(),)))
        await done(store, end(first=2, status=ExecutionStatus.FAILED), rewind(last_seq=2), claim(expected=2))
        await done(store, append(first=4, epoch=3, asks=(take(),)))
        assert (await claims(store), await answers(store)) == ([("y", 2), ("x", 0)], [])
        await done(store, end("y", first=2))
        assert (await claims(store), await answers(store)) == ([("x", 3)], [granted(3)])

    stores.run(body)


def test_tokens_rise_for_ever(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(take(), leave())), end(first=2))
        await delete(store, "x")
        assert await store.locks() == []
        assert await store.locks(["l"]) == [Lock("l", 1, 1, 1)]

    async def again(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(take(limit=7),)))
        assert [told.value for told in await answers(store)] == [2]

    stores.run(write)
    stores.run(again)


# --- breaking a deadlock ----------------------------------------------------------------------------------------
def test_a_waiting_claim_can_be_refused_and_its_execution_is_told(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y", "z")
        await done(store, *(append(name, asks=(take(),)) for name in "xyz"), park("y"))
        operation = break_lock("y")
        assert await done(store, operation) == Done(0, 0, 0, touched=("y",))
        assert await answers(store, "y") == [answered(1, "lock", "l", at=NOW + 9, failure=DEADLOCK)]
        assert await claims(store) == [("x", 1), ("z", 0)]
        assert ((await row(store, "y")).claims, (await row(store, "y")).runnable_at) == (0, NOW + 9)
        before = await everything(store)
        await done(store, operation)  # sent again
        assert await everything(store) == before

    stores.run(body)


def test_one_that_was_granted_or_withdrawn_meanwhile_is_left_alone(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), start("unknown"))
        before = await everything(store)
        for operation in (break_lock("x"), break_lock("y"), break_lock("x", step=2), break_lock("x", lock="m")):
            assert (await done(store, operation)).touched == ()
        assert await everything(store) == before

    stores.run(body)


def test_one_that_claims_the_same_lock_again_may_be_refused_again(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), append("y", asks=(take(),)), break_lock("y"))
        await done(store, append("y", first=2, asks=(take(2),)), break_lock("y", step=2))
        assert [told.step for told in await answers(store, "y")] == [1, 2]
        assert await claims(store) == [("x", 1)]

    stores.run(body)


# --- looking ----------------------------------------------------------------------------------------------------
def test_locks_are_listed_by_name_with_their_claims(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(1, "b"), take(2, "a"), take(3, "c"), leave(3, "c"))))
        await done(store, append("y", asks=(take(1, "a"),)))

    async def read(store: Store) -> None:
        assert [lock.name for lock in await store.locks()] == ["a", "b"]
        assert [lock.name for lock in await store.locks(["c", "unknown", "b"])] == ["b", "c"]
        assert await store.locks([]) == []
        [a] = await store.locks(["a"])
        first = Claim("a", 1, "x", 2, "", 1, None, NOW)
        assert (a.holders, a.waiting) == ((first,), (replace(first, order=2, execution_id="y", step=1, token=0),))

    stores.run(write)
    stores.run(read)
