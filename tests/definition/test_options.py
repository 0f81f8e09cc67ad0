from __future__ import annotations

import datetime as dt
import pickle
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.options import EngineConfig, ExecutionOptions, Options, PoolConfig, RetryPolicy, StepOptions


class Odd(Exception):
    pass


@pytest.mark.parametrize("cls", [EngineConfig, ExecutionOptions, PoolConfig, RetryPolicy, StepOptions])
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
        rf.DefinitionError, match=r"RetryPolicy.max_retries: Input should be greater than or equal to 0"
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
        (RetryPolicy, {"max_delay": dt.timedelta(hours=1)}, "max_delay: needs seconds as a number, .*; pass 3600"),
        (ExecutionOptions, {"timeout": True}, "ExecutionOptions.timeout: needs seconds as a number, not True"),
        (ExecutionOptions, {"step_timeout": 0}, "ExecutionOptions.step_timeout: Input should be greater than 0"),
        (ExecutionOptions, {"priority": 10}, r"ExecutionOptions.priority: .* \(given: 10\)"),
        (ExecutionOptions, {"checkpoints": "often"}, r"checkpoints: Input should be 'sync', 'async' or 'off'"),
        (PoolConfig, {"workers": 0}, r"PoolConfig.workers: Input should be greater than or equal to 1 \(given: 0\)"),
        (EngineConfig, {"ping_timeout": 1.0}, "EngineConfig: ping_timeout must be longer than ping_interval"),
        (EngineConfig, {"pool": {"worker": 1}}, "EngineConfig.pool: PoolConfig has no option 'worker'"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(cls: type[Options], values: dict[str, Any], message: str) -> None:
    with pytest.raises(rf.DefinitionError, match=message):
        cls(**values)


def test_two_wrong_options_are_both_named() -> None:
    with pytest.raises(rf.DefinitionError) as caught:
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
        "RAYFLOW_STANDBYS": "3",
        "RAYFLOW_STORE": "memory://",
        "RAYFLOW_POOL": '{"workers": 2}',
        "RAYFLOW_UNKNOWN": "1",
    }
    config = EngineConfig.load(environ=environ, standbys=5, namespace=None)
    assert (config.standbys, config.store, config.pool) == (5, "memory://", PoolConfig(workers=2))
    assert (config.namespace, config.ping_interval) == (None, 1.0)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RAYFLOW_STANDBYS": "many"}, r"EngineConfig.standbys: Input should be a valid integer.* \(given: 'many'\)"),
        ({"RAYFLOW_POOL": '{"workers": 0}'}, "^RAYFLOW_POOL: PoolConfig.workers: Input should be greater than"),
        ({"RAYFLOW_POOL": "four"}, "RAYFLOW_POOL: .*Invalid JSON"),
    ],
)
def test_a_wrong_environment_names_its_variable(environ: dict[str, str], message: str) -> None:
    with pytest.raises(rf.DefinitionError, match=message):
        EngineConfig.load(environ=environ)
