from __future__ import annotations

import datetime as dt
import pickle
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.options import (
    EngineConfig,
    ExecutionOptions,
    Options,
    PoolConfig,
    RateLimit,
    Retention,
    RetryPolicy,
    StepOptions,
)


class Odd(Exception):
    pass


@pytest.mark.parametrize("cls", [EngineConfig, ExecutionOptions, PoolConfig, Retention, RetryPolicy, StepOptions])
def test_all_defaults_fit_and_survive_pickling(cls: type[Options]) -> None:
    made = cls()
    arrived = pickle.loads(pickle.dumps(made))
    assert arrived == made
    assert arrived.replace() == made


def test_replace_keeps_what_was_said_and_checks_again() -> None:
    policy = RetryPolicy(max_retries=7).replace(initial_delay=0.5)
    assert policy == RetryPolicy(max_retries=7, initial_delay=0.5)
    assert policy.model_fields_set == {"max_retries", "initial_delay"}
    with pytest.raises(
        rf.InvalidArgument, match=r"RetryPolicy.max_retries: Input should be greater than or equal to 0"
    ):
        policy.replace(max_retries=-1)


def test_exceptions_are_named() -> None:
    policy = RetryPolicy(retry_on=(Odd, "library.Error"), give_up_on=KeyError)
    assert policy.retry_on == (f"{__name__}.Odd", "library.Error")
    assert policy.give_up_on == ("KeyError",)


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (RetryPolicy, {"retry_on": 3}, "RetryPolicy.retry_on: needs exception classes or their dotted names, not 3"),
        (RetryPolicy, {"retry_on": [""]}, "needs exception classes or their dotted names, not ''"),
        (RetryPolicy, {"give_up_on": int}, "needs exception classes or their dotted names, not <class 'int'>"),
        (RetryPolicy, {"tries": 3}, "RetryPolicy has no option 'tries'; it has: give_up_on, initial_delay, jitter, "),
        (ExecutionOptions, {"timeout": True}, "ExecutionOptions.timeout: needs seconds as a number, not True"),
        (ExecutionOptions, {"step_timeout": 0}, "ExecutionOptions.step_timeout: Input should be greater than 0"),
        (ExecutionOptions, {"priority": 10}, r"ExecutionOptions.priority: .* \(given: 10\)"),
        (ExecutionOptions, {"checkpoints": "often"}, r"checkpoints: Input should be 'sync', 'async' or 'off'"),
        (PoolConfig, {"workers": -1}, r"PoolConfig.workers: Input should be greater than or equal to 0 \(given: -1\)"),
        (PoolConfig, {"name": "a:b"}, r"PoolConfig.name: needs 1 to 63 letters, digits"),
        (PoolConfig, {"min_workers": 3, "max_workers": 2}, r"max_workers \(2\) must be at least min_workers \(3\)"),
        (StepOptions, {"concurrency_key": "x"}, "concurrency_key needs a concurrency_limit"),
        (StepOptions, {"local": True, "num_gpus": 1}, "a local step runs in the coordinator and cannot reserve"),
        (RateLimit, {"count": 0}, "RateLimit.count: Input should be greater than or equal to 1"),
        (EngineConfig, {"ping_timeout": 1.0}, "EngineConfig: ping_timeout must be longer than ping_interval"),
        (EngineConfig, {"pool": {"worker": 1}}, "EngineConfig.pool: PoolConfig has no option 'worker'"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(cls: type[Options], values: dict[str, Any], message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=message):
        cls(**values)


def test_two_wrong_options_are_both_named() -> None:
    with pytest.raises(rf.InvalidArgument) as caught:
        RetryPolicy(max_retries=-1, jitter=2)
    assert [part.partition(":")[0] for part in str(caught.value).split("; ")] == [
        "RetryPolicy.max_retries",
        "RetryPolicy.jitter",
    ]


@pytest.mark.parametrize(("given", "meant"), [(True, "sync"), (False, "off"), ("async", "async")])
def test_checkpoints_may_be_a_switch(given: Any, meant: str) -> None:
    assert ExecutionOptions(checkpoints=given).checkpoints == meant


# --- the configuration of an engine -------------------------------------------------------------------------
def test_keywords_go_before_the_environment_and_that_before_the_defaults() -> None:
    environ = {
        "RAYFLOW_STANDBY_COORDINATORS": "3",
        "RAYFLOW_STORE": "memory://",
        "RAYFLOW_POOL": '{"workers": 2}',
        "RAYFLOW_UNKNOWN": "1",
    }
    config = EngineConfig.load(environ=environ, standby_coordinators=5, namespace=None)
    assert (config.standby_coordinators, config.store, config.pool) == (5, "memory://", PoolConfig(workers=2))
    assert (config.namespace, config.ping_interval) == (None, 1.0)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"RAYFLOW_STANDBY_COORDINATORS": "many"},
            r"EngineConfig.standby_coordinators: Input should be a valid integer.* \(given: 'many'\)",
        ),
        ({"RAYFLOW_POOL": '{"workers": -1}'}, "^RAYFLOW_POOL: PoolConfig.workers: Input should be greater than"),
        ({"RAYFLOW_POOL": "four"}, "RAYFLOW_POOL: .*Invalid JSON"),
    ],
)
def test_a_wrong_environment_names_its_variable(environ: dict[str, str], message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=message):
        EngineConfig.load(environ=environ)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (4, 4)),
        ({"workers": 0}, (0, 0)),
        ({"min_workers": 0}, (0, 4)),
        ({"min_workers": 6}, (6, 6)),
        ({"max_workers": 8}, (0, 8)),
        ({"workers": 2, "min_workers": 1, "max_workers": 8}, (1, 8)),
    ],
)
def test_the_bounds_of_a_pool(given: dict[str, Any], expected: tuple[int, int]) -> None:
    assert PoolConfig(**given).bounds == expected


@pytest.mark.parametrize(
    ("given", "own"),
    [({}, False), ({"timeout": 3}, False), ({"num_cpus": 0}, True), ({"resources": {"disk": 1}}, True)],
)
def test_what_reserves_something_is_a_task_of_its_own(given: dict[str, Any], *, own: bool) -> None:
    assert StepOptions(**given).own_task is own


def test_a_timedelta_stands_for_its_seconds() -> None:
    assert RetryPolicy(max_delay=dt.timedelta(hours=1)).max_delay == 3600
    assert StepOptions(timeout=dt.timedelta(milliseconds=1500)).timeout == 1.5
    assert rf.Schedule(every=dt.timedelta(minutes=1)).every == 60


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ([("a", 1)], "needs a mapping of names to values"),
        ({str(number): 1 for number in range(33)}, "has 33 attributes; at most 32 are allowed"),
        ({"1st": 1}, "attribute name '1st' is not allowed; a name has 1 to 64 letters"),
        ({"a b": 1}, "attribute name 'a b' is not allowed"),
        ({"a": None}, "attribute 'a' is a NoneType; a value must be a str, int, float or bool"),
        ({"a": float("nan")}, "attribute 'a' is nan; a float must be finite"),
        ({"a": 2**63}, "an int must fit 64 bits"),
        ({"a": "x" * 257}, "attribute 'a' has 257 characters; at most 256 are allowed"),
        ({"a": "\ud800"}, "is not valid Unicode"),
    ],
)
def test_wrong_attributes_are_refused(attributes: Any, message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=message):
        rf.ExecutionOptions(attributes=attributes)


def test_attributes_keep_their_types_as_json() -> None:
    given = {"text": "é", "int": -(2**63), "float": 1.0, "yes": True, "dotted.name-1": 0}
    options = rf.ExecutionOptions(attributes=given)
    again = rf.ExecutionOptions.model_validate_json(options.model_dump_json())
    for found in (options.attributes, again.attributes):
        assert [(name, type(value), value) for name, value in found.items()] == [
            (name, type(value), value) for name, value in given.items()
        ]
