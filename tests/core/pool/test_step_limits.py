"""Which limits an attempt counts against, and what a cluster lacks for it."""

from __future__ import annotations

from typing import Any

import pytest

from rayflow.core.pool import Limit
from rayflow.core.pool.step_limits import START_JITTER, limits_of, missing_resources, resource_needs
from rayflow.definition.context import StepCall, Target
from rayflow.definition.options import PoolConfig, RateLimit, StepOptions
from rayflow.errors import InvalidArgument


def limits(options: StepOptions, *args: Any, pool: PoolConfig | None = None, **kwargs: Any) -> tuple[Limit, ...]:
    return limits_of(StepCall("mail", Target(None), args, kwargs, options=options), pool or PoolConfig())


def test_without_limits_there_are_none() -> None:
    assert limits(StepOptions()) == ()


def test_a_limit_without_a_key_is_the_steps_own() -> None:
    assert limits(StepOptions(concurrency_limit=3)) == (Limit("step mail", 3),)


def test_a_key_is_a_name_or_made_from_the_arguments() -> None:
    assert limits(StepOptions(concurrency_limit=3, concurrency_key="post")) == (Limit("key post", 3),)
    by_customer = StepOptions(concurrency_limit=1, concurrency_key=lambda text, *, to: to)
    assert limits(by_customer, "hello", to="ann") == (Limit("key ann", 1),)
    assert limits(by_customer, "hello", to=7) == (Limit("key 7", 1),)


def test_all_limits_count_the_pools_first() -> None:
    options = StepOptions(concurrency_limit=3, rate_limit=RateLimit(count=5, per=60))
    pool = PoolConfig(rate_limit=RateLimit(count=50))
    assert limits(options, pool=pool) == (
        Limit("rate", 50, 1.0 + START_JITTER),
        Limit("rate mail", 5, 60.0 + START_JITTER),
        Limit("step mail", 3),
    )


def test_a_key_that_is_none_is_an_error_and_what_it_raises_is_raised() -> None:
    with pytest.raises(InvalidArgument, match="concurrency_key of step 'mail' returned None"):
        limits(StepOptions(concurrency_limit=1, concurrency_key=lambda: None))
    with pytest.raises(KeyError):
        limits(StepOptions(concurrency_limit=1, concurrency_key=lambda who: who["name"]), {})


# --- resources ---------------------------------------------------------------------------------------------
NODES = [{"CPU": 2.0, "memory": 4e9, "object_store_memory": 1e9}, {"CPU": 8.0, "GPU": 1.0, "memory": 8e9, "disk": 1.0}]


def test_what_is_reserved_has_rays_names() -> None:
    options = StepOptions(num_cpus=0, num_gpus=0.5, memory=1000, resources={"disk": 1})
    assert resource_needs(options) == {"GPU": 0.5, "memory": 1000.0, "disk": 1.0}
    assert resource_needs(PoolConfig(num_cpus=2)) == {"CPU": 2.0}


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({}, ""),
        ({"CPU": 8.0, "GPU": 1.0}, ""),
        ({"CPU": 9.0}, "it needs 9 CPU, and no node has more than 8 CPU"),
        ({"TPU": 1.0, "CPU": 1.0}, "it needs 1 TPU, and no node has any"),
        ({"memory": 9e9}, "it needs 9 GB of memory, and no node has more than 8 GB of memory"),
    ],
)
def test_what_no_node_has_is_said(needs: dict[str, float], said: str) -> None:
    assert missing_resources(needs, NODES).startswith(said)
    assert bool(missing_resources(needs, NODES)) == bool(said)


def test_what_no_node_has_together_is_said() -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}]
    assert missing_resources({"CPU": 4.0, "GPU": 1.0}, nodes) == (
        "it needs 4 CPU, 1 GPU on one node, and no node has all of it; the nodes have 8 CPU | 1 CPU, 1 GPU"
    )


def test_of_many_nodes_some_are_told() -> None:
    assert missing_resources({"GPU": 1.0}, [{"CPU": 2.0}] * 7).endswith(
        "the nodes have " + " | ".join(["2 CPU"] * 5) + " and 2 more"
    )


def test_where_nobody_counts_everything_fits() -> None:
    assert missing_resources({"GPU": 100.0}, []) == ""
