"""The where language: whatever is written reads back as what it means, and errors say where, what and how."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayflow.errors import InvalidArgument
from rayflow.ids import ExecutionStatus
from rayflow.storage.query.comparisons import FIELDS, OPERATORS, Comparison
from rayflow.storage.query.where import MOST_COMPARISONS, MOST_VALUES, parse_where

NOVEMBER = dt.datetime(2026, 11, 1, tzinfo=dt.UTC).timestamp()

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "search": TEXTS,
    "status": st.sampled_from([str(status) for status in ExecutionStatus]),
    "flag": st.booleans(),
    "number": NUMBERS,
    "time": NUMBERS.map(float),
    "waiting": st.builds("{} {}".format, st.sampled_from(["signal", "lock", "child"]), TEXTS) | st.just("signal"),
    "attribute": TEXTS | NUMBERS | st.booleans(),
}
ATTRIBUTES = st.from_regex(r"attr\.[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """Any comparison that can be written."""
    field = draw(st.sampled_from(sorted(FIELDS)) | ATTRIBUTES)
    kind = FIELDS[field].kind if field in FIELDS else "attribute"
    operator = draw(st.sampled_from(OPERATORS[kind]))
    values = VALUES[kind]
    value = draw(st.lists(values, min_size=1, max_size=4).map(tuple) if operator == "in" else values)
    return Comparison(field, operator, value)


@st.composite
def written(draw: st.DrawFn, comparison: Comparison) -> str:
    """A comparison in one of the ways in which it can be written."""
    operator: str = comparison.operator
    operator = {"=": draw(st.sampled_from(["=", "=="])), "!=": draw(st.sampled_from(["!=", "<>"]))}.get(
        operator, draw(st.sampled_from([operator, operator.upper()]))
    )
    value = comparison.value
    members = value if isinstance(value, tuple) else (value,)
    texts = [draw(literal(member)) for member in members]
    space = draw(st.sampled_from(["", " ", "\n\t"])) if operator not in ("in", "IN", "contains", "CONTAINS") else " "
    given_value = f"({', '.join(texts)})" if isinstance(value, tuple) else texts[0]
    return f"{comparison.field}{space}{operator}{space}{given_value}"


@st.composite
def literal(draw: st.DrawFn, value: object) -> str:
    if isinstance(value, bool):
        return draw(st.sampled_from([str(value), str(value).lower(), str(value).upper()]))
    if isinstance(value, str):
        quote = draw(st.sampled_from("'\""))
        return quote + value.replace(quote, quote * 2) + quote
    return repr(value)


@given(st.data(), st.lists(comparisons(), min_size=1, max_size=5))
def test_what_is_written_is_what_is_read(data: st.DataObject, wanted: list[Comparison]) -> None:
    parts = [data.draw(written(comparison)) for comparison in wanted]
    text = data.draw(st.sampled_from([" and ", " AND ", "\nand\n"])).join(parts)
    found = parse_where(data.draw(st.sampled_from(["", "  "])) + text + data.draw(st.sampled_from(["", " \n"])))
    assert found == tuple(wanted)
    values = [value for each in found for value in (each.value if isinstance(each.value, tuple) else (each.value,))]
    given_values = [v for each in wanted for v in (each.value if isinstance(each.value, tuple) else (each.value,))]
    assert list(map(type, values)) == list(map(type, given_values))


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_position(text: str) -> None:
    try:
        parse_where(text)
    except InvalidArgument as error:
        assert str(error).startswith("where, position ")  # noqa: PT017 - both ways are right
        assert "⟨here⟩" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("'2026-11-01'", NOVEMBER),
        ("'2026-11-01T02:00:00+02:00'", NOVEMBER),
        ("'2026-11-01T00:00:00Z'", NOVEMBER),
        ("1793491200", 1793491200.0),
        ("1793491200.5", 1793491200.5),
    ],
)
def test_times_are_iso_in_utc_or_seconds(text: str, seconds: float) -> None:
    assert parse_where(f"started > {text}") == (Comparison("started", ">", seconds),)


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 1, r"found the end where a field must be; write a comparison such as status = 'failed'"),
        (
            "customer = 'acme'",
            1,
            r"unknown field 'customer'; the fields are error, .*an attribute is written attr.cust",
        ),
        ("attr. = 1", 1, r"unknown field 'attr.'; .* attr\.NAME"),
        ("status = 'gone'", 10, r"'gone' does not fit field 'status'; a status is one of pending, running"),
        ("status > 'failed'", 8, r"found > after field 'status'; its operators are =, !=, in, as in status = 'failed'"),
        ("finished = 'no'", 12, "write true or false"),
        ("priority = '5'", 12, "write a number without quotes"),
        ("priority = 99999999999999999999", 12, "numbers must fit 64 bits"),
        ("started > 'yesterday'", 11, r"write a time such as '2026-11-01'"),
        ("started > '2026-13-01'", 11, r"write a time such as '2026-11-01'"),
        ("waiting_for = 'godot'", 15, r"write signal, lock or child, alone or with a name: 'signal approval'"),
        ("workflow = 5", 12, "write a text in quotes"),
        ("workflow = billing", 12, r"found billing where a value must be; a text stands in quotes, as in workflow ="),
        ("workflow = 'billing", 12, "the text is not closed; end it with the same quote"),
        ("workflow = 'a' workflow = 'b'", 16, "found 'workflow' after a comparison; join comparisons with 'and'"),
        ("id = 'a' or id = 'b'", 10, r"'or' is not supported; use 'and'; for one of several values use 'in'"),
        ("id in 'a'", 7, r"write the values in parentheses: id in \('name', …\)"),
        ("id in ('a' 'b')", 12, r"separate values by ','"),
        ("id in ()", 8, "where a value must be"),
        ("id = 'a' and", 13, "found the end where a field must be"),
        ("id ~ 'a'", 4, r"unexpected '~'; put texts in quotes"),
    ],
)
def test_errors_say_where_what_and_how(text: str, position: int, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        parse_where(text)
    assert str(caught.value).startswith(f"where, position {position}: ")


def test_a_condition_has_bounds() -> None:
    most = " and ".join(["priority > 1"] * MOST_COMPARISONS)
    assert len(parse_where(most)) == MOST_COMPARISONS
    with pytest.raises(InvalidArgument, match=f"at most {MOST_COMPARISONS} are allowed"):
        parse_where(f"{most} and priority > 1")
    values = ", ".join(["1"] * MOST_VALUES)
    parse_where(f"priority in ({values})")
    with pytest.raises(InvalidArgument, match=f"at most {MOST_VALUES} are allowed"):
        parse_where(f"priority in ({values}, 1)")
