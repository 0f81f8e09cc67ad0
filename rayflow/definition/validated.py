"""What all option classes are made of: frozen, validated when they are made, and clear about what is wrong."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from rayflow.errors import DefinitionError


def _seconds(value: object) -> object:
    if isinstance(value, dt.timedelta):
        raise ValueError(f"needs seconds as a number, not a timedelta; pass {value.total_seconds():g}")  # noqa: TRY004 - pydantic takes only this
    if isinstance(value, bool):
        raise ValueError(f"needs seconds as a number, not {value}")  # noqa: TRY004 - as above
    return value


Seconds = Annotated[float, BeforeValidator(_seconds)]


class Options(BaseModel):
    """Base of all option classes: frozen, and an unknown or wrong option is a DefinitionError that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise DefinitionError(explain(type(self), error)) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with some options changed, validated again."""
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields_set}, **changes})


def explain(cls: type[BaseModel], error: ValidationError) -> str:
    """What is wrong with options, for people: each with its name and, where it helps, what was given."""
    lines = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            known = ", ".join(sorted(cls.model_fields))
            lines.append(f"{cls.__name__} has no option {where!r}; it has: {known}")
        else:
            said = detail["msg"].removeprefix("Value error, ")
            given = "" if detail["type"] == "value_error" else f" (given: {detail['input']!r})"
            # Made from JSON, a model's own __init__ has said it all already.
            told = not where and isinstance(detail.get("ctx", {}).get("error"), DefinitionError)
            place = "" if told else f"{cls.__name__}{'.' + where if where else ''}: "
            lines.append(f"{place}{said}{given}")
    return "; ".join(lines)
