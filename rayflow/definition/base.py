"""What all definitions share: they can be found again in another process.

A definition (step, agent, workflow) is pickled as a *reference* where another process can import it, whatever
it is pickled inside of; only what lives in ``__main__``, a notebook or a closure is pickled by value. So a
script's workflow carries the script's own functions along, and only names those of its libraries.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import cloudpickle

from rayflow.errors import IncompatibleVersion

if TYPE_CHECKING:
    from rayflow.definition.options import Retention

D = TypeVar("D", bound="Definition")

Place = tuple[str, str]
"""Where a definition stands: module and qualified name."""


class WorkflowDefinition(Protocol):
    """What an engine needs of a workflow, however it was written."""

    @property
    def id(self) -> str:
        """The workflow's id."""

    @property
    def version(self) -> str:
        """The workflow's version."""

    @property
    def description(self) -> str:
        """What it does, for people."""

    @property
    def retention(self) -> Retention | None:
        """How long its executions are kept after their end; None where it does not say."""

    @property
    def returns(self) -> Any:
        """The annotation of the result; None without one."""

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Check the arguments of a start. Raises TypeError, which names the wrong argument."""

    def begin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        """Return the coroutine that an execution runs."""


class Definition:
    """Base of what a person defines. It knows where it was made, and pickles as a reference if it can.

    Attributes:
        fn: the function that it was made of; None if it was made of none.
        home: the module in which it was made.
        stamp: for one that was loaded from a blob: the blob's digest, and its own number in there.
    """

    fn: Callable[..., Any] | None = None
    home: str = ""
    stamp: tuple[str, int] | None = None

    #: Attributes that belong to this process and are not pickled.
    transient: ClassVar[frozenset[str]] = frozenset({"fn", "stamp", "__wrapped__"})

    def __reduce__(self) -> tuple[Any, ...]:
        place = locate(self)
        if place is not None:
            return find, place
        state: dict[str, Any] = {k: v for k, v in self.__dict__.items() if k not in self.transient}
        if self.fn is not None:
            # A library's function under a definition made here: named, so that its module stays at home.
            borrowed = locate_function(self.fn)
            state |= {"fn": self.fn} if borrowed is None else {"borrowed": borrowed}
        # Made empty first and filled afterwards, because a function may refer to its own definition.
        return _blank, (type(self),), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        borrowed = state.pop("borrowed", None)
        if borrowed is not None:
            state["fn"] = find(*borrowed).fn
        self.__dict__.update(state)
        if self.fn is not None:
            self.__dict__["__wrapped__"] = self.fn


# --- finding ----------------------------------------------------------------------------------------------
def making_module() -> str:
    """Return the name of the module whose code is making a definition: the nearest caller outside this package."""
    frame = sys._getframe(1)
    package = __name__.rpartition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def locate(obj: Definition) -> Place | None:
    """Where another process finds this very object by importing it, or None."""
    fn_module = getattr(obj.fn, "__module__", "") or ""
    qualname = getattr(obj.fn, "__qualname__", "")
    if qualname and importable(fn_module) and _lookup(fn_module, qualname) is obj:
        return fn_module, qualname
    for module in dict.fromkeys((obj.home, fn_module)):
        if importable(module):
            for name, value in list(vars(sys.modules[module]).items()):
                if value is obj:
                    return module, name
    return None


def locate_function(fn: Callable[..., Any], kind: type[Definition] = Definition) -> Place | None:
    """Where another process finds a definition made of this very function, or None.

    Args:
        fn: the function.
        kind: the class that the definition has to have.
    """
    module, qualname = getattr(fn, "__module__", "") or "", getattr(fn, "__qualname__", "")
    if not qualname or not importable(module):
        return None
    found = _lookup(module, qualname)
    return (module, qualname) if isinstance(found, kind) and found.fn is fn else None


def importable(module: str) -> bool:
    """Whether another process with the same import paths can import this loaded module by its name."""
    if module in {"", "__main__", "__mp_main__"} or module not in sys.modules:
        return False
    by_value = cloudpickle.list_registry_pickle_by_value()
    if any(module == name or module.startswith(name + ".") for name in by_value):
        return False
    # A module may be loaded without being findable: made by hand, or read from a file under another name.
    top = module.partition(".")[0]
    return any(finder.find_spec(top, None) is not None for finder in sys.meta_path)


def find(module: str, qualname: str) -> Definition:
    """Import a definition.

    Raises:
        IncompatibleVersion: the module cannot be imported, or the object of that name is not a definition.
    """
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        raise IncompatibleVersion(
            f"cannot import module {module!r}, which holds {qualname!r} ({type(error).__name__}: {error}). "
            f"It has to be importable where the execution runs; sys.path there is {sys.path}"
        ) from error
    found = _lookup(module, qualname)
    if found is None:
        raise IncompatibleVersion(
            f"module {module!r} ({getattr(loaded, '__file__', None)}) has no {qualname!r}. An execution refers "
            "to it by that name: if it was renamed, keep the old name too until those executions have finished"
        )
    if not isinstance(found, Definition):
        raise IncompatibleVersion(
            f"{module}:{qualname} is a {type(found).__name__} now, and no longer a step, agent or workflow of rayflow"
        )
    return found


def _lookup(module: str, qualname: str) -> object:
    found: object = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


# --- collecting what a blob holds ------------------------------------------------------------------------
_collected: ContextVar[list[Definition] | None] = ContextVar("_collected", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[list[Definition]]:
    """Collect the definitions that are unpickled by value inside this block, in their order in the blob."""
    found: list[Definition] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def _blank(cls: type[D]) -> D:
    obj = cls.__new__(cls)
    found = _collected.get()
    if found is not None:
        found.append(obj)
    return obj
