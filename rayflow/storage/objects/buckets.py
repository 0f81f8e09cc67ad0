"""Buckets: the operations of object storage that a store needs, through obstore and as files of a folder.

A bucket creates, replaces, reads, lists and deletes objects. A failed call raises StorageUnavailable, and its effect is
unknown: a put may be done, or be done later.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rayflow.errors import StorageUnavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Remote

T = TypeVar("T")

#: Seconds and attempts for which a failed request is repeated before the call raises. Options of the connection come
#: from the environment alone: if one were given here, obstore would read none from there.
_PATIENCE = timedelta(seconds=10)
_RETRIES = 4


class Bucket(Protocol):
    """Operations of object storage; keys have the form ``folder/name``."""

    url: str

    async def create(self, key: str, data: bytes) -> bool:
        """Put a new object; return False, without an effect, if the key exists. Of concurrent calls one succeeds."""

    async def put(self, key: str, data: bytes) -> None:
        """Put an object, or replace it."""

    async def get(self, key: str) -> bytes | None:
        """Return an object, or None."""

    async def exists(self, key: str) -> bool:
        """Return whether an object exists."""

    async def list(self, folder: str, after: str = "") -> list[str]:
        """Return the names in a folder after a name, sorted."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; missing ones are skipped."""

    async def tidy(self) -> None:
        """Delete the temporary files of puts whose processes were killed."""


def open_bucket(url: str) -> Bucket:
    """Return the bucket of a store's URL, without a request to it.

    Raises:
        StorageUnavailable: obstore is missing, or it rejects the URL or the environment.
    """
    if url.startswith("file://"):
        return FolderBucket(url)
    try:
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise StorageUnavailable(
            f"store {url} needs the package obstore, which is not installed here: "
            "pip install 'rayflow-durable[objects]'"
        ) from error
    retries: Any = {"max_retries": _RETRIES, "retry_timeout": _PATIENCE}
    try:
        made = obstore.store.from_url(url, retry_config=retries)
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise StorageUnavailable(f"cannot use store {url}: {_first(error)}. {_CREDENTIALS}") from error
    return ObstoreBucket(url, made)


_CREDENTIALS = (
    "Credentials, region and endpoint come from the environment of the processes that open the store: "
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, and AWS_ALLOW_HTTP=true for an endpoint "
    "without TLS; GOOGLE_… and AZURE_STORAGE_… for the others"
)


class ObstoreBucket:
    """Bucket, or a prefix of one, through obstore.

    Args:
        url: the URL, for messages.
        remote: obstore's object; keys are relative to its prefix.
    """

    def __init__(self, url: str, remote: Remote) -> None:
        import obstore

        self.url = url
        self._remote = remote
        self._api = obstore
        self._errors = obstore.exceptions

    async def create(self, key: str, data: bytes) -> bool:
        """See Bucket."""
        try:
            # Only a put in one piece can be told to create.
            await self._api.put_async(self._remote, key, data, mode="create", use_multipart=False)
        except self._errors.AlreadyExistsError:
            return False
        except self._failures as error:
            raise self._unavailable("write", key, error) from error
        return True

    async def put(self, key: str, data: bytes) -> None:
        """See Bucket."""
        try:
            await self._api.put_async(self._remote, key, data)
        except self._failures as error:
            raise self._unavailable("write", key, error) from error

    async def get(self, key: str) -> bytes | None:
        """See Bucket."""
        try:
            found = await self._api.get_async(self._remote, key)
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        except self._failures as error:
            raise self._unavailable("read", key, error) from error

    async def exists(self, key: str) -> bool:
        """See Bucket."""
        try:
            await self._api.head_async(self._remote, key)
        except FileNotFoundError:
            return False
        except self._failures as error:
            raise self._unavailable("read", key, error) from error
        return True

    async def list(self, folder: str, after: str = "") -> list[str]:
        """See Bucket."""
        offset = f"{folder}/{after}" if after else None
        try:
            stream = self._api.list(self._remote, folder, offset=offset, chunk_size=1000)
            found = [meta["path"] async for chunk in stream for meta in chunk]
        except self._failures as error:
            raise self._unavailable("list", folder, error) from error
        return sorted(path.removeprefix(f"{folder}/") for path in found)

    async def delete(self, keys: Sequence[str]) -> None:
        """See Bucket."""
        if not keys:
            return
        try:
            await self._api.delete_async(self._remote, list(keys))
        except FileNotFoundError:
            if len(keys) > 1:  # one of them was gone already: each on its own
                for key in keys:
                    await self.delete([key])
        except self._failures as error:
            raise self._unavailable("delete", keys[0], error) from error

    async def tidy(self) -> None:
        """See Bucket. Object storage removes unfinished puts by its own rules."""

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        return (self._errors.BaseError, OSError, NotImplementedError)

    def _unavailable(self, doing: str, key: str, error: Exception) -> StorageUnavailable:
        what = f"cannot {doing} {self.url.rstrip('/')}/{key}"
        denied = (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError, PermissionError)
        text = str(error)  # of listings, what the server answered is only said there
        if isinstance(error, denied) or "status code: 403" in text or "status code: 401" in text:
            return StorageUnavailable(f"{what}: permission was denied ({_first(error)}). {_CREDENTIALS}")
        if isinstance(error, FileNotFoundError) or "status code: 404" in text:
            return StorageUnavailable(
                f"{what}: the bucket does not exist, and rayflow does not create one ({_first(error)})"
            )
        if isinstance(error, NotImplementedError):
            return StorageUnavailable(f"{what}: this kind of object storage cannot do that ({_first(error)})")
        return StorageUnavailable(
            f"{what}: {_first(error)}. It cannot be reached, or returns errors; the request may be repeated. "
            f"{_CREDENTIALS}"
        )


def _first(error: Exception) -> str:
    """Return obstore's message without the dump that follows."""
    said = " ".join(str(error).split("\n\nDebug source", 1)[0].split())
    return said[:500] or type(error).__name__


class FolderBucket:
    """Objects as files of a folder, also of one that several machines share.

    obstore has this too, but does not wait until a file is on the disk (0.12.1: no fsync), and so would acknowledge
    data that a power cut loses. Here a file is written under a temporary name, synchronised, and linked to its name,
    which fails if the name exists.

    Args:
        url: ``file://`` and the folder's absolute path.
        sync: whether to wait for the disk; tests turn it off.
    """

    _numbers = itertools.count()

    def __init__(self, url: str, *, sync: bool = True) -> None:
        self.url = url
        self._root = Path(url.removeprefix("file://"))
        self._aside = self._root / "aside"
        self._sync = sync

    async def create(self, key: str, data: bytes) -> bool:
        """See Bucket."""
        return await self._run("write", key, lambda: self._create(self._root / key, data))

    async def put(self, key: str, data: bytes) -> None:
        """See Bucket."""
        await self._run("write", key, lambda: self._put(self._root / key, data))

    async def get(self, key: str) -> bytes | None:
        """See Bucket."""
        return await self._run("read", key, lambda: _read(self._root / key))

    async def exists(self, key: str) -> bool:
        """See Bucket."""
        return await self._run("read", key, (self._root / key).is_file)

    async def list(self, folder: str, after: str = "") -> list[str]:
        """See Bucket."""
        return await self._run("list", folder, lambda: [name for name in _names(self._root / folder) if name > after])

    async def delete(self, keys: Sequence[str]) -> None:
        """See Bucket."""
        if keys:
            await self._run("delete", keys[0], lambda: _unlink(self._root / key for key in keys))

    async def tidy(self) -> None:
        """See Bucket. A running put of another process fails, and may be repeated."""

        def remove() -> None:
            _unlink(self._aside / name for name in _names(self._aside) if not name.startswith(_process()))

        await self._run("delete", "aside", remove)

    async def _run(self, doing: str, key: str, body: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(body)
        except OSError as error:
            raise StorageUnavailable(
                f"cannot {doing} {self._root / key}: {error.strerror or error}. The folder must be writable, on a file "
                "system with hard links, and have room"
            ) from error

    def _create(self, path: Path, data: bytes) -> bool:
        written = self._write_aside(path, data)
        try:
            os.link(written, path)
            made = True
        except FileExistsError:
            made = False
        finally:
            written.unlink(missing_ok=True)
        self._settle(path.parent)  # the process that created it may not have come that far
        return made

    def _put(self, path: Path, data: bytes) -> None:
        self._write_aside(path, data).replace(path)
        self._settle(path.parent)

    def _write_aside(self, path: Path, data: bytes) -> Path:
        for folder in (self._aside, path.parent):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                self._settle(folder.parent)
        while True:
            aside = self._aside / f"{_process()}{next(self._numbers)}"
            try:
                file = aside.open("xb")
            except FileExistsError:  # an earlier process of that number was killed
                continue
            with file:
                file.write(data)
                file.flush()
                if self._sync:
                    os.fsync(file.fileno())
            return aside

    def _settle(self, folder: Path) -> None:
        """Wait until a folder's names are on the disk."""
        if self._sync:
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
