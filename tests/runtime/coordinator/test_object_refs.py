"""A coordinator's handles on large values: which it has, and which go first."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from rayflow.runtime.actors.base import ObjectRef
from rayflow.runtime.coordinator.worker_client import ObjectRefCache


def held(*digests: str, size: int = 10) -> dict[str, ObjectRef]:
    return {digest: ObjectRef(f"handle on {digest}", size) for digest in digests}


def test_what_was_told_is_answered() -> None:
    values = ObjectRefCache()
    values.add(["x"], held("a", "b"))
    assert values.of(["a", "c"]) == held("a")
    assert len(values) == 2
    assert values.bytes == 20


def test_a_newer_handle_takes_the_place_of_an_older_one() -> None:
    values = ObjectRefCache()
    values.add(["x"], held("a"))
    newer = {"a": ObjectRef("another", 10)}
    values.add(["y"], newer)
    assert values.of(["a"]) == newer
    assert values.bytes == 10


def test_who_was_used_longest_ago_goes_first() -> None:
    values = ObjectRefCache(max_bytes=30)
    values.add(["x"], held("a", "b", "c"))
    values.of(["a"])
    values.add(["x"], held("d"))
    assert set(values.of("abcd")) == {"a", "c", "d"}
    assert values.bytes == 30


def test_not_more_than_so_many() -> None:
    values = ObjectRefCache(max_refs=2)
    values.add(["x"], held("a", "b", "c", size=0))
    assert set(values.of("abc")) == {"b", "c"}


def test_one_that_is_larger_than_all_together_is_not_held() -> None:
    values = ObjectRefCache(max_bytes=30)
    values.add(["x"], held("a", size=31))
    assert len(values) == 0
    assert values.bytes == 0


def test_what_only_one_execution_used_goes_with_it() -> None:
    values = ObjectRefCache()
    values.add(["x", "y"], held("both"))
    values.add(["x"], held("mine"))
    values.forget("x")
    assert set(values.of(["both", "mine"])) == {"both"}
    values.forget("y")
    values.forget("never heard of")
    assert len(values) == 0
    assert values.bytes == 0


def test_what_nobody_drives_any_more_is_not_held() -> None:
    values = ObjectRefCache()
    values.add([], held("a"))
    assert len(values) == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40), st.sampled_from("xyz"), st.booleans())))
def test_the_bounds_hold_and_the_sum_is_right(steps: Sequence[tuple[str, int, str, bool]]) -> None:
    values = ObjectRefCache(max_bytes=100, max_refs=3)
    for digest, size, execution, forget in steps:
        if forget:
            values.forget(execution)
        else:
            values.add([execution], held(digest, size=size))
        there = values.of("abcdef")
        assert len(there) == len(values) <= 3
        assert sum(each.size for each in there.values()) == values.bytes <= 100
    for execution in "xyz":
        values.forget(execution)
    assert len(values) == 0
