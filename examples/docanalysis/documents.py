"""Where the documents come from: files and folders that were named, or the packages installed here."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Characters of a document that are read; the rest is left out and the document says so (``truncated``).
MAX_CHARS = 200_000

MEDIA_TYPES = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".rst": "text/x-rst",
    ".html": "text/html",
    ".htm": "text/html",
}


class DocumentError(ValueError):
    """What was named as input cannot be analysed; the message says why and what would be right."""


@dataclass(frozen=True)
class Document:
    """One text to analyse.

    Args:
        id: the same for the same source and text, and fit to be part of an execution's id.
        title: what a person would call it.
        text: the text with its markup, at most ``MAX_CHARS`` characters.
        media_type: text/plain, text/markdown, text/x-rst or text/html.
        source: the file's path as it was named, or ``package:name==version``.
        truncated: whether the source had more text than is kept here.
    """

    id: str
    title: str
    text: str
    media_type: str
    source: str
    truncated: bool = False


@dataclass(frozen=True)
class Skipped:
    """A source that was found and left out, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """What was found: documents in the order of their packages' names or their paths, and what was left out."""

    documents: tuple[Document, ...]
    skipped: tuple[Skipped, ...] = ()


def installed_packages() -> Collection:
    """The long description of every package installed in this environment, by name.

    Where two installations have the same name, the one that Python would import counts.

    Raises:
        DocumentError: no installed package has a description.
    """
    documents: dict[str, Document] = {}
    skipped: dict[str, Skipped] = {}
    for distribution in distributions():
        name = _header(distribution, "Name")
        if not name:
            continue  # the remains of an uninstalled package: nothing that a person could look up
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in documents or key in skipped:
            continue
        version = _header(distribution, "Version")
        source = f"package:{key}=={version}"
        text = _header(distribution, "Description")
        if text.strip() in ("", "UNKNOWN"):  # old setuptools wrote UNKNOWN where there was nothing
            skipped[key] = Skipped(source, "the package has no description")
            continue
        declared = _header(distribution, "Description-Content-Type").split(";")[0].strip().lower()
        # The metadata specification takes a description without a type for reStructuredText.
        media_type = declared if declared in MEDIA_TYPES.values() else "text/x-rst"
        documents[key] = _document("package", f"{name} {version}", text, media_type, source)
    if not documents:
        raise DocumentError("no package with a description is installed here; name files or folders to analyse instead")
    return Collection(_ordered(documents), _ordered(skipped))


def read_paths(paths: Sequence[str | os.PathLike[str]]) -> Collection:
    """The text files among ``paths`` and in the folders below them.

    A folder gives its ``.txt``, ``.md``, ``.rst`` and ``.html`` files, at any depth; hidden files and folders are
    passed over. A file that was named itself is read whatever its name ends in. A file named twice counts once.

    Args:
        paths: files and folders.

    Raises:
        DocumentError: nothing was named, a path does not exist, or nothing readable was found.
    """
    if not paths:
        raise DocumentError("no path was named; name files or folders, or call installed_packages()")
    documents: dict[str, Document] = {}
    skipped: dict[str, Skipped] = {}
    seen: set[str] = set()
    for named in paths:
        for path in _files(Path(named), skipped):
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            source = _valid(path.as_posix())
            read = _read(path, source)
            if isinstance(read, Document):
                documents[source] = read
            else:
                skipped[source] = read
    if not documents:
        raise DocumentError(_nothing_readable(paths, tuple(skipped.values())))
    return Collection(_ordered(documents), _ordered(skipped))


def _files(path: Path, skipped: dict[str, Skipped]) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from _files_below(path, skipped)
    elif path.exists():
        raise DocumentError(f"{str(path)!r} is neither a file nor a folder")
    else:
        raise DocumentError(f"there is no file or folder {str(path)!r}")


def _files_below(folder: Path, skipped: dict[str, Skipped]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        source = _valid(Path(os.fsdecode(error.filename)).as_posix())
        skipped[source] = Skipped(source, f"the folder cannot be listed: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in MEDIA_TYPES:
                yield Path(where, name)


def _read(path: Path, source: str) -> Document | Skipped:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARS + 1)
    except UnicodeDecodeError:
        return Skipped(source, "it is not UTF-8 text")
    except OSError as error:
        return Skipped(source, f"it cannot be read: {error.strerror}")
    if "\0" in text:
        return Skipped(source, "it is binary")
    if not text.strip():
        return Skipped(source, "it is empty")
    return _document("file", path.name, text, MEDIA_TYPES.get(path.suffix.lower(), "text/plain"), source)


def _document(kind: str, title: str, text: str, media_type: str, source: str) -> Document:
    kept = _valid(text[:MAX_CHARS])
    digest = hashlib.sha256(f"{source}\n{media_type}\n{kept}".encode()).hexdigest()[:10]
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", _valid(title)).strip("-.")[:60]
    name = f"{kind}:{slug}:{digest}" if slug else f"{kind}:{digest}"
    return Document(name, _valid(title), kept, media_type, source, truncated=len(text) > MAX_CHARS)


def _header(distribution: Distribution, name: str) -> str:
    # Not metadata[name]: asking that way for a header that is missing warns from Python 3.12 on.
    values = distribution.metadata.get_all(name)
    return str(values[0]) if values else ""


def _valid(text: str) -> str:
    """``text`` without lone surrogates: file names and old metadata have them, and no encoder takes them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _ordered(found: Mapping[str, T]) -> tuple[T, ...]:
    return tuple(found[key] for key in sorted(found))


def _nothing_readable(paths: Iterable[str | os.PathLike[str]], skipped: Sequence[Skipped]) -> str:
    where = ", ".join(repr(os.fspath(path)) for path in paths)
    if skipped:
        why = "; ".join(f"{left.source}: {left.reason}" for left in skipped[:3])
        more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        return f"no readable text in {where}. Left out: {why}{more}"
    return f"no readable text in {where}: none of its files ends in {', '.join(sorted(MEDIA_TYPES))}"
