"""The store on a real S3 server: the contract, races, and what is said when it cannot be used."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from rayflow.cli import main
from rayflow.errors import StorageUnavailable, WriterFenced
from rayflow.storage.objects.buckets import open_bucket
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.operations import Done
from tests.contract import (
    test_cross_operations,
    test_inbox,
    test_journal,
    test_lists,
    test_locks,
    test_next_run,
    test_ownership_operations,
    test_records,
    test_schedules,
    test_starts,
    test_writer,
)
from tests.contract.conftest import Stores, small
from tests.contract.operations import NOW, append, claim, done, row, start
from tests.storage.objects.s3_server import BUCKET, s3_server

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

_MODULES = (
    test_cross_operations,
    test_inbox,
    test_journal,
    test_lists,
    test_locks,
    test_next_run,
    test_ownership_operations,
    test_records,
    test_schedules,
    test_starts,
    test_writer,
)


def contract(*modules: ModuleType) -> Iterator[Callable[[Stores], None]]:
    """The tests of the contract that need nothing but stores."""
    for module in modules:
        for name, test in vars(module).items():
            if name.startswith("test_") and list(inspect.signature(test).parameters) == ["stores"]:
                yield test


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with s3_server() as environ, pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def url(server: None) -> str:
    return f"s3://{BUCKET}/flows/{uuid.uuid4().hex}"


@pytest.mark.parametrize("test", list(contract(*_MODULES)), ids=lambda test: test.__name__)
def test_the_contract_holds(test: Callable[[Stores], None], url: str) -> None:
    test(Stores(lambda: small(ObjectStore(url))))


def test_of_many_that_create_an_object_one_wins(url: str) -> None:
    """SeaweedFS lets those that lose wait for each other, a second each; so they are few."""

    async def body() -> None:
        buckets = [open_bucket(url) for _ in range(3)]
        for i in range(5):
            made = await asyncio.gather(*(each.create(f"log/{i}", b"%d" % who) for who, each in enumerate(buckets)))
            assert sum(made) == 1
            assert await buckets[0].get(f"log/{i}") == b"%d" % made.index(True)

    asyncio.run(body())


def test_two_writers_that_take_the_store_from_each_other_lose_nothing(url: str) -> None:
    async def write(who: str, acknowledged: list[str]) -> bool:
        """Take the store and write; answers whether nobody took it away."""
        store = small(ObjectStore(url))
        await store.open()
        try:
            await store.claim_writer(who, now=NOW, fresh_for=5, take_over=True)
            for number in range(20):
                await done(store, start(f"{who}-{number}"))
                acknowledged.append(f"{who}-{number}")
        except WriterFenced:
            return False
        finally:
            await store.close()
        return True

    async def body() -> None:
        acknowledged: list[str] = []
        for turn in range(10):
            stayed = await asyncio.gather(*(write(f"{who}{turn}", acknowledged) for who in "ab"))
            assert any(stayed)
        reader = ObjectStore(url)
        await reader.open(read_only=True)
        # What was not acknowledged was not written either: there is no doubt without errors.
        assert list(reader.data.executions) == acknowledged
        await reader.close()

    asyncio.run(body())


def test_a_store_is_there_for_the_next_process(url: str) -> None:
    async def body() -> None:
        store = ObjectStore(url)
        await store.open()
        await store.claim_writer("a", now=NOW, fresh_for=5)
        await done(store, start(), claim())
        for seq in range(1, 50):
            assert isinstance((await store.commit([append(first=seq)]))[0], Done)
        await store.put_blob("d", b"x" * (6 << 20))
        await store.close()
        reader = ObjectStore(url)
        await reader.open(read_only=True)
        assert (await row(reader)).last_seq == 49
        assert await reader.blob("d") == b"x" * (6 << 20)
        await reader.close()

    asyncio.run(body())


def test_the_command_line_reads_it(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def body() -> None:
        store = ObjectStore(url)
        await store.open()
        await store.claim_writer("a", now=NOW, fresh_for=5)
        await done(store, start("the-one"))
        await store.close()

    asyncio.run(body())
    assert main(["list", "--store", url]) == 0
    assert "the-one" in capsys.readouterr().out
    assert main(["list", "--store", f"{url}/none"]) != 0
    assert "it does not exist, and reading does not create it" in capsys.readouterr().err


def test_what_is_wrong_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(of: str) -> str:
        with pytest.raises(StorageUnavailable) as caught:
            asyncio.run(ObjectStore(of).open())
        return str(caught.value)

    assert "the bucket does not exist, and rayflow does not create one" in refusal("s3://nobodys/flows")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    assert "permission was denied" in refusal(url)
    bucket = open_bucket(url)
    with pytest.raises(StorageUnavailable, match=r"permission was denied.*AWS_SECRET_ACCESS_KEY"):
        asyncio.run(bucket.create("log/1", b""))
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert "AWS_ALLOW_HTTP=true for an endpoint without TLS" in refusal(url)
