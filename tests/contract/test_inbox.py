"""Deliver: once per key, in order, and nobody sleeps through it."""

from __future__ import annotations

from rayflow.errors import InvalidTransition, WriterFenced
from rayflow.storage.base import Store
from rayflow.storage.model import InboxRow
from tests.contract.conftest import Stores
from tests.contract.operations import NOW, append, claim, deliver, done, end, park, refused, row, start


def test_rows_are_numbered_in_the_order_of_acceptance(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await done(store, start(), claim(), deliver(key="b", body=b"1"))
        assert (await done(store, deliver(key="a", body=b"2", at=NOW + 2))).inbox_last == 2

    async def read(store: Store) -> None:
        first = InboxRow("b", "signal", b"1", NOW, 1)
        second = InboxRow("a", "signal", b"2", NOW + 2, 2)
        assert await store.inbox("x") == [first, second]
        assert await store.inbox("x", after=1) == [second]
        assert await store.inbox("nobody") == []
        assert (await row(store)).updated_at == NOW + 2

    stores.run(write)
    stores.run(read)


def test_a_key_is_accepted_once_also_after_it_was_applied(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), deliver(body=b"first"), deliver(body=b"in the same commit"))
        await done(store, deliver(body=b"again"))
        assert [r.body for r in await store.inbox("x")] == [b"first"]
        await done(store, append(inbox_done=1))
        assert (await done(store, deliver())).inbox_last == 1
        assert await store.inbox("x") == []

    stores.run(body)


def test_a_key_belongs_to_one_execution(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("a"), start("b"), deliver("a"), deliver("b"))
        assert len(await store.inbox("a")) == len(await store.inbox("b")) == 1

    stores.run(body)


def test_applied_rows_are_no_longer_in_the_inbox(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), *(deliver(key=k) for k in "abc"), append(inbox_done=2))
        assert [r.key for r in await store.inbox("x")] == ["c"]
        await done(store, append(first=2, inbox_done=1))  # never back
        assert (await row(store)).inbox_done == 2

    stores.run(body)


def test_a_row_wakes_a_parked_execution_in_the_same_transaction(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), append(), park())
        assert (await row(store)).runnable_at is None
        await done(store, deliver(at=NOW + 5))
        assert (await row(store)).runnable_at == NOW + 5
        await done(store, deliver(key="later", at=NOW + 9))  # does not put it off
        assert (await row(store)).runnable_at == NOW + 5

    stores.run(body)


def test_a_row_for_an_owned_execution_leaves_it_to_its_owner(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), deliver())
        owned = await row(store)
        assert (owned.runnable_at, owned.owner, owned.inbox_last, owned.inbox_done) == (None, "owner", 1, 0)

    stores.run(body)


def test_what_is_over_takes_nothing_but_repeats(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), deliver(key="early"), end())
        error = await refused(store, deliver(key="late"), InvalidTransition)
        assert (error.action, error.status) == ("signal", "completed")
        await done(store, deliver(key="early"))

    stores.run(body)


def test_an_owner_keeps_rows_for_later_while_it_is_the_owner(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), deliver(key="result:1", epoch=1))
        await refused(store, deliver(key="result:2", epoch=0), WriterFenced)
        await done(store, append(inbox_done=1), park(seen=1))
        await done(store, deliver(key="result:1", epoch=1))  # sent again
        await refused(store, deliver(key="result:2", epoch=1), WriterFenced)
        assert (await row(store)).inbox_last == 1

    stores.run(body)
