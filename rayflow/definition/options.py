"""Options that a person sets: frozen, validated when they are made, and the same everywhere.

Every duration is in seconds.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from rayflow.errors import DefinitionError, class_name

Checkpoints = Literal["sync", "async", "off"]


def _seconds(value: object) -> object:
    if isinstance(value, dt.timedelta):
        raise ValueError(f"needs seconds as a number, not a timedelta; pass {value.total_seconds():g}")  # noqa: TRY004 - pydantic takes only this
    if isinstance(value, bool):
        raise ValueError(f"needs seconds as a number, not {value}")  # noqa: TRY004 - as above
    return value


Seconds = Annotated[float, BeforeValidator(_seconds)]


class Options(BaseModel):
    """Base of all option classes: frozen, and an unknown or wrong option is a DefinitionError that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise DefinitionError(_explain(type(self), error)) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with some options changed, validated again."""
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields_set}, **changes})


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            known = ", ".join(sorted(cls.model_fields))
            lines.append(f"{cls.__name__} has no option {where!r}; it has: {known}")
        else:
            said = detail["msg"].removeprefix("Value error, ")
            given = "" if detail["type"] == "value_error" else f" (given: {detail['input']!r})"
            # Made from JSON, a model's own __init__ has said it all already.
            told = not where and isinstance(detail.get("ctx", {}).get("error"), DefinitionError)
            place = "" if told else f"{cls.__name__}{'.' + where if where else ''}: "
            lines.append(f"{place}{said}{given}")
    return "; ".join(lines)


class RetryPolicy(Options):
    """When a step that failed is tried again.

    The wait before retry *n* (from 1) is ``initial_delay × multiplier**(n-1)``, at most ``max_delay``, and then
    moved by up to ``jitter`` of itself either way.

    Args:
        max_retries: tries after the first one; 0 for none.
        initial_delay: seconds before the first retry.
        max_delay: seconds, the most that a wait grows to.
        multiplier: growth from one wait to the next, at least 1.
        jitter: 0 to 1, the share of the wait that is random.
        retry_on: exception classes (or their dotted names) that are retried; empty for all.
        give_up_on: exception classes (or names) that are never retried; checked first.

    Example:
        >>> RetryPolicy(max_retries=5, initial_delay=0.5, give_up_on=(ValueError,)).give_up_on
        ('ValueError',)
    """

    max_retries: int = Field(3, ge=0)
    initial_delay: Seconds = Field(1.0, ge=0)
    max_delay: Seconds = Field(60.0, ge=0)
    multiplier: float = Field(2.0, ge=1)
    jitter: float = Field(0.1, ge=0, le=1)
    retry_on: tuple[str, ...] = ()
    give_up_on: tuple[str, ...] = ()

    @field_validator("retry_on", "give_up_on", mode="before")
    @classmethod
    def _names(cls, value: object) -> tuple[str, ...]:
        members = value if isinstance(value, (tuple, list)) else (value,)
        names = []
        for member in members:
            if isinstance(member, type) and issubclass(member, BaseException):
                names.append(class_name(member))
            elif isinstance(member, str) and member:
                names.append(member)
            else:
                raise ValueError(f"needs exception classes or their dotted names, not {member!r}")
        return tuple(names)


class ExecutionOptions(Options):
    """How one execution runs.

    Args:
        timeout: seconds from the start after which the execution fails with ExecutionTimeout; None for never.
        deadline: the same as a moment, in seconds since the epoch.
        retry: the retry policy of steps that have none of their own.
        step_timeout: the timeout in seconds of steps that have none of their own; None for none.
        checkpoints: ``"sync"``: no step starts before the results that it depends on are durable. ``"async"``:
            recorded in order, but dependents may start before (a crash may repeat the last few steps).
            ``"off"``: only start and end are recorded.
        priority: 0 to 9; higher goes first in every pool.
        distributed: False runs all steps in the execution's coordinator.
        strict_versions: refuse to go on when the workflow's source changed under the same version.
    """

    timeout: Seconds | None = Field(None, gt=0)
    deadline: float | None = None
    retry: RetryPolicy = RetryPolicy()
    step_timeout: Seconds | None = Field(300.0, gt=0)
    checkpoints: Checkpoints = "sync"
    priority: int = Field(5, ge=0, le=9)
    distributed: bool = True
    strict_versions: bool = False

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        return {True: "sync", False: "off"}.get(value, value) if isinstance(value, bool) else value


class StepOptions(Options):
    """How one step runs; what is None comes from the execution's options.

    Args:
        retry: retry policy.
        timeout: seconds for one attempt; ``None`` takes the execution's ``step_timeout``, ``float("inf")`` is none.
        local: True runs it in the coordinator instead of on a worker, False always on a worker; None takes
            what the execution says (``distributed``).
        pool: name of the worker pool.
    """

    retry: RetryPolicy | None = None
    timeout: Seconds | None = Field(None, gt=0)
    local: bool | None = None
    pool: str = "default"


class PoolConfig(Options):
    """One worker pool.

    Args:
        name: the pool's name.
        workers: worker actors per code environment.
        concurrency: tasks that one worker runs at once.
        num_cpus: CPUs that Ray reserves for one worker.
        stop_grace: seconds that a step which was told to stop may take before its worker is replaced.
    """

    name: str = "default"
    workers: int = Field(4, ge=1)
    concurrency: int = Field(4, ge=1)
    num_cpus: float = Field(0.01, ge=0)
    stop_grace: float = Field(5.0, ge=0)


#: Read from the environment as RAYFLOW_<NAME>, where a keyword does not say otherwise.
ENVIRONMENT_PREFIX = "RAYFLOW_"


class EngineConfig(Options):
    """How an engine and its actors run. Everything can also be set as ``RAYFLOW_<NAME>``.

    Args:
        store: URL of the store; None for the default file in the user's data folder.
        namespace: Ray namespace of the actors; None derives it from the store's URL.
        address: Ray cluster to join; None joins a running one or starts a local one.
        pool: the default worker pool.
        execution: options of executions that are started without options of their own.
        max_coordinators: coordinator actors at most, but one for each code environment with work; None for twice
            the cluster's CPUs, at least 2.
        executions_per_coordinator: executions that share one coordinator at most, beyond ``max_coordinators``.
        standbys: coordinators kept ready ahead.
        recover: ``"auto"`` takes up unfinished executions when an engine opens the store; ``"no"`` leaves them.
        ping_interval: seconds between two pings of an actor.
        ping_timeout: seconds without an answer after which an actor counts as hung.
        environment_idle: seconds after which actors of a code environment without work are stopped.
    """

    store: str | None = None
    namespace: str | None = None
    address: str | None = None
    pool: PoolConfig = PoolConfig()
    execution: ExecutionOptions = ExecutionOptions()
    max_coordinators: int | None = Field(None, ge=1)
    executions_per_coordinator: int = Field(500, ge=1)
    standbys: int = Field(1, ge=0)
    recover: Literal["auto", "no"] = "auto"
    ping_interval: float = Field(1.0, gt=0)
    ping_timeout: float = Field(4.0, gt=0)
    environment_idle: float = Field(300.0, gt=0)

    @model_validator(mode="after")
    def _ping(self) -> Self:
        if self.ping_timeout <= self.ping_interval:
            raise ValueError("ping_timeout must be longer than ping_interval, or a healthy actor counts as hung")
        return self

    @classmethod
    def load(cls, *, environ: Mapping[str, str] = os.environ, **given: Any) -> EngineConfig:
        """The configuration from keywords, then ``RAYFLOW_*``, then the defaults.

        Example:
            >>> EngineConfig.load(environ={"RAYFLOW_STANDBYS": "3"}).standbys
            3
        """
        values: dict[str, Any] = {}
        for name, info in cls.model_fields.items():
            text = environ.get(ENVIRONMENT_PREFIX + name.upper())
            if text is not None:
                nested = isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
                values[name] = _parsed(info.annotation, name, text) if nested else text
        values.update({name: value for name, value in given.items() if value is not None})
        return cls(**values)


def _parsed(annotation: Any, name: str, text: str) -> Any:
    try:
        return annotation.model_validate_json(text)
    except ValidationError as error:
        raise DefinitionError(f"{ENVIRONMENT_PREFIX}{name.upper()}: {_explain(annotation, error)}") from None
