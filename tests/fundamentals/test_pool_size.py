"""A pool has as many workers as it was given, and each runs so much at once."""

from __future__ import annotations

import pytest

import rayflow as rf
from tests.fundamentals.tools import eventually


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pool_has_as_many_workers_as_it_was_given(workers: int) -> None:
    with rf.LocalEngine(pool=rf.PoolConfig(workers=workers)) as engine:
        eventually(lambda: engine.metrics().active_workers == workers, "all workers are up")


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"concurrency": 0}, {"stop_grace": -1}])
def test_a_size_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(rf.InvalidArgument, match=next(iter(wrong))):
        rf.PoolConfig(**wrong)


def test_the_defaults_are_positive() -> None:
    pool, config = rf.PoolConfig(), rf.EngineConfig()
    assert (pool.workers, pool.concurrency) == (4, 4)
    assert min(pool.num_cpus, pool.stop_grace, config.ping_interval, config.environment_idle_timeout) > 0
    assert min(config.executions_per_coordinator, config.standby_coordinators) >= 1
