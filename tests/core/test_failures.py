"""Exceptions as data, and the step that caused them."""

from __future__ import annotations

import asyncio

import pytest

from rayflow.core.interpreter.machine import failure_of
from rayflow.errors import StepFailed as StepFailedError
from rayflow.errors import TerminalError
from tests.core.fake import Shell, failure, stub

one = stub("one")
two = stub("two")


def step_failure(seq: int) -> StepFailedError:
    return StepFailedError("one", failure(), attempts=1, seq=seq)


def test_a_failure_is_data() -> None:
    def fail() -> None:
        raise TerminalError("no use")

    with pytest.raises(TerminalError) as caught:
        fail()
    made = failure_of(caught.value)
    assert (made.type, made.message, made.retryable, made.step) == (
        "rayflow.errors.TerminalError",
        "no use",
        False,
        None,
    )
    assert made.mro[:2] == ("rayflow.errors.TerminalError", "rayflow.errors.RayflowError")
    assert "raise TerminalError" in made.traceback


def test_a_failure_names_the_step_that_caused_it() -> None:
    assert failure_of(step_failure(3)).step == 3
    caused = ValueError("own")
    caused.__cause__ = step_failure(4)
    assert failure_of(caused).step == 4
    handling = ValueError("own")
    handling.__context__ = caused
    assert failure_of(handling).step == 4
    group = ExceptionGroup("several", [KeyError("x"), ExceptionGroup("inner", [step_failure(5), step_failure(2)])])
    assert failure_of(group).step == 5
    assert failure_of(group, {2: 0, 5: 1}).step == 2
    around = ExceptionGroup("others", [KeyError("x")])
    around.__context__ = step_failure(6)
    assert failure_of(around).step == 6
    assert failure_of(ValueError("own")).step is None


def test_a_ring_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert failure_of(first).step is None


def test_of_several_failed_steps_the_first_to_fail_is_named() -> None:
    async def flow() -> None:
        answers = await asyncio.gather(one(1), two(2), return_exceptions=True)
        raise ExceptionGroup("all of them", [answer for answer in answers if isinstance(answer, Exception)])

    shell = Shell(flow).begin().fail("two").fail("one")
    assert shell.failure.step == 2
