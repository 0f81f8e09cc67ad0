"""Recorded stores, unpacked for a test."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

RECORDED = Path(__file__).parent

#: The folders of recorded formats.
FORMATS = sorted(folder.name for folder in RECORDED.glob("format-*"))


def sqlite_file(form: str, folder: Path) -> Path:
    """The recorded file, in a folder."""
    file = folder / "store.db"
    file.write_bytes(gzip.decompress((RECORDED / form / "store.db.gz").read_bytes()))
    return file


def objects(form: str, folder: Path) -> Path:
    """The recorded objects, in a folder."""
    with tarfile.open(RECORDED / form / "objects.tar.gz") as archive:
        archive.extractall(folder / "objects", filter="data")
    return folder / "objects"


def url_of(kind: str, form: str, folder: Path) -> str:
    """The URL of a recorded store, unpacked into a folder; ``kind`` is "sqlite" or "file"."""
    return f"sqlite:///{sqlite_file(form, folder)}" if kind == "sqlite" else f"file://{objects(form, folder)}"
