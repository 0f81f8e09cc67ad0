"""Errors survive pickling with all fields, and the tree drawn in errors.py is the real one."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import cloudpickle
import pytest

import rayflow
from rayflow import errors
from rayflow.errors import Failure, RayflowError
from tests.architecture.tree import PURE, floor_of

#: A value for a constructor's argument, by its annotation.
SAMPLES: dict[Any, Any] = {
    str: "text",
    int: 7,
    float: 1.5,
    bool: True,
    tuple[str, ...]: ("one", "two"),
    tuple[tuple[str, str], ...]: (("one", "lock"), ("two", "")),
    Failure: Failure("ValueError", "no", traceback="Traceback …", retryable=False, mro=("ValueError",), step=3),
}


def all_errors() -> list[type[RayflowError]]:
    """Return RayflowError and its subclasses in errors.py."""
    found: list[type[RayflowError]] = [RayflowError, *_subclasses(RayflowError)]
    return [cls for cls in found if cls.__module__ == errors.__name__]


def _subclasses(cls: type[RayflowError]) -> Iterator[type[RayflowError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def example(cls: type[RayflowError]) -> RayflowError:
    """Return an error with a value for each argument of its constructor."""
    if not inspect.isfunction(cls.__init__):  # a built-in class's, which takes anything
        return cls("what is wrong, where, and what would be right")
    hints = get_type_hints(cls.__init__)
    given, named = [], {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        assert hints[name] in SAMPLES, f"{cls.__name__}({name}: {hints[name]}): add a value for it to SAMPLES"
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = SAMPLES[hints[name]]
        else:
            given.append(SAMPLES[hints[name]])
    return cls(*given, **named)


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle 2": lambda error: pickle.loads(pickle.dumps(error, protocol=2)),
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "cloudpickle": lambda error: pickle.loads(cloudpickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def losses(error: BaseException) -> list[str]:
    """Return the fields that an error loses on its way to another process, for each way."""
    found = []
    for way, send in WAYS.items():
        try:
            arrived = send(error)
        except Exception as problem:  # noqa: BLE001 - whatever it raises is the finding
            found.append(f"{way}: {problem!r}")
            continue
        for what in (type, str, vars, lambda sent: sent.args):
            before, after = what(error), what(arrived)
            if before != after:
                found.append(f"{way}: {before!r} became {after!r}")
    return found


#: One line of the drawing: branches, name, bases outside the tree, what it means.
_LINE = re.compile(
    r"    (?P<branches>(?:[│ ]   )*(?:[├└]── )?)(?P<name>[A-Z]\w+)(?: \((?P<others>[\w, ]+)\))?(?:  .*)?"
)


def drawn(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the tree in a docstring: class name → (name of its parent, names of its other bases)."""
    tree: dict[str, tuple[str, tuple[str, ...]]] = {}
    path: list[str] = []
    for line in text.splitlines():
        if (match := _LINE.fullmatch(line)) is not None:
            depth = len(match["branches"]) // 4
            assert depth <= len(path), f"no parent is drawn for {match['name']}"
            path[depth:] = [match["name"]]
            others = tuple(match["others"].split(", ")) if match["others"] else ()
            assert match["name"] not in tree, f"{match['name']} is drawn twice"
            tree[match["name"]] = (path[depth - 1] if depth else "Exception", others)
    return tree


def real(classes: list[type[RayflowError]]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the same of the classes themselves."""
    tree = {}
    for cls in classes:
        first, *others = (base.__name__ for base in cls.__bases__)
        tree[cls.__name__] = (first, tuple(others))
    return tree


@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.__name__)
def test_an_error_arrives_whole(cls: type[RayflowError]) -> None:
    error = example(cls)
    error.add_note("and a note")
    found = losses(error)
    assert not found, "\n".join(found)
    assert str(error)


def test_the_drawn_tree_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    assert drawn(errors.__doc__) == real(all_errors())


def test_all_errors_of_the_pure_floors_are_defined_in_one_file() -> None:
    for found in pkgutil.walk_packages(rayflow.__path__, "rayflow."):
        if floor_of(found.name) <= PURE:
            importlib.import_module(found.name)
    ours = [cls for cls in _subclasses(RayflowError) if cls.__module__.startswith("rayflow.")]
    strays = [cls for cls in ours if floor_of(cls.__module__) <= PURE]
    assert [f"{cls.__module__}.{cls.__name__}" for cls in strays if cls.__module__ != errors.__name__] == []


# --- the checks themselves ----------------------------------------------------------------------------------
class Forgetful(RayflowError):
    """Rebuilds itself from its message alone, as exceptions do by default."""

    def __init__(self, message: str, *, field: int = 0) -> None:
        self.field = field
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), self.args)


class Fragile(Exception):
    """What a plain exception with a required keyword does."""

    def __init__(self, *, field: int) -> None:
        super().__init__(f"field {field}")
        self.field = field


def test_a_lost_field_is_seen() -> None:
    found = losses(Forgetful("message", field=1))
    assert len(found) == len(WAYS)
    assert found[0] == "pickle 2: {'field': 1} became {'field': 0}"


def test_an_error_that_does_not_arrive_is_seen() -> None:
    found = losses(Fragile(field=1))
    assert len(found) == len(WAYS)
    assert all("TypeError" in loss for loss in found)


def test_a_drawing_is_read_with_parents_and_other_bases() -> None:
    text = """Title.

    Root
    ├── First (ValueError, OSError)   words (in parentheses) after it
    │   └── Inner
    └── Second                        words

A sentence.
    """
    assert drawn(text) == {
        "Root": ("Exception", ()),
        "First": ("Root", ("ValueError", "OSError")),
        "Inner": ("First", ()),
        "Second": ("Root", ()),
    }
