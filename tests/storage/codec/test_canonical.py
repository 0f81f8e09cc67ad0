"""The canonical encoding: equal values, equal bytes, whatever their order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayflow.storage.codec.payloads import canonical
from tests.storage.samples import Colour, Frozen, Model, Plain, Report

KEYS = st.one_of(st.text(max_size=3), st.integers(), st.tuples(st.integers(), st.text(max_size=2)))


def shuffled(value: Any) -> Any:
    """The same value with its maps and sets made in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return [shuffled(member) for member in value]
    if isinstance(value, set):
        made = set()
        for member in reversed(list(value)):
            made.add(member)
        return made
    return value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sets(KEYS, max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
        max_leaves=10,
    )
)
def test_the_order_of_maps_and_sets_does_not_matter(value: Any) -> None:
    assert canonical(value) == canonical(shuffled(value)) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [([1], (1,)), (1, True), (1, 1.0), (0.0, -0.0), ("a", b"a"), ({1}, frozenset({1})), ({"a": 1}, [("a", 1)])],
)
def test_different_values_differ(one: Any, other: Any) -> None:
    assert canonical(one) != canonical(other)


def test_objects_have_a_canonical_form() -> None:
    value = {"r": Report("t", {"b": 1, "a": 2}), "f": {Frozen(1), Frozen(2)}, "m": Model(name="n"), "c": Colour.RED}
    assert canonical(value) == canonical({key: value[key] for key in reversed(value)}) is not None
    assert canonical(Report("t")) != canonical(Report("u"))
    assert canonical(2**70) != canonical(2**71)


@pytest.mark.parametrize("value", [Plain(1), [lambda: 1], {"a": (1, object())}])
def test_what_only_cloudpickle_can_write_has_none(value: Any) -> None:
    assert canonical(value) is None


def test_what_contains_itself_has_none() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert canonical(loop) is None


def test_it_is_the_same_in_a_process_with_another_hash_seed() -> None:
    program = (
        "from rayflow.storage.codec.payloads import canonical; print(canonical({'s': set('abcdef'), 'd': 1}).hex())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
