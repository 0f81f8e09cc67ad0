"""Queries give the same executions in every store: random ones against a naive reference, and pages of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayflow.core.execution.requests import WaitsFor
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.codec.journal import encode_failure
from rayflow.storage.model import ExecutionRecord
from rayflow.storage.operations import Operation
from rayflow.storage.query.comparisons import FIELDS, OPERATORS, Comparison
from rayflow.storage.query.where import parse_where
from tests.contract.conftest import Stores
from tests.contract.operations import NOW, append, claim, delete, done, park, start

#: Values that meet: few, with the odd ones among them.
NAMES = ("", "a", "b", "a'b", "ä\n", "a b")
NUMBERS = (0, 1, -1, 2**53 + 1, 2**63 - 1, 0.5, 1.0, 2.0**53, -0.0, 1e300)
ERRORS = (("ValueError", "no such thing"), ("shop.Declined", "card 'x' declined\ud800"), ("ValueError", ""))
WAITS = (
    WaitsFor(signals=(("a", ""), ("b", "m:C"))),
    WaitsFor(locks=("a", "a\nb", "a\\nb")),
    WaitsFor(children=("a",), locks=("signal a",)),
    WaitsFor(signals=(("ä\n", ""),), children=("x",)),
)
ATTRIBUTES: st.SearchStrategy[Any] = st.sampled_from([*NAMES, *NUMBERS, True, False])


@st.composite
def starts(draw: st.DrawFn, name: str) -> list[Operation]:
    """An execution in some state."""
    pick = st.sampled_from
    fields: dict[str, Any] = {
        "workflow_id": draw(pick(["a", "b"])),
        "version": draw(pick(["1", "2"])),
        "priority": draw(pick([0, 5, 9])),
        "created_at": NOW + draw(pick([0.0, 1.0, 2.5])),
        "parent": draw(pick(["", "a", "e0"])),
        "schedule": draw(pick(NAMES)),
        "forked_from": draw(pick(["", "a"])),
        "singleton": draw(pick(["", f"only {name}"])),
        "attributes": draw(st.dictionaries(pick(["x", "y.z"]), ATTRIBUTES, max_size=2)),
    }
    made: list[Operation] = [start(name, **fields)]
    kind = draw(pick(["new", "waiting", "parked", "failed", "paused", "completed"]))
    at = NOW + draw(pick([3.0, 4.0]))
    waits = draw(pick([wait.to_text() for wait in WAITS]))
    error_type, message = draw(pick(ERRORS))
    failure = encode_failure(Failure(error_type, message))
    entry = append(name, at=at)
    match kind:
        case "waiting":
            made += [claim(name), replace(entry, waits=waits)]
        case "parked":
            made += [claim(name), entry, replace(park(name, at=at), waits=waits)]
        case "failed" | "completed" | "paused":
            changes: dict[str, Any] = {"status": ExecutionStatus(kind), "waits": waits}
            made += [claim(name), replace(entry, failure=None if kind == "completed" else failure, **changes)]
    return made


STATUSES = st.sampled_from([str(status) for status in ExecutionStatus])
WAITED = st.sampled_from(["signal", "lock", "child", "signal a", "lock a", "lock a\nb", "lock signal a", "child a"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": st.sampled_from([*NAMES, "1", "e0", "e1", "only e0"]),
    "search": st.sampled_from(["", "ValueError", "shop.Declined", "Declined", "no", "'x'", "?", "%"]),
    "status": STATUSES,
    "flag": st.booleans(),
    "number": st.sampled_from([0, 5, 5.0, 5.5, 9]),
    "time": st.sampled_from([NOW, NOW + 1, NOW + 2.5, NOW + 3]),
    "waiting": WAITED,
    "attribute": ATTRIBUTES,
}


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """Any comparison."""
    field = draw(st.sampled_from([*sorted(FIELDS), "attr.x", "attr.y.z", "attr.x", "attr.none"]))
    kind = FIELDS[field].kind if field in FIELDS else "attribute"
    operator = draw(st.sampled_from(OPERATORS[kind]))
    if operator == "in":
        return Comparison(field, operator, tuple(draw(st.lists(VALUES[kind], min_size=1, max_size=3))))
    values = VALUES[kind] if operator != "contains" else VALUES[kind].filter(lambda value: isinstance(value, str))
    return Comparison(field, operator, draw(values))


# --- the reference ----------------------------------------------------------------------------------------------
def fits(record: ExecutionRecord, comparison: Comparison) -> bool:
    """The meaning of a comparison, written down once more."""
    wanted = comparison.value if isinstance(comparison.value, tuple) else (comparison.value,)
    for found in found_values(record, comparison.field):
        for value in wanted:
            if isinstance(found, str) is not isinstance(value, str):
                continue
            if isinstance(found, bool) is not isinstance(value, bool):
                continue
            if compared(found, comparison.operator, value):
                return True
    return False


def compared(found: Any, operator: str, value: Any) -> bool:
    match operator:
        case "=" | "in":
            return bool(found == value)
        case "!=":
            return bool(found != value)
        case "contains":
            return value in found
        case "<":
            return bool(found < value)
        case "<=":
            return bool(found <= value)
        case ">":
            return bool(found > value)
    return bool(found >= value)


def found_values(record: ExecutionRecord, field: str) -> Iterator[Any]:
    """The values that a field has; several for what is waited for."""
    if field.startswith("attr."):
        yield from (value for name, value in record.attributes.items() if field == f"attr.{name}")
    elif field == "finished":
        yield record.status.terminal
    elif field == "status":
        yield str(record.status)
    elif field == "waiting_for":
        for words in () if record.status.terminal else WaitsFor.from_text(record.waits).describe():
            yield words
            yield words.partition(" ")[0]
    else:
        yield getattr(record, FIELDS[field].column)


def expected(records: list[ExecutionRecord], query: Filter) -> list[str]:
    found = [record for record in records if all(fits(record, each) for each in query.where)]
    if query.status:
        found = [record for record in found if record.status in query.status]
    return [record.id for record in sorted(found, key=lambda r: (r.created_at, r.number), reverse=True)]


QUERIES = st.lists(comparisons(), max_size=3).map(tuple)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(data=st.data())
def test_random_queries_give_what_a_naive_reference_gives(stores: Stores, data: st.DataObject) -> None:
    made = [data.draw(starts(f"e{number}")) for number in range(data.draw(st.integers(1, 8)))]
    queries = [Filter(where=where) for where in data.draw(st.lists(QUERIES, min_size=10, max_size=20))]

    async def body(store: Store) -> None:
        await delete_all(store)
        for operations in made:
            await done(store, *operations)
        records = await store.executions(Filter())
        assert len(records) == len(made)
        for query in queries:
            found = await store.executions(query)
            assert [record.id for record in found] == expected(records, query), query
            for record in found:
                assert record == await store.execution(record.id)
            pages = await all_pages(store, query, 3)
            assert [record.id for record in pages] == [record.id for record in found]

    stores.run(body)


async def delete_all(store: Store) -> None:
    """Empty a store that an example before has filled."""
    for record in await store.executions(Filter()):
        if not record.status.terminal:
            last = await store.execution(record.id)
            assert last is not None
            await done(store, claim(record.id, expected=last.epoch, nonce="last"))
            changes: dict[str, Any] = {"epoch": last.epoch + 1, "status": ExecutionStatus.CANCELLED}
            await done(store, append(record.id, first=last.last_seq + 1, **changes))
    while names := [record.id for record in await store.executions(Filter())]:
        await delete(store, *names)


async def all_pages(store: Store, query: Filter, limit: int) -> list[ExecutionRecord]:
    """All pages of a list, one after the other."""
    found: list[ExecutionRecord] = []
    after = None
    while page := await store.executions(replace(query, after=after, limit=limit)):
        found += page
        after = (page[-1].created_at, page[-1].number)
    return found


# --- pages ------------------------------------------------------------------------------------------------------
def test_pages_survive_starts_ends_and_deletions(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, *(start(f"e{number}", created_at=NOW + number // 3) for number in range(9)))
        first = await store.executions(Filter(limit=4))
        assert [record.id for record in first] == ["e8", "e7", "e6", "e5"]
        await done(store, start("newer", created_at=NOW + 9), start("older", created_at=NOW))
        await done(store, *(claim(name) for name in ("e5", "e4")))
        await done(store, *(append(name, status=ExecutionStatus.COMPLETED) for name in ("e5", "e4")))
        assert await delete(store, "e5", "e4") == 2  # the last of that page, and the first of the next
        rest = await store.executions(Filter(after=(first[-1].created_at, first[-1].number)))
        assert [record.id for record in rest] == ["e3", "older", "e2", "e1", "e0"]

    stores.run(body)


def test_children_are_paged_in_the_order_of_their_calls(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, start("p"), *(start(f"c{number}", parent="p") for number in range(5)))
        first = await store.executions(Filter(parent="p", limit=2))
        rest = await store.executions(Filter(parent="p", after=(first[-1].created_at, first[-1].number)))
        assert [record.id for record in (*first, *rest)] == ["c0", "c1", "c2", "c3", "c4"]
        await done(store, start("q", created_at=NOW + 1))
        roots = await store.executions(Filter(parent=""))
        assert [record.id for record in roots] == ["p", "q"]
        after = (roots[0].created_at, roots[0].number)
        assert [record.id for record in await store.executions(Filter(parent="", after=after))] == ["q"]

    stores.run(body)


# --- single fields ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("error_type = 'ValueError'", ["failed"]),
        ("error contains 'such'", ["failed"]),
        ("error_type != ''", ["failed"]),
        ("waiting_for = 'lock'", ["waiting"]),
        ("waiting_for = 'lock ledger'", ["waiting"]),
        ("waiting_for = 'lock led'", []),
        ("finished = false and status = 'running'", ["waiting"]),
        ("attr.customer = 'acme' and attr.amount > 10", ["waiting"]),
        ("attr.amount >= 10", ["waiting", "failed"]),
        ("attr.amount > 10.25", ["waiting"]),
        ("attr.vip = true", ["failed"]),
        ("attr.vip = 1", []),
        ("attr.customer in ('acme', 'other') and started < 2000", ["waiting", "failed"]),
        ("updated > 1001", ["waiting"]),
    ],
)
def test_what_people_ask(stores: Stores, where: str, found: list[str]) -> None:
    async def write(store: Store) -> None:
        failure = encode_failure(Failure("ValueError", "no such customer"))
        failed = {"customer": "acme", "amount": 10, "vip": True}
        await done(store, start("failed", attributes=failed), claim("failed"))
        await done(store, append("failed", status=ExecutionStatus.FAILED, failure=failure))
        await done(store, start("waiting", attributes={"customer": "acme", "amount": 10.5, "vip": False}))
        waits = WaitsFor(locks=("ledger",)).to_text()
        await done(store, claim("waiting"), append("waiting", waits=waits, at=NOW + 2), start("new"))

    async def read(store: Store) -> None:
        listed = await store.executions(Filter(where=parse_where(where)))
        assert [record.id for record in listed] == found

    stores.run(write)
    stores.run(read)
