"""Statements that list executions."""

# ruff: noqa: S608 - statements are built from names in this module, never from values
from __future__ import annotations

import json
from typing import Any

from rayflow.core.execution.requests import OTHERS
from rayflow.storage.base import Filter
from rayflow.storage.query.comparisons import FIELDS, Comparison, type_of, waiting_part
from rayflow.storage.sqlite.statements import COLUMNS, TERMINAL, UNFINISHED, as_json

_NEWEST = "{0}.created_at DESC, {0}.number DESC"
_CALLS = "{0}.created_at, {0}.number"
_DUE = "{0}.runnable_at, {0}.priority DESC, {0}.number"

#: Conditions without which SQLite does not use the partial index of a column.
_PARTIAL = {
    "error_text": "error_type <> ''",
    "error_type": "error_type <> ''",
    "forked_from": "forked_from <> ''",
    "parent": "parent <> ''",
    "schedule": "schedule <> ''",
    "singleton": "singleton <> ''",
}


class _Statement:
    """Terms of a statement and their parameters."""

    def __init__(self) -> None:
        self.terms: list[str] = []
        self.values: list[Any] = []

    def add(self, term: str, *values: Any) -> None:
        self.terms.append(term)
        self.values.extend(values)

    @property
    def where(self) -> str:
        return f" WHERE {' AND '.join(self.terms)}" if self.terms else ""


def listing(query: Filter) -> tuple[str, list[Any]]:
    """Return the statement of a query, and its parameters.

    The inner statement finds the numbers of the page, from indexes alone where one fits; the outer one reads the rows.
    """
    made = _Statement()
    driver = _driving_attribute(query)
    source, table = "executions AS e", "e"
    if driver is not None:
        source, table = "attributes AS a", "a"
        made.add("a.name = ?", driver.attribute)
        _add_attribute_value(made, "a", driver)
        if not _is_alone(query):
            source += " CROSS JOIN executions AS e ON e.number = a.number"
    order = _CALLS if query.parent is not None else _NEWEST
    if query.runnable_before is not None:
        order = _DUE
    # With a plus sign SQLite sorts, and scans the small partial index instead of all executions in their order.
    key = f"+{table}" if query.stuck or (_is_alone(query) and _is_scan(query.where[0])) else table
    if query.after is not None:
        compared = ">" if order is _CALLS else "<"
        at, number = query.after
        made.add(f"{key}.created_at {compared}= ?", at)
        made.add(f"({key}.created_at, {table}.number) {compared} (?, ?)", at, number)
    _add_selection(made, query)
    for comparison in query.where:
        if comparison is not driver:
            _add(made, comparison)
    inner = f"SELECT {table}.number FROM {source}{made.where} ORDER BY {order.format(key)} LIMIT ?"
    statement = (
        f"SELECT {COLUMNS} FROM ({inner}) AS p CROSS JOIN executions AS e ON e.number = p.number"
        f" LEFT JOIN starts AS s ON s.id = e.id ORDER BY {order.format('e')}"
    )
    return statement, [*made.values, query.limit]


def _driving_attribute(query: Filter) -> Comparison | None:
    """Return the comparison whose index of attributes finds the executions: in the order of the list, or alone."""
    if _is_alone(query) and query.where[0].attribute is not None:
        return query.where[0]
    if query.runnable_before is not None or query.parent is not None:
        return None
    return next((each for each in query.where if each.attribute is not None and each.operator == "="), None)


def _is_scan(comparison: Comparison) -> bool:
    """Return whether a comparison needs the scan of a partial index."""
    field = FIELDS.get(comparison.field)
    if field is None:
        return False
    return field.kind == "waiting" or (field.column in _PARTIAL and comparison.operator == "contains")


def _is_alone(query: Filter) -> bool:
    """Return whether a query consists of a single comparison."""
    return len(query.where) == 1 and query == Filter(where=query.where, after=query.after, limit=query.limit)


def _add_selection(made: _Statement, query: Filter) -> None:
    if query.ids is not None:
        made.add("e.id IN (SELECT value FROM json_each(?))", as_json(query.ids))
    if query.status:
        made.add(f"e.status IN ({', '.join('?' * len(query.status))})", *query.status)
    for column in ("workflow_id", "parent", "schedule"):
        wanted = getattr(query, column)
        if wanted is not None:
            made.add(f"e.{column} = ?", wanted)
            if wanted and column in _PARTIAL:
                made.add(f"e.{_PARTIAL[column]}")
    if query.runnable_before is not None:
        made.add("e.runnable_at <= ?", query.runnable_before)
    if query.unread_inbox:
        made.add("e.inbox_last > e.inbox_done AND e.owner <> ''")
    if query.driven:
        made.add("(e.owner <> '' OR e.runnable_at IS NOT NULL)")
    if query.stuck:
        made.add(f"e.owner = '' AND e.runnable_at IS NULL AND e.waits LIKE '{OTHERS}%' AND e.{UNFINISHED}")


def _add(made: _Statement, comparison: Comparison) -> None:
    if comparison.attribute is not None:
        inner = _Statement()
        inner.add("x.name = ?", comparison.attribute)
        _add_attribute_value(inner, "x", comparison)
        made.add(f"EXISTS (SELECT 1 FROM attributes AS x{inner.where} AND x.number = e.number)", *inner.values)
        return
    field, value = FIELDS[comparison.field], comparison.value
    members = value if isinstance(value, tuple) else (value,)
    if field.kind == "waiting":
        part = " OR ".join(["instr(e.waiting_for, ?) > 0"] * len(members))
        made.add(f"e.waiting_for <> '' AND ({part})", *(waiting_part(str(each)) for each in members))
    elif field.kind == "flag":
        ended = bool(value) is (comparison.operator == "=")
        made.add(f"e.status {'' if ended else 'NOT '}IN ({TERMINAL})")
    else:
        _add_value(made, f"e.{field.column}", comparison)
        if field.column in _PARTIAL and comparison.operator != "!=" and all(members):
            made.add(f"e.{_PARTIAL[field.column]}")


def _add_value(made: _Statement, column: str, comparison: Comparison) -> None:
    if comparison.operator == "in":
        made.add(f"{column} IN (SELECT value FROM json_each(?))", json.dumps(comparison.value))
    elif comparison.operator == "contains":
        made.add(f"instr({column}, ?) > 0", comparison.value)
    else:
        made.add(f"{column} {comparison.operator} ?", comparison.value)


def _add_attribute_value(made: _Statement, table: str, comparison: Comparison) -> None:
    """Add the terms of an attribute's value: only values of the same type are comparable."""
    if not isinstance(comparison.value, tuple):
        made.add(f"{table}.type = ?", type_of(comparison.value))
        _add_value(made, f"{table}.value", comparison)
        return
    part = " OR ".join([f"({table}.type = ? AND {table}.value = ?)"] * len(comparison.value))
    made.add(f"({part})", *(given for each in comparison.value for given in (type_of(each), each)))
