"""Buckets: object storage through obstore, and as files of a folder."""

from __future__ import annotations

import asyncio
import builtins
import os
import socket
from pathlib import Path
from typing import Any

import obstore.store
import pytest

from rayflow.errors import StorageUnavailable
from rayflow.storage.objects import buckets
from rayflow.storage.objects.buckets import Bucket, FolderBucket, ObstoreBucket, open_bucket
from rayflow.storage.objects.store import ObjectStore
from tests.contract.operations import NOW, append, claim, done, row, start


@pytest.fixture(params=["obstore memory", "obstore folder", "folder"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    match request.param:
        case "obstore memory":
            return ObstoreBucket("memory", obstore.store.MemoryStore())
        case "obstore folder":
            return ObstoreBucket(f"file://{tmp_path}", obstore.store.LocalStore(tmp_path))
    return FolderBucket(f"file://{tmp_path / 'deep' / 'folder'}")


def test_objects_are_created_once_put_got_listed_and_deleted(bucket: Bucket) -> None:
    async def body() -> None:
        assert await bucket.get("a/1") is None
        assert not await bucket.exists("a/1")
        assert await bucket.list("a") == []
        assert await bucket.create("a/1", b"first")
        assert not await bucket.create("a/1", b"second")
        assert await bucket.get("a/1") == b"first"
        assert await bucket.exists("a/1")
        await bucket.put("a/1", b"third")
        await bucket.put("a/2", b"")
        assert [await bucket.get("a/1"), await bucket.get("a/2")] == [b"third", b""]
        await bucket.create("b/1", b"other")
        for name in ("10", "11", "3"):
            await bucket.create(f"a/{name}", b"")
        assert await bucket.list("a") == ["1", "10", "11", "2", "3"]
        assert await bucket.list("a", after="11") == ["2", "3"]
        await bucket.delete(["a/1", "a/never", "a/3"])
        await bucket.delete(["a/1"])
        await bucket.delete([])
        assert await bucket.list("a") == ["10", "11", "2"]
        await bucket.tidy()

    asyncio.run(body())


def test_large_objects_are_created_once_too(bucket: Bucket) -> None:
    """Object storage takes large objects in parts, where nothing says that it must be new."""

    async def body() -> None:
        large = bytes(12 << 20)
        assert await bucket.create("a/1", large)
        assert not await bucket.create("a/1", large)
        assert not await bucket.create("a/1", b"small")
        assert await bucket.get("a/1") == large

    asyncio.run(body())


def test_of_many_that_create_one_wins(bucket: Bucket) -> None:
    async def body() -> None:
        for i in range(20):
            made = await asyncio.gather(*(bucket.create(f"a/{i}", b"%d" % who) for who in range(8)))
            assert sum(made) == 1
            assert await bucket.get(f"a/{i}") == b"%d" % made.index(True)

    asyncio.run(body())


# --- a folder -----------------------------------------------------------------------------------------------
def test_a_put_is_on_the_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(handle: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().relative_to(tmp_path.parent)}")
        fsync(handle)

    def linked(source: Any, target: Any) -> None:
        done.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    bucket = FolderBucket(f"file://{tmp_path}")
    assert asyncio.run(bucket.create("log/0", b""))
    done.clear()
    assert asyncio.run(bucket.create("log/1", b"data"))
    written, *rest = done
    assert written.startswith(f"sync {tmp_path.name}/aside/")
    assert rest == ["link", f"sync {tmp_path.name}/log"]
    assert [path.name for path in (tmp_path / "aside").iterdir()] == []


def test_what_a_killed_process_left_is_tidied(tmp_path: Path) -> None:
    bucket = FolderBucket(f"file://{tmp_path}")
    asyncio.run(bucket.create("log/1", b"data"))
    (tmp_path / "aside" / f"{socket.gethostname()}-1-5").write_bytes(b"half")
    mine = tmp_path / "aside" / f"{buckets._process()}999"
    mine.write_bytes(b"under way")
    asyncio.run(bucket.tidy())
    assert list((tmp_path / "aside").iterdir()) == [mine]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    bucket = FolderBucket(f"file://{tmp_path / 'file'}")
    for call in (bucket.create("log/1", b""), bucket.put("log/1", b""), bucket.get("log/1"), bucket.list("log")):
        with pytest.raises(StorageUnavailable, match=r"cannot \w+ .*file/log.*: Not a directory. The folder must be"):
            asyncio.run(call)


# --- through obstore ----------------------------------------------------------------------------------------
def test_the_store_of_a_folder_is_kept(tmp_path: Path) -> None:
    async def body() -> None:
        url = f"file://{tmp_path / 'flows'}"
        for epoch in (1, 2):
            store = ObjectStore(url)
            await store.open()
            await store.claim_writer("test", now=NOW, fresh_for=5)
            await store.commit([start()])
            await done(store, claim(expected=epoch - 1), append(epoch=epoch, first=epoch))
            await store.close()
        reader = ObjectStore(url)
        await reader.open(read_only=True)
        assert (await row(reader)).last_seq == 2
        await reader.close()

    asyncio.run(body())


def test_obstore_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("obstore"):
            raise ImportError(name)
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StorageUnavailable, match=r"pip install 'rayflow-durable\[objects\]'"):
        open_bucket("s3://bucket/prefix")
    open_bucket("file:///folder")  # needs no package


def test_storage_that_cannot_be_reached_is_told_with_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        monkeypatch.setattr(buckets, "_RETRIES", 0)
        for name, value in {
            "AWS_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "key",
            "AWS_REGION": "here",
        }.items():
            monkeypatch.setenv(name, value)
        store = ObjectStore("s3://bucket/prefix")
        with pytest.raises(
            StorageUnavailable, match=r"cannot list s3://bucket/prefix/state: .*cannot be reached.*AWS_END"
        ):
            asyncio.run(store.open())
        bucket = open_bucket("s3://bucket/prefix")
        for call in (
            bucket.create("log/1", b""),
            bucket.put("log/1", b""),
            bucket.get("log/1"),
            bucket.exists("log/1"),
        ):
            with pytest.raises(StorageUnavailable, match=r"cannot (write|read) s3://bucket/prefix/log/1: "):
                asyncio.run(call)
        with pytest.raises(StorageUnavailable, match=r"cannot delete s3://bucket/prefix/log/1: "):
            asyncio.run(bucket.delete(["log/1"]))


def test_a_url_that_obstore_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    with pytest.raises(
        StorageUnavailable, match=r"cannot use store az://container/prefix: .*Account must be specified"
    ):
        open_bucket("az://container/prefix")
