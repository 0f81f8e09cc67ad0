"""How code is found again: recorded as a reference, or carried along by value, and loaded in another process.

What can be imported elsewhere is recorded as module and qualified name. What cannot (``__main__``, notebooks,
closures) is pickled once, by content digest, with the Python version. Steps inside such a blob are numbered in
the order in which they are unpickled, so that a worker finds the very step, whatever it is called.

Loading imports and unpickles, and runs nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import pickle
import re
import sys
import textwrap
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import cloudpickle

from rayflow.definition.base import Definition, collecting, find, locate, locate_function
from rayflow.definition.context import Target
from rayflow.definition.declared_steps import DeclaredStep
from rayflow.definition.step import Step
from rayflow.definition.workflow import Workflow
from rayflow.errors import CorruptRecord, DefinitionError, IncompatibleVersion

Fetch = Callable[[str], bytes]
"""Answers the bytes of a blob, by its digest."""

#: This Python, as a code reference records it.
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

#: A part of a blob: the number of a definition in it, and a part of that.
_NUMBERED = re.compile(r"@(\d+)(?:/(.+))?")


@dataclass(frozen=True, slots=True)
class CodeRef:
    """Where the code of a workflow or step is found.

    Args:
        kind: "ref": import it; "value": unpickle the blob.
        module: its module; of a value, where it came from, for people.
        qualname: its qualified name in there.
        digest: SHA-256 (hex) of the blob; empty for a reference.
        version: the workflow's version; empty for a step.
        source_sha256: digest of the source, to notice a change; empty where there was no source.
        python: the Python that recorded it, as "3.11".
    """

    kind: Literal["ref", "value"]
    module: str
    qualname: str
    digest: str = ""
    version: str = ""
    source_sha256: str = ""
    python: str = PYTHON

    def to_dict(self) -> dict[str, str]:
        """The reference as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CodeRef:
        """The reference of :meth:`to_dict`'s data.

        Raises:
            IncompatibleVersion: a newer rayflow wrote it in a way that this one does not know.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if data.get("kind") not in {"ref", "value"} or not known.issuperset(data):
            raise IncompatibleVersion(
                f"code reference {dict(data)} was written by another rayflow: this one knows {known}"
            )
        return cls(**data)

    @property
    def place(self) -> str:
        """Module and name, for people."""
        return f"{self.module}:{self.qualname}"


@dataclass(frozen=True, slots=True)
class TargetRef:
    """Where a worker finds what it has to call.

    Args:
        ref: what to load.
        part: the part of it.
        blob: the bytes behind ``ref``, where they may not be stored yet; store them before sending.
    """

    ref: CodeRef
    part: str
    blob: bytes | None = None


# --- recording --------------------------------------------------------------------------------------------
def reference(obj: Definition) -> CodeRef | None:
    """A reference to ``obj`` if another process can import the very same object, else None."""
    place = locate(obj)
    return None if place is None else _ref("ref", place, obj)


def by_value(obj: Definition, *, allow_pickle: bool = True) -> tuple[CodeRef, bytes]:
    """``obj`` as a blob, and the reference to it. What can be imported is only named in there.

    Args:
        obj: the definition.
        allow_pickle: False refuses it, since such a blob is a pickle.

    Raises:
        DefinitionError: it holds something that cannot be pickled, or nothing may be.
    """
    place = (getattr(obj.fn, "__module__", None) or obj.home, getattr(obj.fn, "__qualname__", None) or _named(obj))
    if not allow_pickle:
        raise DefinitionError(
            f"{obj!r} ({place[0]}:{place[1]}) cannot be imported by another process, so it would have to travel as a "
            "pickle, and allow_pickle is off. Move it into a module that can be imported"
        )
    try:
        blob = cloudpickle.dumps(obj)
    except Exception as error:
        raise DefinitionError(
            f"{obj!r} cannot be carried to another process ({type(error).__name__}: {error}). It is not importable "
            "there, so it travels with all that it refers to: make such an object inside the step, or move "
            f"{place[1]} into a module"
        ) from error
    return _ref("value", place, obj, digest=hashlib.sha256(blob).hexdigest()), blob


def _ref(kind: Literal["ref", "value"], place: tuple[str, str], obj: Definition, digest: str = "") -> CodeRef:
    version = str(getattr(obj, "version", ""))
    return CodeRef(kind, *place, digest=digest, version=version, source_sha256=source_hash(obj))


def _named(obj: Definition) -> str:
    return str(getattr(obj, "id", type(obj).__qualname__))


# --- loading ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Loaded:
    obj: Any
    #: The definitions of a blob, by their numbers.
    numbered: tuple[Definition, ...] = ()


class CodeCache:
    """Loads code, and remembers what it loaded; one for each process. Safe to share between threads.

    Args:
        limit: blobs to remember; the ones used longest ago are forgotten first.
        allow_pickle: whether code may travel by value, which is a pickle.
    """

    def __init__(self, *, limit: int = 256, allow_pickle: bool = True) -> None:
        self._limit = limit
        self._allow_pickle = allow_pickle
        self._lock = threading.RLock()
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._references: weakref.WeakKeyDictionary[Definition, CodeRef | None] = weakref.WeakKeyDictionary()
        self._values: weakref.WeakKeyDictionary[Definition, tuple[CodeRef, bytes]] = weakref.WeakKeyDictionary()

    def load(self, ref: CodeRef, fetch: Fetch) -> Any:
        """The object that a reference stands for.

        Args:
            ref: the reference.
            fetch: answers a blob's bytes; only asked for a value that is not loaded yet.

        Raises:
            IncompatibleVersion: the module or attribute is not there, or the blob is of another Python.
            CorruptRecord: the blob is not what was stored.
        """
        return self._load(ref, fetch).obj

    def resolve(self, ref: CodeRef, part: str, fetch: Fetch) -> Any:
        """What a worker has to call: the step or agent behind a :class:`TargetRef`.

        Raises:
            IncompatibleVersion: as for :meth:`load`, or there is no such part.
            CorruptRecord: the blob is not what was stored.
        """
        loaded = self._load(ref, fetch)
        found = loaded.obj
        numbered = _NUMBERED.fullmatch(part) if ref.kind == "value" else None
        if numbered is not None:
            if int(numbered[1]) >= len(loaded.numbered):
                raise IncompatibleVersion(f"{ref.place} has {len(loaded.numbered)} definitions, and no part {part!r}")
            found, part = loaded.numbered[int(numbered[1])], numbered[2] or ""
        if not part:
            return found
        if not isinstance(found, Workflow):
            raise IncompatibleVersion(f"{ref.place} is {found!r}, which has no part {part!r}")
        return found.part(part)

    def target_ref(self, target: Target, within: CodeRef | None = None) -> TargetRef:
        """How a worker finds a target that workflow code issued here.

        Args:
            target: what the step's call names.
            within: the workflow's own reference: a target that came out of its blob is found there.

        Raises:
            DefinitionError: it can neither be imported nor pickled.
        """
        # A step that was derived with other options runs the same function; its options travel with the call.
        owner: Definition = target.owner.origin if isinstance(target.owner, Step) else target.owner
        ref = self._reference(owner)
        if ref is not None:
            return TargetRef(ref, target.part)
        if within is not None and owner.stamp is not None and owner.stamp[0] == within.digest:
            number = f"@{owner.stamp[1]}"
            return TargetRef(within, f"{number}/{target.part}" if target.part else number)
        with self._lock:
            found = self._values.get(owner)
            if found is None:
                found = self._values[owner] = by_value(owner, allow_pickle=self._allow_pickle)
        return TargetRef(found[0], target.part, found[1])

    def _reference(self, owner: Definition) -> CodeRef | None:
        with self._lock:
            if owner not in self._references:
                ref = reference(owner)
                if ref is None and isinstance(owner, Step):
                    place = locate_function(owner.fn, Step)
                    ref = None if place is None else _ref("ref", place, owner)
                self._references[owner] = ref
            return self._references[owner]

    def _load(self, ref: CodeRef, fetch: Fetch) -> _Loaded:
        if ref.kind == "ref":  # Python remembers modules itself, also where a person has one loaded again
            return _Loaded(find(ref.module, ref.qualname))
        found = self._remembered(ref.digest)
        if found is not None:
            return found
        if not self._allow_pickle:
            raise IncompatibleVersion(
                f"{ref.place} was stored by value, as a pickle, and allow_pickle is off, so it is not loaded here. "
                "Define it in a module that can be imported, or run it where pickles are allowed"
            )
        # Fetched without the lock: it may take long, and others may need what is there already.
        blob = _fetched(ref, fetch)
        with self._lock:
            found = self._remembered(ref.digest)
            if found is None:
                found = self._loaded[ref.digest] = _unpickled(ref, blob)
                while len(self._loaded) > self._limit:
                    self._loaded.popitem(last=False)
            return found

    def _remembered(self, digest: str) -> _Loaded | None:
        with self._lock:
            found = self._loaded.get(digest)
            if found is not None:
                self._loaded.move_to_end(digest)
            return found


def _fetched(ref: CodeRef, fetch: Fetch) -> bytes:
    if ref.python != PYTHON:
        raise IncompatibleVersion(
            f"{ref.place} was stored by value by Python {ref.python}, and this is Python {PYTHON}: run it with Python "
            f"{ref.python}, or define it in a module that can be imported"
        )
    blob = fetch(ref.digest)
    seen = hashlib.sha256(blob).hexdigest()
    if seen != ref.digest:
        raise CorruptRecord(
            "", f"blob {ref.digest}, the code of {ref.place}, is not what was stored: its SHA-256 is {seen}"
        )
    return blob


def _unpickled(ref: CodeRef, blob: bytes) -> _Loaded:
    with collecting() as numbered:
        try:
            obj = pickle.loads(blob)  # noqa: S301 - code that the workflow's author stored; running it is the point
        except IncompatibleVersion:
            raise
        except ImportError as error:
            raise IncompatibleVersion(
                f"{ref.place} needs module {error.name!r}, which cannot be imported here ({error}); "
                f"sys.path is {sys.path}"
            ) from error
        except Exception as error:
            raise IncompatibleVersion(
                f"{ref.place} cannot be unpickled here: {type(error).__name__}: {error}"
            ) from error
    for number, definition in enumerate(numbered):
        definition.stamp = (ref.digest, number)
    return _Loaded(obj, tuple(numbered))


# --- noticing changes -------------------------------------------------------------------------------------
def source_hash(obj: Any) -> str:
    """SHA-256 (hex) of the source of a step, agent or workflow; "" where there is no source.

    Of a declared workflow it covers its steps: their kinds, settings, functions and agents.
    """
    if isinstance(obj, Workflow):
        text = "\n".join(line for step in obj.steps for line in _described(step))
    else:
        text = _source(obj)
        if not text:
            return ""
    return hashlib.sha256(text.encode()).hexdigest()


def _described(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, DeclaredStep):
        yield f"{name}: {type(value).__name__}"
        for field in dataclasses.fields(value):
            yield from _described(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, tuple):
        for index, member in enumerate(value):
            yield from _described(member, f"{name}[{index}]")
    elif callable(value) or hasattr(value, "run"):
        yield f"{name}: {_source(value) or type(value).__qualname__}"
    else:
        yield f"{name}: {value!r}"


def _source(obj: Any) -> str:
    code = obj.fn if isinstance(obj, Definition) else obj
    try:
        return textwrap.dedent(inspect.getsource(code if inspect.isroutine(code) else cast("type", type(code))))
    except (OSError, TypeError):
        return ""
