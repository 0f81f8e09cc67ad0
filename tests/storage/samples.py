"""Classes that payloads are made of; in a module of their own, so that they can be imported by name."""

from __future__ import annotations

import dataclasses
import enum
from functools import cached_property
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, PrivateAttr


class Colour(enum.Enum):
    RED = "red"
    BLUE = object()  # a value that is no plain data: kept by name


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class UserId(str):
    __slots__ = ()

    def __str__(self) -> str:
        return f"user {super().__str__()}"


class Metres(float):
    pass


class Point(NamedTuple):
    x: int
    y: Any


@dataclasses.dataclass
class Report:
    title: str
    pages: Any = 0
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    key: Any
    parts: tuple[int, ...] = ()


@dataclasses.dataclass
class Derived:
    """Its __post_init__ must not run again: it would double what it doubled before."""

    amount: int
    total: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.amount *= 2
        self.total = self.amount + 1
        self.note = "beside the fields"

    @cached_property
    def costly(self) -> int:
        return self.amount * 100


@dataclasses.dataclass
class OwnPickle:
    """It decides itself how it is pickled, so it is not taken apart."""

    value: int

    def __reduce__(self) -> tuple[Any, ...]:
        return (OwnPickle, (self.value + 1,))


class Model(BaseModel):
    name: str
    score: float = 0.0
    child: Model | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    known: int = 1
    _private: list[int] = PrivateAttr(default_factory=list)


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    approved: bool
    by: UserName | None = None


@dataclasses.dataclass
class UserName:
    name: str


Verdict.model_rebuild()


class Plain:
    """An ordinary class: only pickling can write it."""

    def __init__(self, client: object) -> None:
        self.client = client

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and self.client == other.client

    __hash__ = None  # type: ignore[assignment]
