"""Retry decisions: whether another attempt follows a failed one, and when."""

from __future__ import annotations

import math
import random

from rayflow.definition.options import RetryPolicy
from rayflow.errors import Failure

#: Failure types of lost attempts: the worker died, or was stopped before the attempt ended.
WORKER_DIED, WORKER_STOPPED = "rayflow.errors.WorkerDied", "rayflow.errors.WorkerStopped"

#: Attempts that a step may lose to infrastructure (a worker that died while it ran other tasks too, a lost node, a
#: takeover) before it fails. Lost attempts do not use up the step's own retries.
MAX_LOST_ATTEMPTS = 50

#: Shared deaths of its worker after which a step is suspected of killing workers, and runs alone on one.
SUSPICIONS_BEFORE_ISOLATION = 2


def is_suspicious(failure: Failure) -> bool:
    """Return whether the step itself may have caused the loss of its attempt."""
    return failure.type == WORKER_DIED


def delay_before(policy: RetryPolicy, retry: int, rng: random.Random) -> float:
    """Return the seconds to wait before a retry: exponential backoff with jitter, at most ``max_delay``.

    Args:
        policy: the retry policy.
        retry: number of the retry, from 1.
        rng: source of the jitter.

    Example:
        >>> delay_before(RetryPolicy(initial_delay=1, multiplier=2, jitter=0), 3, random.Random(0))
        4.0
    """
    try:
        grown = policy.initial_delay * policy.multiplier ** (retry - 1)
    except OverflowError:  # far beyond any max_delay, unless the delay to multiply is 0
        grown = math.inf if policy.initial_delay else 0.0
    wait = min(grown, policy.max_delay)
    return max(0.0, min(wait * (1 + policy.jitter * rng.uniform(-1, 1)), policy.max_delay))


def next_delay(policy: RetryPolicy, failure: Failure, failures: int, rng: random.Random) -> float | None:
    """Return the seconds until the next attempt, or None if the step has failed permanently.

    Args:
        policy: the retry policy.
        failure: failure of the newest attempt.
        failures: number of the step's own failed attempts, including the newest.
        rng: source of the jitter.
    """
    if not failure.retryable or failures > policy.max_retries:
        return None
    if policy.give_up_on and failure.matches(*policy.give_up_on):
        return None
    if policy.retry_on and not failure.matches(*policy.retry_on):
        return None
    return delay_before(policy, failures, rng)
