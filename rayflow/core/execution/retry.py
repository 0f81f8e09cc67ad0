"""Retry decisions: whether a failed attempt is followed by another, and when."""

from __future__ import annotations

import math
import random

from rayflow.definition.options import RetryPolicy
from rayflow.errors import Failure

#: What a lost attempt's failure is called: its worker died, or was stopped before the attempt ended.
WORKER_DIED, WORKER_STOPPED = "rayflow.errors.WorkerDied", "rayflow.errors.WorkerStopped"


def is_suspicious(failure: Failure) -> bool:
    """Whether a lost attempt may have been its own task's doing."""
    return failure.type == WORKER_DIED


def delay_before(policy: RetryPolicy, retry: int, rng: random.Random) -> float:
    """Seconds to wait before a retry: exponential backoff with jitter, never above ``max_delay``.

    Args:
        policy: the retry policy.
        retry: which retry, from 1.
        rng: where the jitter comes from.

    Example:
        >>> delay_before(RetryPolicy(initial_delay=1, multiplier=2, jitter=0), 3, random.Random(0))
        4.0
    """
    try:
        grown = policy.initial_delay * policy.multiplier ** (retry - 1)
    except OverflowError:  # far beyond any max_delay; but nothing, however often multiplied, stays nothing
        grown = math.inf if policy.initial_delay else 0.0
    wait = min(grown, policy.max_delay)
    return max(0.0, min(wait * (1 + policy.jitter * rng.uniform(-1, 1)), policy.max_delay))


def next_delay(policy: RetryPolicy, failure: Failure, failures: int, rng: random.Random) -> float | None:
    """Seconds until the next attempt, or None if the step has failed for good.

    Args:
        policy: the retry policy.
        failure: how the newest attempt failed.
        failures: the step's own failed attempts so far, that one included.
        rng: where the jitter comes from.
    """
    if not failure.retryable or failures > policy.max_retries:
        return None
    if policy.give_up_on and failure.matches(*policy.give_up_on):
        return None
    if policy.retry_on and not failure.matches(*policy.retry_on):
        return None
    return delay_before(policy, failures, rng)


#: Attempts that may be lost to infrastructure (a worker that died while it ran others too, a lost node, a
#: takeover) before the step counts as failed. Such losses do not use up the step's own retries.
MAX_LOST = 50


#: Deaths of its worker in company after which a task is suspected of killing it, and next runs alone.
SUSPICIONS_BEFORE_ALONE = 2
