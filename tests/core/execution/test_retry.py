"""Whether there is another attempt, and when."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayflow.core.execution.retry import delay_before, next_delay
from rayflow.definition.options import RetryPolicy
from rayflow.errors import Failure

FAILURE = Failure("ValueError", "no", mro=("ValueError", "Exception"))

policies = st.builds(
    RetryPolicy,
    initial_delay=st.floats(0, 1e6),
    max_delay=st.floats(0, 1e6),
    multiplier=st.one_of(st.floats(1, 10), st.floats(1, 1e300)),
    jitter=st.floats(0, 1),
)


@given(policies, st.integers(1, 5000), st.integers())
def test_a_wait_is_between_nothing_and_max_delay_for_every_policy(policy: RetryPolicy, retry: int, seed: int) -> None:
    wait = delay_before(policy, retry, random.Random(seed))
    assert 0 <= wait <= policy.max_delay
    assert wait == delay_before(policy, retry, random.Random(seed))


@given(policies, st.integers(1, 5000))
def test_waits_do_not_shrink_without_jitter(policy: RetryPolicy, retry: int) -> None:
    steady = policy.replace(jitter=0)
    assert delay_before(steady, retry, random.Random(0)) <= delay_before(steady, retry + 1, random.Random(0))


@pytest.mark.parametrize(
    ("retry", "expected"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 16.0), (6, 32.0), (7, 60.0), (5000, 60.0)]
)
def test_the_default_doubles_from_a_second_to_a_minute(retry: int, expected: float) -> None:
    assert delay_before(RetryPolicy(jitter=0), retry, random.Random(0)) == expected


def test_nothing_stays_nothing_however_often_it_is_multiplied() -> None:
    policy = RetryPolicy(initial_delay=0, multiplier=1e10, jitter=0)
    assert [delay_before(policy, retry, random.Random(0)) for retry in (1, 2, 1000)] == [0.0, 0.0, 0.0]
    unbounded = RetryPolicy(initial_delay=1, multiplier=1e10, jitter=0, max_delay=math.inf)
    assert delay_before(unbounded, 1000, random.Random(0)) == math.inf


def test_jitter_goes_both_ways() -> None:
    policy = RetryPolicy(initial_delay=10, multiplier=1, jitter=0.1, max_delay=100)
    waits = [delay_before(policy, 1, random.Random(seed)) for seed in range(200)]
    assert 9 <= min(waits) < 9.5
    assert 10.5 < max(waits) <= 11


@pytest.mark.parametrize(("failures", "expected"), [(1, 1.0), (2, 2.0), (3, None)])
def test_retries_are_counted_without_the_first_try(failures: int, expected: float | None) -> None:
    assert next_delay(RetryPolicy(max_retries=2, jitter=0), FAILURE, failures, random.Random(0)) == expected


def test_what_is_not_retryable_is_not_retried() -> None:
    terminal = Failure("x", "no", retryable=False)
    assert next_delay(RetryPolicy(), terminal, 1, random.Random(0)) is None
