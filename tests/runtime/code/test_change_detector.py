"""Whether the code that a process has loaded is still the code on its disk."""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayflow.runtime.code.change_detector import CodeChangeDetector

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of a new name into a folder, and imports it."""
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
        del sys.modules[name]


def test_a_file_that_was_edited_has_changed(write: Write, tmp_path: Path) -> None:
    code = CodeChangeDetector([str(tmp_path / "code")])
    assert not code.changed()
    file = write()
    assert not code.changed()
    write()
    assert not code.changed()
    file.write_text("x = 22")
    assert code.changed()
    assert code.changed(), "it stays so: the module is not imported again"


def test_also_where_it_is_as_long_as_before(write: Write, tmp_path: Path) -> None:
    file = write()
    code = CodeChangeDetector([str(tmp_path / "code")])
    code.note()
    file.write_text("x = 2")
    os.utime(file, ns=(0, 0))
    assert code.changed()


def test_only_what_lies_in_the_folders_and_was_imported_counts(write: Write, tmp_path: Path) -> None:
    file = write("elsewhere")
    (tmp_path / "code").mkdir()
    unused = tmp_path / "code" / "unused.py"
    unused.write_text("x = 1")
    code = CodeChangeDetector([str(tmp_path / "code")])
    code.note()
    file.write_text("x = 22")
    unused.write_text("x = 22")
    assert not code.changed()


def test_a_folder_of_a_longer_name_is_another_folder(write: Write, tmp_path: Path) -> None:
    file = write("codebase")
    code = CodeChangeDetector([str(tmp_path / "code")])
    code.note()
    file.write_text("x = 22")
    assert not code.changed()


def test_a_virtual_environment_in_a_folder_does_not_count(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "code" / ".venv"))
    file = write("code/.venv")
    code = CodeChangeDetector([str(tmp_path / "code")])
    code.note()
    file.write_text("x = 22")
    assert not code.changed()


def test_what_has_changed_can_be_imported_anew(write: Write, tmp_path: Path) -> None:
    file = write(text="x = 1")
    code = CodeChangeDetector([str(tmp_path / "code")])
    code.refresh()
    assert importlib.import_module(file.stem) is sys.modules[file.stem]
    old = sys.modules[file.stem]
    file.write_text("x = 22")
    code.refresh()
    assert importlib.import_module(file.stem).x == 22
    assert sys.modules[file.stem] is not old
    assert not code.changed()


def test_packages_do_not_change(write: Write) -> None:
    file = write()
    code = CodeChangeDetector(["code", "."])
    file.write_text("x = 22")
    assert not code.changed()


def test_a_file_that_is_gone_is_all_that_is_left_of_it(write: Write, tmp_path: Path) -> None:
    file = write()
    code = CodeChangeDetector([str(tmp_path / "code")])
    code.note()
    file.unlink()
    assert not code.changed()
