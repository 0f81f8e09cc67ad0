"""Whether the code that a process has loaded is the code that is asked for."""

from __future__ import annotations

import importlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from rayflow.errors import CorruptRecord
from rayflow.runtime.code import change_detector
from rayflow.runtime.code.change_detector import CodeChangeDetector, record_imports, refresh
from rayflow.runtime.code.fingerprint import Fingerprint
from rayflow.runtime.code.sources import digest_of

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record what is imported from now on, as coordinators and workers do."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    loaded = change_detector._LoadedModules()
    loaded._names = set(sys.modules)  # the modules of the tests stay as they are
    monkeypatch.setattr(change_detector, "_loaded", loaded)
    record_imports()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module of a new name into a folder, and import it."""
    made: list[str] = []

    def written(folder: str = "code", text: str = "x = 1") -> Path:
        name = f"module_{uuid.uuid4().hex[:8]}"
        file = tmp_path / folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        monkeypatch.syspath_prepend(str(file.parent))
        importlib.import_module(name)
        made.append(name)
        return file

    yield written
    for name in made:
        sys.modules.pop(name, None)


def detector(*fingerprints: Fingerprint) -> CodeChangeDetector:
    """Return a detector whose store has these fingerprints."""
    stored: Mapping[str, bytes] = {one.id: one.to_bytes() for one in fingerprints}

    def fetch(digest: str) -> bytes:
        if digest not in stored:
            raise CorruptRecord("", f"blob {digest} is missing in the store")
        return stored[digest]

    return CodeChangeDetector(fetch, enabled=True)


def fingerprint(**files: str) -> Fingerprint:
    """Return the fingerprint of files of these contents."""
    return Fingerprint({path: digest_of(text.encode()) for path, text in files.items()})


def test_what_is_loaded_and_on_the_disk_is_not_outdated(write: Write) -> None:
    file = write()
    wanted = fingerprint(**{str(file): "x = 1"})
    assert not detector(wanted).outdated([wanted.id])


def test_an_edit_is_noticed_by_the_next_fingerprint(write: Write) -> None:
    file = write()
    old, new = (fingerprint(**{str(file): text}) for text in ("x = 1", "x = 2"))
    code = detector(old, new)
    assert not code.outdated([old.id])
    file.write_text("x = 2")
    assert code.outdated([new.id])


def test_the_second_edit_is_noticed_as_well_although_nobody_looked_in_between(write: Write) -> None:
    file = write()
    versions = [fingerprint(**{str(file): f"x = {number}"}) for number in range(4)]
    for number in (2, 3):
        file.write_text(f"x = {number}")
    assert detector(*versions).outdated([versions[3].id])


def test_the_file_is_what_counts_when_the_module_was_imported_not_when_somebody_looks(write: Write) -> None:
    file = write()
    file.write_text("x = 2")
    assert detector().edited()


def test_an_edit_that_keeps_size_and_time_is_noticed(write: Write) -> None:
    file = write()
    stamp = file.stat()
    code = detector()
    assert not code.edited()
    file.write_text("x = 2")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert code.edited()


def test_what_is_newer_than_the_fingerprint_stays(write: Write) -> None:
    file = write(text="x = 2")
    earlier = fingerprint(**{str(file): "x = 1"})
    code = detector(earlier)
    assert not code.outdated([earlier.id]), "a new process would load the same"
    assert not code.matches(earlier.id)
    assert code.changes(earlier.id, unloaded=False) == [str(file)]


def test_an_edit_that_is_taken_back_is_noticed(write: Write) -> None:
    file = write(text="x = 2")
    first = fingerprint(**{str(file): "x = 1"})
    code = detector(first)
    assert not code.outdated([first.id])
    file.write_text("x = 1")
    assert code.outdated([first.id])


def test_a_module_that_is_loaded_later_is_compared_as_well(write: Write, tmp_path: Path) -> None:
    first = write()
    later = tmp_path / "code" / f"later_{uuid.uuid4().hex[:8]}.py"
    later.write_text("y = 1")
    old, new = (fingerprint(**{str(first): "x = 1", str(later): text}) for text in ("y = 1", "y = 2"))
    code = detector(old, new)
    assert not code.outdated([old.id])
    importlib.invalidate_caches()
    importlib.import_module(later.stem)
    later.write_text("y = 2")
    assert code.outdated([new.id])
    del sys.modules[later.stem]


def test_without_its_fingerprint_all_modules_are_compared_with_the_disk(write: Write) -> None:
    file = write()
    code = detector()
    assert not code.outdated(["missing"])
    file.write_text("x = 2")
    assert code.outdated(["missing"])


def test_files_without_a_loaded_module_count_where_that_is_asked(write: Write, tmp_path: Path) -> None:
    file, unused = write(), tmp_path / "code" / "unused.py"
    unused.write_text("x = 2")
    wanted = fingerprint(**{str(file): "x = 1", str(unused): "x = 1"})
    code = detector(wanted)
    assert code.changes(wanted.id, unloaded=False) == []
    assert code.changes(wanted.id, unloaded=True) == [str(unused)]
    unused.unlink()
    assert code.changes(wanted.id, unloaded=True) == [str(unused)]


def test_what_is_installed_does_not_count(write: Write) -> None:
    file = write("lib/python3.11/site-packages")
    file.write_text("x = 2")
    assert not detector().edited()


def test_a_virtual_environment_in_a_folder_does_not_count(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "code" / ".venv"))
    file = write("code/.venv")
    file.write_text("x = 2")
    assert not detector().edited()


def test_of_a_file_that_is_gone_the_module_is_what_is_left(write: Write) -> None:
    file = write()
    file.unlink()
    assert not detector().edited()


def test_a_process_of_the_user_is_never_outdated(write: Write) -> None:
    file = write()
    file.write_text("x = 2")
    assert not CodeChangeDetector(lambda digest: b"", enabled=False).outdated(["any"])


def test_a_compiled_file_that_may_be_older_is_not_used(write: Write) -> None:
    file = write(text="x = 1")
    stamp = file.stat()
    file.write_text("x = 2")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as within one second: Python takes it for the same
    refresh()
    assert importlib.import_module(file.stem).x == 2


def test_a_compiled_file_is_used_where_its_source_is_older(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "code" / f"old_{uuid.uuid4().hex[:8]}.py"
    file.parent.mkdir()
    file.write_text("x = 1")
    long_ago = time.time() - 60
    os.utime(file, (long_ago, long_ago))
    monkeypatch.syspath_prepend(str(file.parent))
    module = importlib.import_module(file.stem)
    compiled = Path(module.__cached__)
    assert compiled.exists()
    written = compiled.stat().st_mtime_ns
    del sys.modules[file.stem]
    assert importlib.import_module(file.stem).x == 1
    assert compiled.stat().st_mtime_ns == written
    assert not detector().edited()
    del sys.modules[file.stem]


def test_what_has_changed_can_be_imported_again(write: Write) -> None:
    file = write(text="x = 1")
    refresh()
    old = sys.modules[file.stem]
    assert importlib.import_module(file.stem) is old
    file.write_text("x = 22")
    refresh()
    assert importlib.import_module(file.stem).x == 22
    assert sys.modules[file.stem] is not old
    assert not detector().edited()
