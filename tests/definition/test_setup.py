"""A pool's setup as text, and back."""

from __future__ import annotations

import collections
import functools
import hashlib
import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from rayflow.definition.code import PYTHON
from rayflow.definition.setup import load_setup, setup_reference
from rayflow.errors import CorruptRecord, IncompatibleVersion, InvalidArgument


def nothing(digest: str) -> bytes:
    raise AssertionError(f"nobody should ask for blob {digest}")


def value_of(blob: bytes, python: str = PYTHON) -> str:
    return f"value:{python}:{hashlib.sha256(blob).hexdigest()}"


# --- there and back -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["clients:connect", "my_app.clients:Client.connect", "value:connect", "größe:messen"])
def test_text_stays_as_it_is(text: str) -> None:
    assert setup_reference(text) == (text, None)


@pytest.mark.parametrize(
    ("setup", "text"), [(inspect.currentframe, "inspect:currentframe"), (collections.Counter, "collections:Counter")]
)
def test_what_can_be_imported_is_named(setup: Callable[[], Any], text: str) -> None:
    assert setup_reference(setup) == (text, None)
    assert load_setup(text, nothing) is setup


def test_what_python_can_say_no_signature_of_is_taken() -> None:
    assert setup_reference(int) == ("builtins:int", None)


def test_a_part_of_a_class_is_found() -> None:
    assert load_setup("pathlib:Path.cwd", nothing)() == Path.cwd()


@pytest.mark.parametrize(
    "setup",
    [lambda: 5, functools.partial(int, "5"), functools.wraps(os.getcwd)(lambda: 5)],
    ids=["lambda", "partial", "wrapped"],
)
def test_anything_else_travels_as_bytes(setup: Callable[[], int]) -> None:
    text, blob = setup_reference(setup)
    assert blob is not None
    assert text == value_of(blob)
    assert load_setup(text, {text.rpartition(":")[2]: blob}.__getitem__)() == 5


# --- what is refused ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["", "connect", "clients:", ":connect", "a b:c", "clients:connect()", "a:b:c", "1a:b"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="as text it has to be 'module:function'"):
        setup_reference(text)
    with pytest.raises(InvalidArgument, match="is neither 'module:function' nor 'value:<python>:<sha256>'"):
        load_setup(text, nothing)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="setup 5 is a int, which cannot be called"):
        setup_reference(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="setup os:sep is a str, which cannot be called"):
        load_setup("os:sep", nothing)


def test_what_needs_arguments_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"is called without arguments, and \(path\) does not fit: missing"):
        setup_reference(lambda path: path)  # type: ignore[misc, arg-type]
    with pytest.raises(InvalidArgument, match=r"setup os\.path:basename is called without arguments"):
        load_setup("os.path:basename", nothing)


def test_what_cannot_be_pickled_is_refused() -> None:
    lock = threading.Lock()
    with pytest.raises(InvalidArgument, match=r"cannot be carried to the workers \(TypeError: cannot pickle"):
        setup_reference(lambda: lock)


# --- what is not there --------------------------------------------------------------------------------------
def test_a_module_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IncompatibleVersion, match="cannot import module 'no_such_module', which holds the setup 'f'"):
        load_setup("no_such_module:f", nothing)
    (tmp_path / "a_module_that_breaks.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(IncompatibleVersion, match="ZeroDivisionError: division by zero"):
        load_setup("a_module_that_breaks:f", nothing)


@pytest.mark.parametrize("text", ["os:no_such_function", "os:getcwd.no_such.part"])
def test_a_function_that_is_not_there_is_named(text: str) -> None:
    with pytest.raises(IncompatibleVersion, match=f"has no '{text[3:]}', which is a pool's setup"):
        load_setup(text, nothing)


def test_bytes_of_another_python_are_refused() -> None:
    with pytest.raises(IncompatibleVersion, match=f"by Python 2.7, and this is Python {PYTHON}: configure the pool"):
        load_setup(value_of(b"", python="2.7"), nothing)


def test_bytes_that_are_not_what_was_stored_are_refused() -> None:
    with pytest.raises(CorruptRecord, match=r"blob [0-9a-f]{64}, a pool's setup, differs from the stored one"):
        load_setup(value_of(b"stored"), lambda digest: b"changed")


def test_bytes_that_cannot_be_loaded_say_why() -> None:
    missing = b"cno_such_module\nf\n."
    with pytest.raises(IncompatibleVersion, match="needs module 'no_such_module', which cannot be imported here"):
        load_setup(value_of(missing), lambda digest: missing)
    with pytest.raises(IncompatibleVersion, match="cannot be unpickled here: UnpicklingError"):
        load_setup(value_of(b"junk"), lambda digest: b"junk")
    number = cloudpickle.dumps(5)
    with pytest.raises(InvalidArgument, match="is a int, which cannot be called"):
        load_setup(value_of(number), lambda digest: number)
