"""Comparisons of an execution's fields with values, and the fields that can be compared."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rayflow.core.execution.requests import WaitsFor
from rayflow.ids import ExecutionStatus
from rayflow.storage.model import Attribute, ExecutionRecord

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "contains"]
Kind = Literal["text", "search", "status", "flag", "number", "time", "waiting"]

#: How the name of an attribute's field begins.
ATTRIBUTE = "attr."

_ORDER: tuple[Operator, ...] = ("=", "!=", "<", "<=", ">", ">=", "in")

#: The operators of each kind of field.
OPERATORS: Mapping[str, tuple[Operator, ...]] = {
    "text": ("=", "!=", "in"),
    "search": ("=", "!=", "in", "contains"),
    "status": ("=", "!=", "in"),
    "flag": ("=", "!="),
    "number": _ORDER,
    "time": _ORDER,
    "waiting": ("=", "in"),
    "attribute": (*_ORDER, "contains"),
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an execution that can be compared.

    Args:
        column: the field of the execution record.
        kind: which values and operators fit.
    """

    column: str
    kind: Kind


#: The fields by name, attributes apart.
FIELDS: Mapping[str, Field] = {
    "error": Field("error_text", "search"),
    "error_type": Field("error_type", "search"),
    "finished": Field("status", "flag"),
    "forked_from": Field("forked_from", "text"),
    "id": Field("id", "text"),
    "parent": Field("parent", "text"),
    "priority": Field("priority", "number"),
    "schedule": Field("schedule", "text"),
    "singleton": Field("singleton", "text"),
    "started": Field("created_at", "time"),
    "status": Field("status", "status"),
    "updated": Field("updated_at", "time"),
    "version": Field("version", "text"),
    "waiting_for": Field("waits", "waiting"),
    "workflow": Field("workflow_id", "text"),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition on an execution.

    An attribute matches only where the execution has it with a value of the same type: text, number (int and float
    are compared by value) or bool. So ``attr.tier != 'gold'`` leaves out executions without the attribute.

    Args:
        field: a name of :data:`FIELDS`, or ``attr.`` and an attribute's name.
        operator: the comparison; ``in`` has a tuple of values, ``contains`` finds a part of a text.
        value: what the field is compared with. Times are seconds since the epoch. ``waiting_for`` has a kind, such as
            ``signal``, or a kind and a name, such as ``signal approval``.
    """

    field: str
    operator: Operator
    value: Attribute | tuple[Attribute, ...]

    @property
    def attribute(self) -> str | None:
        """The attribute's name; None for another field."""
        return self.field.removeprefix(ATTRIBUTE) if self.field.startswith(ATTRIBUTE) else None


def type_of(value: object) -> str:
    """Return the type in which values are comparable: "bool", "number" or "text"."""
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, (int, float)) else "text"


def waiting_text(record: ExecutionRecord) -> str:
    """Return what an unfinished execution waits for, one line each with a line break on both sides; "" for nothing."""
    if not record.waits or record.status.terminal:
        return ""
    lines = [line.replace("\\", "\\\\").replace("\n", "\\n") for line in WaitsFor.from_text(record.waits).words()]
    return "".join(f"\n{line}" for line in lines) + "\n" if lines else ""


def waiting_part(wanted: str) -> str:
    """Return the part of :func:`waiting_text` by which a kind, or a kind and a name, is found."""
    escaped = wanted.replace("\\", "\\\\").replace("\n", "\\n")
    return f"\n{escaped}\n" if " " in escaped else f"\n{escaped} "


# --- in memory ------------------------------------------------------------------------------------------------
Test = Callable[[ExecutionRecord], bool]

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda found, values: found in values,
    "contains": lambda found, part: part in found,
}


def test_of(comparisons: Iterable[Comparison]) -> Test:
    """Return a function that says whether an execution meets all comparisons."""
    tests = [_test(comparison) for comparison in comparisons]
    if len(tests) == 1:
        return tests[0]
    return lambda record: all(test(record) for test in tests)


def _test(comparison: Comparison) -> Test:
    name, compare, value = comparison.attribute, _COMPARE[comparison.operator], comparison.value
    if name is not None:
        return _attribute_test(name, compare, value)
    field = FIELDS[comparison.field]
    if field.kind == "waiting":
        parts = [waiting_part(str(each)) for each in (value if isinstance(value, tuple) else (value,))]
        return lambda record: any(part in waiting_text(record) for part in parts) if record.waits else False
    if field.kind == "flag":
        return lambda record: compare(record.status.terminal, value)
    get = operator.attrgetter(field.column)
    if field.kind == "status":
        value = frozenset(map(ExecutionStatus, value)) if isinstance(value, tuple) else ExecutionStatus(value)  # type: ignore[assignment, arg-type]
    return lambda record: compare(get(record), value)


def _attribute_test(name: str, compare: Callable[[Any, Any], bool], value: Any) -> Test:
    members = value if isinstance(value, tuple) else (value,)
    by_type = {kind: tuple(each for each in members if type_of(each) == kind) for kind in map(type_of, members)}

    def test(record: ExecutionRecord) -> bool:
        found = record.attributes.get(name)
        if found is None:
            return False
        comparable = by_type.get(type_of(found))
        if comparable is None:
            return False
        return compare(found, comparable if isinstance(value, tuple) else value)

    return test
