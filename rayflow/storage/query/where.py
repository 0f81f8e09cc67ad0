"""Parser of the ``where`` language, in which people write comparisons.

A condition is one or more comparisons, joined by ``and``::

    status = 'failed' and attr.customer = 'acme' and started > '2026-11-01'
    workflow in ('billing', 'refund') and error contains 'timed out'
    waiting_for = 'signal approval' and attr.amount >= 1000

Fields are those of :data:`~rayflow.storage.query.comparisons.FIELDS` and ``attr.NAME``. A text stands in single or
double quotes; a quote within is written twice. Times are ISO 8601 (UTC where no offset is written) or seconds since the
epoch. Keywords (``and``, ``in``, ``contains``, ``true``, ``false``) may be written in capitals.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from typing import NoReturn

from rayflow.errors import InvalidArgument
from rayflow.ids import ExecutionStatus
from rayflow.storage.model import Attribute
from rayflow.storage.query.comparisons import ATTRIBUTE, FIELDS, OPERATORS, Comparison, Operator

#: Comparisons of one condition, and values of one ``in``.
MOST_COMPARISONS, MOST_VALUES = 20, 100

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<word>[A-Za-z_][\w.-]*)
      | (?P<sign><=|>=|!=|<>|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE | re.ASCII,
)

_EXAMPLES = {
    "text": "{field} = 'name'",
    "search": "{field} contains 'part'",
    "status": "{field} = 'failed'",
    "flag": "{field} = false",
    "number": "{field} >= 5",
    "time": "{field} > '2026-11-01'",
    "waiting": "{field} = 'signal approval'",
    "attribute": "{field} = 'value'",
}
_SPELLED = {"<>": "!=", "==": "="}
_WAITING = ("signal", "lock", "child")


def parse_where(text: str) -> tuple[Comparison, ...]:
    """Return the comparisons of a condition.

    Raises:
        InvalidArgument: the text is not a condition; the message has the position, the allowed forms and an example.

    Example:
        >>> parse_where("attr.customer = 'acme' and priority > 5")[1]
        Comparison(field='priority', operator='>', value=5)
    """
    return _Parser(text).condition()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    def is_word(self, word: str) -> bool:
        return self.kind == "word" and self.text.lower() == word


class _Parser:
    """One pass over a condition, token by token."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._next = 0

    def _split(self) -> list[_Token]:
        tokens, at, end = [], 0, len(self._text.rstrip())
        while at < end:
            match = _TOKEN.match(self._text, at)
            if match is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                if self._text[at] in "'\"":
                    self._fail(at, "the text is not closed", "end it with the same quote")
                self._fail(at, f"unexpected {self._text[at]!r}", "put texts in quotes: attr.customer = 'acme'")
            kind = match.lastgroup or ""
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            at = match.end()
        return [*tokens, _Token("end", "the end", end)]

    def _fail(self, at: int, what: str, remedy: str) -> NoReturn:
        pointer = f"{self._text[:at]}⟨here⟩{self._text[at:]}"
        raise InvalidArgument(f"where, position {at + 1}: {what}; {remedy}. In: {pointer}")

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def condition(self) -> tuple[Comparison, ...]:
        """Return all comparisons of the text."""
        found = [self._comparison()]
        while (token := self._take()).kind != "end":
            if token.is_word("or") or token.is_word("not"):
                self._fail(
                    token.at, f"{token.text!r} is not supported", "use 'and'; for one of several values use 'in'"
                )
            if not token.is_word("and"):
                self._fail(token.at, f"found {token.text!r} after a comparison", "join comparisons with 'and'")
            if len(found) == MOST_COMPARISONS:
                self._fail(token.at, "too many comparisons", f"at most {MOST_COMPARISONS} are allowed")
            found.append(self._comparison())
        return tuple(found)

    def _comparison(self) -> Comparison:
        field = self._field()
        kind = _kind_of(field.text)
        sign = self._operator(field.text, kind)
        token = self._take()
        if sign == "in":
            return Comparison(field.text, sign, self._values(token, field.text, kind))
        return Comparison(field.text, sign, self._value(token, field.text, kind))

    def _field(self) -> _Token:
        token = self._take()
        if token.kind != "word":
            example = "such as status = 'failed'"
            self._fail(token.at, f"found {token.text} where a field must be", f"write a comparison {example}")
        name = token.text.removeprefix(ATTRIBUTE)
        if token.text not in FIELDS and (name == token.text or not name):
            hint = f"attr.{token.text}" if token.text != ATTRIBUTE else "attr.NAME"
            self._fail(
                token.at,
                f"unknown field {token.text!r}",
                f"the fields are {', '.join(sorted(FIELDS))} and attr.NAME; an attribute is written {hint}",
            )
        return token

    def _operator(self, field: str, kind: str) -> Operator:
        token = self._take()
        sign = token.text.lower() if token.kind in ("word", "sign") else ""
        sign = _SPELLED.get(sign, sign)
        for allowed in OPERATORS[kind]:
            if sign == allowed:
                return allowed
        return self._fail(
            token.at,
            f"found {token.text} after field {field!r}",
            f"its operators are {', '.join(OPERATORS[kind])}, as in {_example(field, kind)}",
        )

    def _values(self, token: _Token, field: str, kind: str) -> tuple[Attribute, ...]:
        example = f"{field} in ({_example(field, kind).rpartition(' ')[2]}, …)"
        if token.text != "(":
            self._fail(token.at, f"found {token.text} after 'in'", f"write the values in parentheses: {example}")
        values = [self._value(self._take(), field, kind)]
        while (token := self._take()).text == "," and token.kind == "sign":
            if len(values) == MOST_VALUES:
                self._fail(token.at, "too many values", f"at most {MOST_VALUES} are allowed")
            values.append(self._value(self._take(), field, kind))
        if token.text != ")":
            self._fail(token.at, f"found {token.text} among the values", f"separate values by ',': {example}")
        return tuple(values)

    def _value(self, token: _Token, field: str, kind: str) -> Attribute:
        value = self._literal(token, field, kind)
        problem = _problem(value, kind)
        if problem:
            self._fail(token.at, f"{token.text} does not fit field {field!r}", problem)
        return _seconds(value) if kind == "time" else value

    def _literal(self, token: _Token, field: str, kind: str) -> Attribute:
        if token.kind == "text":
            quote = token.text[0]
            return token.text[1:-1].replace(quote * 2, quote)
        if token.kind == "number":
            return _number(token.text)
        if token.is_word("true") or token.is_word("false"):
            return token.text.lower() == "true"
        what = f"found {token.text} where a value must be"
        return self._fail(token.at, what, f"a text stands in quotes, as in {_example(field, kind)}")


def _kind_of(field: str) -> str:
    return FIELDS[field].kind if field in FIELDS else "attribute"


def _example(field: str, kind: str) -> str:
    return _EXAMPLES[kind].format(field=field)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _problem(value: Attribute, kind: str) -> str:
    """Return the rule that a value breaks; "" for a valid value."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and not (-(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)):  # type: ignore[arg-type]
        return "numbers must fit 64 bits"
    match kind:
        case "attribute":
            return ""
        case "flag":
            return "" if isinstance(value, bool) else "write true or false"
        case "number":
            return "" if is_number else "write a number without quotes"
        case "time":
            return "" if is_number or _is_time(value) else "write a time such as '2026-11-01' or '2026-11-01T08:30:00Z'"
        case "status":
            known = [str(status) for status in ExecutionStatus]
            return "" if value in known and isinstance(value, str) else f"a status is one of {', '.join(known)}"
        case "waiting":
            said = isinstance(value, str) and value.partition(" ")[0] in _WAITING
            return "" if said else "write signal, lock or child, alone or with a name: 'signal approval'"
    return "" if isinstance(value, str) else "write a text in quotes"


def _is_time(value: Attribute) -> bool:
    return isinstance(value, str) and not math.isnan(_seconds(value))


def _seconds(value: Attribute) -> float:
    """Return a moment in seconds since the epoch; NaN if the text is not one."""
    if not isinstance(value, str):
        return float(value)
    try:
        found = dt.datetime.fromisoformat(value)
        return (found if found.utcoffset() is not None else found.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan
