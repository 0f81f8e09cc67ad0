"""Large values: references to them in payloads, and their stand-ins in a workflow's code.

The bytes of a large value are a separate payload, stored once by its digest. In its place a payload holds a
:class:`Reference`. Workflow code gets a :class:`LazyValue`, which loads the value when it is used; until then it is
passed on as its reference.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from wrapt import LazyObjectProxy

#: Bytes of a payload beyond which a value is kept by reference, where nothing else is said.
THRESHOLD = 256 << 10

#: What each written reference begins with: bytes without it hold none.
MARK = b"rayflow:large"

_UNITS = ("bytes", "kB", "MB", "GB")
#: Types whose values cannot change in place.
_FIXED = (str, bytes, int, float)


class Reference(NamedTuple):
    """Reference to a large value in a payload.

    Args:
        digest: SHA-256 (hex) of the value's own payload.
        size: bytes of that payload.
        kind: name of the value's class, for display; "" if it is not known.
    """

    digest: str
    size: int
    kind: str = ""

    def __str__(self) -> str:
        kind = f"{self.kind}, " if self.kind else ""
        return f"<{kind}{_size_text(self.size)}, sha256 {self.digest[:12]}…>"

    def written(self) -> list[Any]:
        """Return the form of the reference in a payload."""
        return [MARK.decode(), *self]


def refer(data: bytes, kind: str = "") -> Reference:
    """Return the reference to a payload."""
    return Reference(hashlib.sha256(data).hexdigest(), len(data), kind)


def read_reference(written: Any) -> Reference:
    """Return the reference of a form that :attr:`Reference.written` made."""
    _, *parts = written
    return Reference(*parts)


def _size_text(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_UNITS[-1]}"


class LazyValue(LazyObjectProxy[Any]):
    """Large value in a workflow's code, loaded when the code uses it.

    Passing it on does not use it: as an argument of a step, inside of lists, dictionaries and models, as a result.
    ``repr`` does not either, so that a log or a debugger loads nothing; ``str`` does. C code that needs the exact type
    takes ``str(x)``, ``bytes(x)``, ``list(x)`` or ``dict(x)``.

    Args:
        reference: the value's reference.
        load: returns the value, rebuilt through an annotation; called once, at the first use.
    """

    def __init__(self, reference: Reference, load: Callable[[Any], Any]) -> None:
        self._self_reference = reference
        self._self_load = load
        self._self_annotation: Any = None
        self._self_value: tuple[Any, ...] = ()
        super().__init__(self._self_loaded)

    def _self_loaded(self) -> Any:
        if not self._self_value:
            self._self_value = (self._self_load(self._self_annotation),)
        return self._self_value[0]

    # On this class, since wrapt asks for them before it knows the value.
    def __iter__(self) -> Iterator[Any]:
        return iter(self.__wrapped__)

    def __repr__(self) -> str:
        return str(self._self_reference)

    def __copy__(self) -> Any:
        return copy.copy(self.__wrapped__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.__wrapped__, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return materialize, (self.__wrapped__,)


def is_large(value: Any) -> bool:
    """Return whether an object stands for a large value, without loading it."""
    return issubclass(type(value), LazyValue)


def materialize(value: Any) -> Any:
    """Return the value itself for the stand-in of a large value, and any other object unchanged.

    C code that needs an exact type, such as ``json.dumps`` or ``str.join``, does not accept a stand-in.

    Example:
        >>> materialize([1, 2])
        [1, 2]
    """
    return value.__wrapped__ if is_large(value) else value


def annotate(value: Any, annotation: Any) -> None:
    """Set the annotation through which a large value is rebuilt when it is loaded."""
    value._self_annotation = annotation  # noqa: SLF001 - so wrapt calls what is the stand-in's own


def unchanged(value: Any, encode: Callable[[Any], bytes]) -> Reference | None:
    """Return the reference of a large value, unless code has loaded and changed it: then it is another value."""
    reference: Reference = value._self_reference  # noqa: SLF001 - as above
    if not value._self_value or type(value._self_value[0]) in _FIXED:  # noqa: SLF001 - as above
        return reference
    return reference if refer(encode(value._self_value[0])).digest == reference.digest else None  # noqa: SLF001
