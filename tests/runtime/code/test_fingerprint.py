"""Fingerprints of code: which files belong to it, and that they follow each edit."""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import cloudpickle
import pytest

from rayflow.definition.code import CodeRef
from rayflow.runtime.code.fingerprint import Fingerprint, Fingerprinter

Project = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path, and nothing else of the user's."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if "python3" in p)])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(root: Path, **texts: str) -> None:
    """Write modules; two underscores stand for a slash."""
    for name, text in texts.items():
        file = root / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def names(fingerprint: Fingerprint, root: Path) -> set[str]:
    """Return the files of a fingerprint, relative to the folder."""
    return {os.path.relpath(file, root) for file in fingerprint.files}


def of(module: str, fingerprinter: Fingerprinter | None = None) -> Fingerprint:
    """Return the fingerprint of a module."""
    return (fingerprinter or Fingerprinter()).of(CodeRef("ref", module, "flow"), lambda: b"")


def test_it_follows_imports_wherever_they_stand(root: Path) -> None:
    write(
        root,
        flows="import json, numpy\nimport helpers\nfrom lib.text import clean\ndef lazily():\n    import late\n",
        helpers="from lib import numbers",
        lib__init="unused = 1",
        late="",
        unused="",
    )
    write(root, lib__text="from . import words", lib__numbers="", lib__words="from .. import nothing")
    (root / "lib" / "__init__.py").write_text("")
    assert names(of("flows"), root) == {
        "flows.py", "helpers.py", "late.py", "lib/__init__.py", "lib/text.py", "lib/numbers.py", "lib/words.py",
    }  # fmt: skip


def test_it_follows_packages_without_init_and_relative_imports(root: Path) -> None:
    write(root, space__flows="from . import near\nfrom .far.away import x\nimport importlib\n", space__near="")
    write(root, space__far__away="import importlib\nimportlib.import_module('space.named')", space__named="")
    assert names(of("space.flows"), root) == {
        "space/flows.py", "space/near.py", "space/far/away.py", "space/named.py",
    }  # fmt: skip


def test_a_circle_of_imports_ends(root: Path) -> None:
    write(root, one="import two", two="import one")
    assert names(of("one"), root) == {"one.py", "two.py"}


def test_what_is_installed_and_rayflow_itself_is_no_part_of_it(root: Path) -> None:
    write(root, flows="import rayflow as rf\nimport pydantic\nimport os\n")
    assert names(of("flows"), root) == {"flows.py"}


def test_each_edit_is_another_one_and_the_first_comes_back(root: Path) -> None:
    fingerprinter = Fingerprinter()
    write(root, flows="import helpers", helpers="x = 1")
    seen = []
    for number in (1, 2, 3, 1):
        write(root, helpers=f"x = {number}")  # as long as before, and at once
        seen.append(of("flows", fingerprinter).id)
    assert len(set(seen)) == 3
    assert seen[0] == seen[3]


def test_an_edit_that_keeps_size_and_time_is_another_one(root: Path) -> None:
    fingerprinter = Fingerprinter()
    write(root, flows="x = 1")
    stamp = (root / "flows.py").stat()
    before = of("flows", fingerprinter)
    write(root, flows="x = 2")
    os.utime(root / "flows.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert of("flows", fingerprinter).id != before.id


def test_it_is_the_same_in_each_process(root: Path) -> None:
    write(root, flows="import helpers", helpers="x = 1")
    assert of("flows").id == of("flows").id
    assert Fingerprint.from_bytes(of("flows").to_bytes()).id == of("flows").id


def test_a_file_that_cannot_be_parsed_counts_all_the_same(root: Path) -> None:
    write(root, flows="import broken", broken="def (")
    assert names(of("flows"), root) == {"flows.py", "broken.py"}


def test_code_by_value_names_what_it_refers_to(root: Path) -> None:
    helper, package = f"helper_{uuid.uuid4().hex[:6]}", f"package_{uuid.uuid4().hex[:6]}"
    write(root, **{helper: "def used(): return 1", f"{package}__late": "import unrelated", "unrelated": ""})
    (root / package / "__init__.py").write_text("")
    importlib.invalidate_caches()
    space: dict[str, object] = {"__name__": "__main__"}
    source = f"import {helper}\ndef flow():\n    from {package} import late\n    return {helper}.used()"
    exec(source, space)  # noqa: S102 - as a script is run
    blob = cloudpickle.dumps(space["flow"])
    found = Fingerprinter().of(CodeRef("value", "__main__", "flow", digest="d"), lambda: blob)
    assert names(found, root) == {f"{helper}.py", f"{package}/__init__.py", f"{package}/late.py", "unrelated.py"}


def test_code_that_refers_to_nothing_of_the_users_has_none(root: Path) -> None:
    space: dict[str, object] = {"__name__": "__main__"}
    exec("def flow(): return 1", space)  # noqa: S102
    blob = cloudpickle.dumps(space["flow"])
    found = Fingerprinter().of(CodeRef("value", "__main__", "flow", digest="d"), lambda: blob)
    assert (found.id, found.files) == ("", {})
