"""How the setup of a pool is found again in its workers: by its name, or carried along by value.

``"module:function"`` is a name; so is the text of a callable that another process can import. Anything else is
pickled, and its text is ``"value:<python>:<sha256>"``.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any, cast

import cloudpickle

from rayflow.definition.base import importable
from rayflow.definition.code import PYTHON, Fetch
from rayflow.errors import CorruptRecord, IncompatibleVersion, InvalidArgument

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_NAME = re.compile(rf"({_DOTTED}):({_DOTTED})")
_VALUE = re.compile(r"value:(\d+\.\d+):([0-9a-f]{64})")


def setup_reference(setup: str | Callable[[], Any], *, allow_pickle: bool = True) -> tuple[str, bytes | None]:
    """Return a setup as text, by which :func:`load_setup` finds it.

    Args:
        setup: ``"module:function"``, or a function (or anything else) that can be called without arguments.
        allow_pickle: False refuses what cannot be imported, since it travels as a pickle.

    Returns:
        The text, and for a setup that cannot be imported the bytes to be stored under their SHA-256.

    Raises:
        InvalidArgument: it has another form, needs arguments, or can neither be imported nor pickled.

    Example:
        >>> setup_reference("clients:connect")
        ('clients:connect', None)
    """
    if isinstance(setup, str):
        if not _NAME.fullmatch(setup):
            raise InvalidArgument(f"setup is {setup!r}, and as text it has to be 'module:function'")
        return setup, None
    _check(setup, repr(setup))
    place = _place(setup)
    if place:
        return place, None
    if not allow_pickle:
        raise InvalidArgument(
            f"the setup {setup!r} cannot be imported by the workers, so it would have to travel as a pickle, and "
            "allow_pickle is off. Move it into a module, and name it as 'module:function'"
        )
    try:
        blob: bytes = cloudpickle.dumps(setup)
    except Exception as error:
        raise InvalidArgument(
            f"the setup {setup!r} cannot be carried to the workers ({type(error).__name__}: {error}): make what cannot "
            "be pickled inside of it, or move it into a module"
        ) from error
    return f"value:{PYTHON}:{hashlib.sha256(blob).hexdigest()}", blob


def load_setup(text: str, fetch: Fetch, *, allow_pickle: bool = True) -> Callable[[], Any]:
    """Return the setup of :func:`setup_reference`'s text.

    Args:
        text: the text.
        fetch: returns stored bytes by their SHA-256.
        allow_pickle: False refuses a setup that was stored by value.

    Raises:
        IncompatibleVersion: the module or the function is not here, or the bytes are of another Python.
        InvalidArgument: the text has another form, the object cannot be called without arguments, or it is a
            pickle and ``allow_pickle`` is False.
        CorruptRecord: the bytes differ from the stored ones.
    """
    value, name = _VALUE.fullmatch(text), _NAME.fullmatch(text)
    if value is not None and not allow_pickle:
        raise InvalidArgument(
            f"setup {text!r} was stored by value, as a pickle, and allow_pickle is off: name it as 'module:function'"
        )
    if value is not None:
        found = _unpickled(value[1], value[2], fetch)
    elif name is not None:
        found = _imported(name[1], name[2])
    else:
        raise InvalidArgument(f"setup {text!r} is neither 'module:function' nor 'value:<python>:<sha256>'")
    _check(found, text)
    return cast("Callable[[], Any]", found)


def _check(setup: object, name: str) -> None:
    if not callable(setup):
        raise InvalidArgument(
            f"setup {name} is a {type(setup).__name__}, which cannot be called; it has to be a function without "
            "arguments, or 'module:function'"
        )
    try:
        signature = inspect.signature(setup)
    except ValueError:
        return  # some of C have none
    try:
        signature.bind()
    except TypeError as error:
        raise InvalidArgument(
            f"setup {name} is called without arguments, and {signature} does not fit: {error}"
        ) from None


def _place(setup: object) -> str:
    """Return the name by which another process can import this very object; "" without one."""
    module, qualname = getattr(setup, "__module__", None), getattr(setup, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or not importable(module):
        return ""
    return f"{module}:{qualname}" if _part(sys.modules[module], qualname) is setup else ""


def _part(module: object, qualname: str) -> object:
    found = module
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def _imported(module: str, qualname: str) -> object:
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        raise IncompatibleVersion(
            f"cannot import module {module!r}, which holds the setup {qualname!r} ({type(error).__name__}: {error}). "
            f"It has to be importable in the pool's workers; sys.path there is {sys.path}"
        ) from error
    found = _part(loaded, qualname)
    if found is None:
        raise IncompatibleVersion(
            f"module {module!r} ({getattr(loaded, '__file__', None)}) has no {qualname!r}, which is a pool's setup"
        )
    return found


def _unpickled(python: str, digest: str, fetch: Fetch) -> object:
    if python != PYTHON:
        raise IncompatibleVersion(
            f"the setup was stored by value by Python {python}, and this is Python {PYTHON}: configure the pool with "
            f"Python {PYTHON}, or define the setup in a module that can be imported"
        )
    blob = fetch(digest)
    seen = hashlib.sha256(blob).hexdigest()
    if seen != digest:
        raise CorruptRecord("", f"blob {digest}, a pool's setup, differs from the stored one: its SHA-256 is {seen}")
    try:
        found: object = pickle.loads(blob)  # noqa: S301 - code that the pool's owner stored; running it is the point
    except ImportError as error:
        raise IncompatibleVersion(
            f"the setup needs module {error.name!r}, which cannot be imported here ({error}); sys.path is {sys.path}"
        ) from error
    except Exception as error:
        raise IncompatibleVersion(f"the setup cannot be unpickled here: {type(error).__name__}: {error}") from error
    return found
