"""The same work by raw Ray calls, for comparison. No durability, no retries, no queue."""

from __future__ import annotations

import time
from typing import Any

import ray


class _Nothing:
    def call(self, number: int) -> int:
        return number


class RawRay:
    """Plain actors on the cluster that the engine joined.

    Args:
        workers: how many actors.
    """

    def __init__(self, workers: int) -> None:
        cls: Any = ray.remote(_Nothing)
        self._actors = [cls.options(num_cpus=0.01).remote() for _ in range(workers)]
        ray.get([actor.call.remote(0) for actor in self._actors])

    def round_trip(self, times: int) -> float:
        """Seconds of one call and its answer, the mean over a chain of them."""
        actor = self._actors[0]
        began = time.perf_counter()
        for number in range(times):
            ray.get(actor.call.remote(number))
        return (time.perf_counter() - began) / times

    def fan_out(self, width: int) -> float:
        """Calls per second, each on its own, spread over the actors."""
        began = time.perf_counter()
        ray.get([self._actors[number % len(self._actors)].call.remote(number) for number in range(width)])
        return width / (time.perf_counter() - began)

    def close(self) -> None:
        """Stop the actors."""
        for actor in self._actors:
            ray.kill(actor)
