"""Store URLs: parsing, the default store, and the store of a URL.

The path of ``sqlite:///…`` is everything after the third slash, as in SQLAlchemy: ``sqlite:///flows.db`` is a file in
the working directory, ``sqlite:////var/lib/flows.db`` an absolute path, ``sqlite:///~/flows.db`` a file in the home
directory. Object storage is ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``, and
``file:///absolute/folder`` for a folder; endpoint and credentials come from the environment.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayflow.errors import StorageUnavailable
from rayflow.storage.base import Store
from rayflow.storage.memory import MemoryStore
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.sqlite.store import SqliteStore

AVAILABLE = (
    "sqlite:///path/to/file.db (kept on disk), s3://bucket/prefix, gs://bucket/prefix, az://container/prefix and "
    "file:///folder (object storage, or a folder that machines share), and memory:// (gone with its process)"
)
_BUCKETS = ("s3", "gs", "az")


@dataclass(frozen=True, slots=True)
class ParsedUrl:
    """Parts of a store's URL.

    Args:
        scheme: "sqlite", "memory", "s3", "gs", "az" or "file".
        path: the database file or the folder, as written; bucket and prefix; "" for memory.
    """

    scheme: str
    path: str

    @property
    def url(self) -> str:
        """Return the URL of these parts."""
        return f"sqlite:///{self.path}" if self.scheme == "sqlite" else f"{self.scheme}://{self.path}"


def parse(url: str) -> ParsedUrl:
    """Return the parts of a store's URL.

    Args:
        url: a URL such as ``sqlite:///flows.db``.

    Raises:
        StorageUnavailable: the URL is not valid; the message has the right form.

    Example:
        >>> parse("sqlite:///flows.db").path
        'flows.db'
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise StorageUnavailable(
            f"{url!r} is not a store URL. For a file, write sqlite:///{url or 'flows.db'}; available: {AVAILABLE}"
        )
    if scheme == "memory":
        if rest:
            raise StorageUnavailable(f"a memory store has no path: write memory://, not {url!r}")
        return ParsedUrl("memory", "")
    if scheme == "sqlite":
        return ParsedUrl("sqlite", _sqlite_path(url, rest))
    if scheme in _BUCKETS:
        return ParsedUrl(scheme, _bucket_path(url, scheme, rest))
    if scheme == "file":
        return ParsedUrl("file", _folder_path(url, rest))
    raise StorageUnavailable(f"{url!r}: scheme {scheme}:// is not supported; available: {AVAILABLE}")


def _sqlite_path(url: str, rest: str) -> str:
    if not rest.startswith("/"):
        raise StorageUnavailable(
            f"{url!r} has no third slash: write sqlite:///{rest or 'flows.db'} for a file in the working directory, "
            "sqlite:////absolute/path for any other"
        )
    path = rest[1:]
    if not path or path.endswith("/"):
        raise StorageUnavailable(f"{url!r} names no file: write the file's name too, such as sqlite:///flows.db")
    if path == ":memory:":
        raise StorageUnavailable(f"{url!r}: for a store in memory write memory://")
    if "?" in path or "#" in path:
        raise StorageUnavailable(f"{url!r}: a store URL takes no options, and its file no ? or # in the name")
    return path


def _bucket_path(url: str, scheme: str, rest: str) -> str:
    word = "container" if scheme == "az" else "bucket"
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise StorageUnavailable(f"{url!r} names no {word}: write {scheme}://{word}/prefix")
    _refuse_options(url, rest)
    parts = prefix.rstrip("/").split("/")
    if prefix and not all(part.strip(".") for part in parts):
        raise StorageUnavailable(
            f"{url!r}: a prefix has names between its slashes, such as {scheme}://{word}/team/flows"
        )
    return f"{bucket}/{'/'.join(parts)}".rstrip("/")


def _folder_path(url: str, rest: str) -> str:
    if not rest.startswith("/"):
        raise StorageUnavailable(f"{url!r} has no third slash: write file:///absolute/path/of/a/folder")
    _refuse_options(url, rest)
    if not rest.strip("/"):
        raise StorageUnavailable(f"{url!r} names no folder: write file:///absolute/path/of/a/folder")
    return rest.rstrip("/")


def _refuse_options(url: str, rest: str) -> None:
    if "?" in rest or "#" in rest or "%" in rest:
        raise StorageUnavailable(
            f"{url!r}: a store URL takes no options, and no ?, # or % in its names. Credentials, region and endpoint "
            "are read from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT and so on)"
        )


def open_store(url: str) -> Store:
    """Return the store of a URL, not opened yet. Raises StorageUnavailable as :func:`parse` does."""
    parsed = parse(url)
    if parsed.scheme == "memory":
        return MemoryStore(url)
    return SqliteStore(url) if parsed.scheme == "sqlite" else ObjectStore(parsed.url)


def user_data_dir(environ: Mapping[str, str], platform: str) -> Path:
    """Return the user's data folder: XDG on Linux, ``~/Library/Application Support`` on macOS.

    Args:
        environ: the environment's variables.
        platform: a value of ``sys.platform``.
    """
    home = Path(environ.get("HOME") or Path.home())
    if platform == "darwin":
        return home / "Library" / "Application Support"
    given = environ.get("XDG_DATA_HOME", "")
    return Path(given) if Path(given).is_absolute() else home / ".local" / "share"


def resolve(
    url: str | None,
    *,
    environ: Mapping[str, str] = os.environ,
    data_dir: Path | None = None,
    cwd: Path | None = None,
    forbidden: Sequence[Path] = (),
) -> str:
    """Return the URL of the selected store, with an absolute path. Creates nothing.

    Args:
        url: the caller's URL; None for ``RAYFLOW_STORE``, or else the file in the user's data folder.
        environ: the environment's variables.
        data_dir: the user's data folder; None for :func:`user_data_dir`.
        cwd: the folder of relative paths; None for the working directory.
        forbidden: temporary folders that must not contain a store.

    Raises:
        StorageUnavailable: the URL is not valid, or its file is in a forbidden folder.
    """
    given = url or environ.get("RAYFLOW_STORE")
    if not given:
        folder = data_dir or user_data_dir(environ, sys.platform)
        given = f"sqlite:///{folder / 'rayflow' / 'rayflow.db'}"
    parsed = parse(given)
    if parsed.scheme not in ("sqlite", "file"):
        return parsed.url
    path = Path(parsed.path)
    if path.parts[0] == "~":
        path = Path(environ.get("HOME") or Path.home(), *path.parts[1:])
    path = Path(cwd or Path.cwd(), path).resolve()
    for folder in forbidden:
        if path.is_relative_to(folder.resolve()):
            example = (
                "sqlite:////absolute/path/flows.db" if parsed.scheme == "sqlite" else "file:///absolute/path/flows"
            )
            raise StorageUnavailable(
                f"the store's {'file' if parsed.scheme == 'sqlite' else 'folder'} {path} would be inside {folder}, a "
                "temporary copy of the working directory that Ray deletes with its job. Give an absolute path outside "
                f"it: {example}"
            )
    return ParsedUrl(parsed.scheme, str(path)).url


def namespace_of(url: str) -> str:
    """Return a short, stable and readable namespace for a resolved store URL.

    Example:
        >>> namespace_of("sqlite:////data/flows.db")
        'rayflow-flows-765c8c94'
    """
    parsed = parse(url)
    word = re.sub(r"[^a-z0-9]+", "-", Path(parsed.path).stem.lower()).strip("-") if parsed.path else "memory"
    return f"rayflow-{word[:32].strip('-') or 'store'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
