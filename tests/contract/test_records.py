"""Lists, definitions, blobs, totals and deletion."""

from __future__ import annotations

from typing import Any

import pytest

from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from tests.contract.conftest import Stores
from tests.contract.operations import NOW, append, claim, definition, delete, deliver, done, end, park, pool, row, start


async def listed(store: Store, query: Filter) -> list[str]:
    return [found.id for found in await store.executions(query)]


def test_lists_are_newest_first_and_limited(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("old", created_at=NOW - 1), start("b"), start("a"), start("new", created_at=NOW + 1))
        assert await listed(store, Filter()) == ["new", "a", "b", "old"]
        assert await listed(store, Filter(limit=2)) == ["new", "a"]
        [whole] = await store.executions(Filter(limit=1))
        assert whole == await store.execution("new")

    stores.run(body)


def test_what_a_start_says_of_an_execution_stays_as_it_is(stores: Stores) -> None:
    given: dict[str, Any] = {
        "code_fingerprint": "c0de",
        "environment_id": "e1",
        "seed": 2**63 - 1,
        "trace": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "attributes": {"text": "é\0", "int": -(2**63), "float": 0.1, "yes": True, "no": False, "one": 1, "1.0": 1.0},
    }

    async def write(store: Store) -> None:
        await done(store, start("x", **given), start("y", parent="x"))
        await done(store, claim("x"), append("x"), end("x", first=2))

    async def read(store: Store) -> None:
        for found in (await store.execution("x"), *(await store.executions(Filter(ids=("x",))))):
            assert found is not None
            assert {name: getattr(found, name) for name in given} == given
            assert [type(value) for value in found.attributes.values()] == [str, int, float, bool, bool, int, float]
        assert (await row(store, "y")).attributes == {}

    stores.run(write)
    stores.run(read)


def test_lists_are_filtered(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("pending"), start("other", workflow_id="v"), start("running"), start("over"))
        await done(store, claim("running"), append("running"), claim("over"), end("over"))
        assert await listed(store, Filter(status=(ExecutionStatus.RUNNING,))) == ["running"]
        both = (ExecutionStatus.COMPLETED, ExecutionStatus.RUNNING)
        assert await listed(store, Filter(status=both)) == ["over", "running"]
        assert await listed(store, Filter(workflow_id="v")) == ["other"]
        assert await listed(store, Filter(workflow_id="v", status=both)) == []

    stores.run(body)


def test_what_needs_an_owner_is_listed_oldest_first_then_by_priority(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(
            store,
            start("low", priority=1),
            start("high", priority=9),
            start("early", runnable_at=NOW - 5, priority=0),
            start("later", runnable_at=NOW + 5),
            start("never", runnable_at=None),
            start("owned"),
            claim("owned"),
        )
        assert await listed(store, Filter(runnable_before=NOW)) == ["early", "high", "low"]
        assert await listed(store, Filter(runnable_before=NOW + 5)) == ["early", "high", "low", "later"]
        assert await listed(store, Filter(runnable_before=NOW, limit=1)) == ["early"]

    stores.run(body)


def test_owned_executions_with_unread_inbox_rows_are_listed(stores: Stores) -> None:
    async def body(store: Store) -> None:
        for name in ("unread", "read", "parked", "over", "quiet"):
            await done(store, start(name), claim(name))
        await done(store, append("parked"), park("parked"))
        await done(store, *(deliver(name) for name in ("unread", "read", "parked", "over")))
        await done(store, append("read", inbox_done=1), end("over"))
        assert await listed(store, Filter(unread_inbox=True)) == ["unread"]

    stores.run(body)


def test_definitions_by_version_and_the_one_saved_last(stores: Stores) -> None:
    async def write(store: Store) -> None:
        for saved in (definition("b"), definition("a", "2", NOW + 2), definition("a", "1", NOW + 1)):
            await store.save_definition(saved)

    async def read(store: Store) -> None:
        assert await store.definition("a") == definition("a", "2", NOW + 2)
        assert await store.definition("a", "1") == definition("a", "1", NOW + 1)
        assert await store.definition("a", "3") is None
        assert await store.definition("c") is None
        assert await store.definitions() == [
            definition("a", "2", NOW + 2),
            definition("a", "1", NOW + 1),
            definition("b"),
        ]
        await store.save_definition(definition("a", "1", NOW + 2))  # replaced, and now the last one
        assert [(d.version, d.saved_at) for d in await store.definitions()] == [
            ("1", NOW + 2),
            ("2", NOW + 2),
            ("1", NOW),
        ]
        assert await store.definition("a") == definition("a", "1", NOW + 2)

    stores.run(write)
    stores.run(read)


def test_a_deleted_definition_is_gone_in_all_versions(stores: Stores) -> None:
    async def body(store: Store) -> None:
        for version in ("1", "2"):
            await store.save_definition(definition("a", version))
        await store.save_definition(definition("b"))
        assert await store.delete_definition("a") is True
        assert await store.delete_definition("a") is False
        assert [d.workflow_id for d in await store.definitions()] == ["b"]

    stores.run(body)


def test_blobs_are_kept_once(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await store.put_blob("digest", b"data" * 1000)
        await store.put_blob("digest", b"data" * 1000)

    async def read(store: Store) -> None:
        assert await store.blob("digest") == b"data" * 1000
        assert await store.blob("other") is None

    stores.run(write)
    stores.run(read)


def test_totals_add_up_over_commits_and_executions(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await done(store, start("a"), start("b"), claim("a"), claim("b"))
        await done(store, append("a", counts={"steps": 2, "seconds": 0.5}), append("b", counts={"steps": 1}))
        await done(store, append("a", first=2, counts={"steps": 1}))

    async def read(store: Store) -> None:
        assert await store.totals() == {"executions_started": 2, "steps": 4, "seconds": 0.5}

    stores.run(write)
    stores.run(read)


def test_only_what_is_over_is_deleted_and_whole(stores: Stores) -> None:
    async def body(store: Store) -> None:
        for name in ("over", "live", "kept"):
            await done(store, start(name), claim(name), deliver(name), append(name))
        await done(store, end("over", first=2), end("kept", first=2))
        assert await delete(store, "over", "live", "nobody", "over") == 1
        assert await listed(store, Filter()) == ["kept", "live"]
        assert (await store.journal("over"), await store.inbox("over")) == ([], [])
        assert len(await store.journal("live")) == 1
        assert len(await store.inbox("live")) == 1
        assert (await store.totals())["executions_started"] == 3

    stores.run(body)


def test_a_deleted_id_begins_anew(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start(), claim(), deliver(), end())
        await delete(store, "x")
        await done(store, start(), claim(), deliver(), append(bodies=(b"new",)))
        assert [r.body for r in await store.journal("x")] == [b"new"]
        assert [(r.number, r.key) for r in await store.inbox("x")] == [(1, "k")]

    stores.run(body)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_payloads_of_any_size(stores: Stores, size: int) -> None:
    async def write(store: Store) -> None:
        await done(store, start(input=b"i" * size), claim(), append(bodies=(b"j" * size,)), deliver(body=b"k" * size))

    async def read(store: Store) -> None:
        found = await store.execution("x")
        assert found is not None
        assert found.input == b"i" * size
        assert (await store.journal("x"))[0].body == b"j" * size
        assert (await store.inbox("x"))[0].body == b"k" * size

    stores.run(write)
    stores.run(read)


def test_pools_are_kept_by_name_and_replaced(stores: Stores) -> None:
    async def write(store: Store) -> None:
        for saved in (pool("gpu"), pool("cpu", b"cpu"), pool("gpu", b"larger", NOW + 1)):
            await store.save_pool(saved)

    async def read(store: Store) -> None:
        assert await store.pools() == [pool("cpu", b"cpu"), pool("gpu", b"larger", NOW + 1)]
        assert await store.delete_pool("cpu") is True
        assert await store.delete_pool("cpu") is False
        assert [found.name for found in await store.pools()] == ["gpu"]

    stores.run(write)
    stores.run(read)
