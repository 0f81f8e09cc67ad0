"""Comparisons of an execution's fields with values, and the fields that can be compared."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayflow.core.execution.requests import WaitsFor
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
    lines = [line.replace("\\", "\\\\").replace("\n", "\\n") for line in WaitsFor.from_text(record.waits).describe()]
    return "".join(f"\n{line}" for line in lines) + "\n" if lines else ""


def waiting_part(wanted: str) -> str:
    """Return the part of :func:`waiting_text` by which a kind, or a kind and a name, is found."""
    escaped = wanted.replace("\\", "\\\\").replace("\n", "\\n")
    return f"\n{escaped}\n" if " " in escaped else f"\n{escaped} "


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


def test_of(comparisons: Iterable[Comparison]) -> Test | None:
    """Return a function that says whether an execution meets all comparisons; None if there is nothing to test."""
    return all_of([_test(comparison) for comparison in comparisons])


def all_of(tests: Sequence[Test]) -> Test | None:
    """Return one test for several; None for none."""
    if len(tests) < 2:
        return tests[0] if tests else None
    return lambda record: all(test(record) for test in tests)


def _test(comparison: Comparison) -> Test:
    name, compare, value = comparison.attribute, _COMPARE[comparison.operator], comparison.value
    if name is not None:
        return _attribute_test(name, compare, value)
    field = FIELDS[comparison.field]
    if field.kind == "waiting":
        return _waiting_test(tuple(map(str, value)) if isinstance(value, tuple) else (str(value),))
    if field.kind == "flag":
        return lambda record: compare(record.status.terminal, value)
    get = operator.attrgetter(field.column)
    if comparison.operator == "=":  # without one call of a function; a list may test a hundred thousand executions
        return lambda record: bool(get(record) == value)
    wanted: Any = frozenset(value) if isinstance(value, tuple) else value
    return lambda record: compare(get(record), wanted)


def _waiting_test(wanted: Sequence[str]) -> Test:
    parts = [waiting_part(each) for each in wanted]
    # Most texts are excluded without parsing: a name is in the text as JSON.
    names = [json.dumps(each.partition(" ")[2])[1:-1] for each in wanted]

    def test(record: ExecutionRecord) -> bool:
        if not any(name in record.waits for name in names):
            return False
        text = waiting_text(record)
        return any(part in text for part in parts)

    return test


_CLASSES: Mapping[str, frozenset[type]] = {
    "bool": frozenset({bool}),
    "number": frozenset({int, float}),
    "text": frozenset({str}),
}


def _attribute_test(name: str, compare: Callable[[Any, Any], bool], value: Any) -> Test:
    if isinstance(value, tuple):
        tests = [_attribute_test(name, operator.eq, each) for each in value]
        return lambda record: any(test(record) for test in tests)
    classes = _CLASSES[type_of(value)]
    if compare is operator.eq:
        return lambda record: record.attributes.get(name) == value and type(record.attributes[name]) in classes

    def test(record: ExecutionRecord) -> bool:
        found = record.attributes.get(name)
        return type(found) in classes and compare(found, value)

    return test
