from __future__ import annotations

import functools

import pytest

from rayflow.definition.checks import check_name, return_annotation
from rayflow.errors import DefinitionError


def test_a_name_may_be_anything_that_a_person_can_read() -> None:
    assert check_name("step name", "größe prüfen (2)") == "größe prüfen (2)"


def test_a_forbidden_character_is_named() -> None:
    with pytest.raises(DefinitionError, match="step name 'a/b' must not contain '/'"):
        check_name("step name", "a/b", forbidden="/")


def test_the_annotation_of_a_partial_is_that_of_its_function() -> None:
    def double(n: int) -> int:
        return n * 2

    assert return_annotation(functools.partial(double, 1)) is int


def test_an_empty_cell_is_no_obstacle() -> None:
    def write() -> list[Later]:
        return [Later()]

    assert return_annotation(write) is None

    class Later:
        pass

    assert return_annotation(write) == list[Later]


def test_what_has_no_annotations_has_no_result_annotation() -> None:
    assert return_annotation(len) is None


def test_annotations_that_are_no_dict_are_none() -> None:
    class Strange:
        def __call__(self) -> int:
            return 1

    strange = Strange()
    vars(strange)["__annotations__"] = 3
    assert return_annotation(strange) is None
