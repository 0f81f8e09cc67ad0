"""Options that a person sets: frozen, validated when they are made, and the same everywhere.

Every duration is a number of seconds or a timedelta.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from rayflow.errors import InvalidArgument, class_name
from rayflow.ids import ExecutionStatus


def _seconds(value: object) -> object:
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, bool):
        raise ValueError(f"needs seconds as a number, not {value}")  # noqa: TRY004 - pydantic takes only this
    return value


Seconds = Annotated[float, BeforeValidator(_seconds)]


class Options(BaseModel):
    """Base of all option classes: frozen, and an unknown or wrong option raises InvalidArgument and is named."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidArgument(explain(type(self), error)) from None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some options changed and validated."""
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields_set}, **changes})


def explain(cls: type[BaseModel], error: ValidationError) -> str:
    """Return the errors of options as text: the name of each option and, where it helps, the given value."""
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
            told = not where and isinstance(detail.get("ctx", {}).get("error"), InvalidArgument)
            place = "" if told else f"{cls.__name__}{'.' + where if where else ''}: "
            lines.append(f"{place}{said}{given}")
    return "; ".join(lines)


Checkpoints = Literal["sync", "async", "off"]


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

    max_retries: int = Field(default=3, ge=0)
    initial_delay: Seconds = Field(default=1.0, ge=0)
    max_delay: Seconds = Field(default=60.0, ge=0)
    multiplier: float = Field(default=2.0, ge=1)
    jitter: float = Field(default=0.1, ge=0, le=1)
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


class Retention(Options):
    """How long executions are kept after they have ended, by how they ended. Then all of them is deleted.

    Args:
        completed: seconds, for those that completed; None for ever.
        failed: seconds, for those that failed, which can be resumed until then; None for ever.
        cancelled: seconds, for those that were cancelled; None for ever.

    Example:
        >>> Retention(completed=30 * 86_400).seconds(ExecutionStatus.COMPLETED)
        2592000.0
    """

    completed: Seconds | None = Field(default=None, gt=0, allow_inf_nan=False)
    failed: Seconds | None = Field(default=None, gt=0, allow_inf_nan=False)
    cancelled: Seconds | None = Field(default=None, gt=0, allow_inf_nan=False)

    def seconds(self, status: ExecutionStatus) -> float | None:
        """How long an execution is kept that ended like that; None for ever, and for one that has not ended."""
        by_status = {
            ExecutionStatus.COMPLETED: self.completed,
            ExecutionStatus.FAILED: self.failed,
            ExecutionStatus.CANCELLED: self.cancelled,
        }
        return by_status.get(status)


def check_retention(what: str, value: object) -> Retention | None:
    """Return ``value`` if it can be a workflow's retention. Raises InvalidArgument, saying of ``what`` it is."""
    if value is None or isinstance(value, Retention):
        return value
    raise InvalidArgument(f"{what}: retention= needs rf.Retention(completed=86_400), in seconds, and not {value!r}")


#: Attributes of one execution at most, and characters of one text among their values.
MOST_ATTRIBUTES, LONGEST_ATTRIBUTE = 32, 256
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def check_attributes(given: object) -> dict[str, str | int | float | bool]:
    """Return the given attributes as a dict. Raises ValueError, which names the allowed types."""
    if not isinstance(given, Mapping):
        raise ValueError(f"needs a mapping of names to values, not {given!r}")  # noqa: TRY004 - pydantic takes only this
    if len(given) > MOST_ATTRIBUTES:
        raise ValueError(f"has {len(given)} attributes; at most {MOST_ATTRIBUTES} are allowed")
    for name, value in given.items():
        if not isinstance(name, str) or not _ATTRIBUTE_NAME.fullmatch(name):
            raise ValueError(
                f"attribute name {name!r} is not allowed; a name has 1 to 64 letters, digits, '_', '.' or '-', and "
                "begins with a letter"
            )
        if problem := _attribute_problem(value):
            raise ValueError(f"attribute {name!r} {problem}")
    return dict(given)


def _attribute_problem(value: object) -> str:
    if type(value) is int:
        return "" if -(2**63) <= value < 2**63 else f"is {value}; an int must fit 64 bits"
    if type(value) is float:
        return "" if math.isfinite(value) else f"is {value}; a float must be finite"
    if type(value) is str:
        if len(value) > LONGEST_ATTRIBUTE:
            return f"has {len(value)} characters; at most {LONGEST_ATTRIBUTE} are allowed"
        return "" if value.isascii() or _is_unicode(value) else f"is {value!r}, which is not valid Unicode"
    if type(value) is bool:
        return ""
    return f"is a {type(value).__name__}; a value must be a str, int, float or bool"


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


class ExecutionOptions(Options):
    """How one execution runs.

    Args:
        timeout: seconds from the start after which the execution fails with ExecutionTimeout; None for never.
        deadline: the same as a moment, in seconds since the epoch.
        retry: the retry policy of steps that set none.
        step_timeout: the timeout in seconds of steps that set none; None for no timeout.
        checkpoints: ``"sync"``: no step starts before the results that it depends on are durable. ``"async"``:
            recorded in order, but dependents may start before (a crash may repeat the last few steps).
            ``"off"``: only start and end are recorded; the execution is not parked while it waits.
        priority: 0 to 9; higher goes first in every pool.
        distributed: False runs all steps in the execution's coordinator.
        strict_versions: pause the execution, before it continues, when its code changed since the start: the workflow,
            its steps, or a module of the user's that they import.
        start_at: begin at this moment, in seconds since the epoch, and not before.
        delay: the same, in seconds from the start.
        singleton: a key of which there is at most one unfinished execution in the store; a start that finds another
            one raises SingletonConflict.
        retention: how long it is kept after its end; None for what its workflow says, or else the engine's
            configuration. Its children take it over.
        attributes: values by which ``engine.list(where="attr.customer = 'acme'")`` finds the execution: at most 32,
            each a str of at most 256 characters, an int, a float or a bool. Children do not inherit them.

    Example:
        >>> ExecutionOptions(attributes={"customer": "acme", "amount": 12.5}).attributes["customer"]
        'acme'
    """

    timeout: Seconds | None = Field(default=None, gt=0)
    deadline: float | None = None
    retry: RetryPolicy = RetryPolicy()
    step_timeout: Seconds | None = Field(default=300.0, gt=0)
    checkpoints: Checkpoints = "sync"
    priority: int = Field(default=5, ge=0, le=9)
    distributed: bool = True
    strict_versions: bool = False
    start_at: float | None = None
    delay: Seconds | None = Field(default=None, ge=0)
    singleton: str | None = Field(default=None, min_length=1, max_length=200)
    retention: Retention | None = None
    attributes: Mapping[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("attributes", mode="before")
    @classmethod
    def _attributes(cls, value: object) -> object:
        return check_attributes(value)

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        return {True: "sync", False: "off"}.get(value, value) if isinstance(value, bool) else value


class RateLimit(Options):
    """Rate limit: at most ``count`` starts in any window of ``per`` seconds, over the whole cluster.

    Args:
        count: starts.
        per: seconds.

    Example:
        >>> RateLimit(count=50, per=1.0).count
        50
    """

    count: int = Field(ge=1)
    per: Seconds = Field(default=1.0, gt=0)


class StepOptions(Options):
    """Options of one step; an unset option takes the execution's value.

    Args:
        retry: retry policy.
        timeout: seconds for one attempt; None takes the execution's ``step_timeout``; ``float("inf")`` sets no limit.
        local: True runs it in the coordinator instead of on a worker, False always on a worker; None takes
            what the execution says (``distributed``).
        pool: name of the worker pool.
        not_before: the first attempt does not begin before this moment, in seconds since the epoch.
        concurrency_limit: attempts of one key that run at once at most, over all executions of the pool.
        concurrency_key: which key: a name, or a function of the step's arguments that returns one. Steps of one
            pool that name the same key share it. None for the step's own name.
        rate_limit: starts of this step at most, over all executions of the pool.
        heartbeat_timeout: seconds without ``rf.step_context().heartbeat()`` after which an attempt has failed.
        when_full: what becomes of an attempt that finds the pool's queue at its limit: ``"wait"``, or ``"raise"``
            to let it fail with QueueFull, which its retry policy may try again.
        num_cpus: CPUs. With this or any of the following the step runs as a separate Ray task, not on a worker.
        num_gpus: GPUs.
        memory: bytes of memory.
        resources: custom resources, by name.
        runtime_env: Ray's runtime environment for the task, on top of the code environment.
        scheduling_strategy: Ray's: ``"DEFAULT"``, ``"SPREAD"`` or one of its strategy objects.
    """

    retry: RetryPolicy | None = None
    timeout: Seconds | None = Field(default=None, gt=0)
    local: bool | None = None
    pool: str = "default"
    not_before: float | None = None
    concurrency_limit: int | None = Field(default=None, ge=1)
    concurrency_key: str | Callable[..., object] | None = None
    rate_limit: RateLimit | None = None
    heartbeat_timeout: Seconds | None = Field(default=None, gt=0)
    when_full: Literal["wait", "raise"] = "wait"
    num_cpus: float | None = Field(default=None, ge=0)
    num_gpus: float | None = Field(default=None, ge=0)
    memory: int | None = Field(default=None, gt=0)
    resources: Mapping[str, float] | None = None
    runtime_env: Mapping[str, Any] | None = None
    scheduling_strategy: Any = None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.concurrency_key is not None and self.concurrency_limit is None:
            raise ValueError("concurrency_key needs a concurrency_limit: how many of one key may run at once")
        if self.local and self.own_task:
            raise ValueError("a local step runs in the coordinator and cannot reserve resources: leave out local=True")
        if self.local and (self.concurrency_limit or self.rate_limit or self.when_full == "raise"):
            raise ValueError("a local step runs in the coordinator, where no pool limits it: leave out local=True")
        return self

    @property
    def own_task(self) -> bool:
        """Whether the step runs as a separate Ray task."""
        return any(getattr(self, name) is not None for name in _TASK_OPTIONS)


#: Options that make a step a separate Ray task.
_TASK_OPTIONS = ("num_cpus", "num_gpus", "memory", "resources", "runtime_env", "scheduling_strategy")

#: Characters of a pool's name: it is part of actors' names.
_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class PoolConfig(Options):
    """One worker pool.

    With ``min_workers`` or ``max_workers`` the pool scales itself between the two by the work that waits; without
    them it has ``workers``. Sizes are per code environment.

    Args:
        name: the pool's name: letters, digits, ``.``, ``_`` and ``-``.
        workers: worker actors per code environment.
        concurrency: tasks that one worker runs at once.
        min_workers: workers at least; None with ``max_workers`` is 0.
        max_workers: workers at most; None with ``min_workers`` is ``workers``.
        idle_timeout: seconds after which an idle worker beyond ``min_workers`` is stopped.
        queue_limit: tasks that may wait. Beyond it steps with ``when_full="raise"`` fail, and where it is the
            default pool, starts wait (or raise QueueFull); None for any.
        rate_limit: starts of tasks at most, over the whole pool; None for any.
        num_cpus: CPUs that Ray reserves for one worker.
        num_gpus: GPUs that Ray reserves for one worker.
        memory: bytes of memory that Ray reserves for one worker; None for none.
        resources: custom resources that Ray reserves for one worker.
        runtime_env: Ray's runtime environment of the workers, on top of the code environment.
        setup: called once in each worker before it takes work: a function without arguments, ``async`` or not,
            or ``"module:function"``. Steps find its result in ``rf.step_context().setup``; a context manager
            is entered, and left when the worker stops.
        max_tasks_per_worker: tasks after which a worker is replaced; None for never.
        max_ray_tasks: steps of this pool that run as separate Ray tasks at once, per code environment.
        drain_timeout: seconds that tasks may take to finish on a worker that is to stop; then they are handed back.
        stop_grace: seconds between the request that a step stops and the replacement of its worker.
        start_timeout: seconds that a worker may take to start, its setup included.
    """

    name: str = "default"
    workers: int = Field(default=4, ge=0)
    concurrency: int = Field(default=4, ge=1)
    min_workers: int | None = Field(default=None, ge=0)
    max_workers: int | None = Field(default=None, ge=1)
    idle_timeout: Seconds = Field(default=30.0, gt=0)
    queue_limit: int | None = Field(default=None, ge=1)
    rate_limit: RateLimit | None = None
    num_cpus: float = Field(default=0.01, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    memory: int | None = Field(default=None, gt=0)
    resources: Mapping[str, float] = Field(default_factory=dict)
    runtime_env: Mapping[str, Any] = Field(default_factory=dict)
    setup: str | Callable[[], Any] | None = None
    max_tasks_per_worker: int | None = Field(default=None, ge=1)
    max_ray_tasks: int = Field(default=100, ge=1)
    drain_timeout: Seconds = Field(default=300.0, ge=0)
    stop_grace: Seconds = Field(default=5.0, ge=0)
    start_timeout: Seconds = Field(default=600.0, gt=0)

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not _POOL_NAME.fullmatch(value):
            raise ValueError("needs 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit")
        return value

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        low, high = self.bounds
        if low > high:
            raise ValueError(f"max_workers ({high}) must be at least min_workers ({low})")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """Workers at least and at most; the same number twice where the pool does not scale itself."""
        if self.min_workers is None and self.max_workers is None:
            return self.workers, self.workers
        high = max(self.workers, self.min_workers or 0) if self.max_workers is None else self.max_workers
        return self.min_workers or 0, high


#: Read from the environment as RAYFLOW_<NAME>, where a keyword does not say otherwise.
ENVIRONMENT_PREFIX = "RAYFLOW_"


class EngineConfig(Options):
    """How an engine and its actors run. Everything can also be set as ``RAYFLOW_<NAME>``.

    Args:
        store: URL of the store; None for the default file in the user's data folder.
        namespace: Ray namespace of the actors; None derives it from the store's URL.
        address: Ray cluster to join; None joins a running one or starts a local one.
        pool: the default worker pool.
        execution: options of executions that are started without options.
        max_coordinators: coordinator actors at most, but one for each code environment with work; None for twice
            the cluster's CPUs, at least 2.
        executions_per_coordinator: executions that share one coordinator at most, beyond ``max_coordinators``.
        standby_coordinators: coordinators kept ready ahead.
        recover: whether an engine that opens the store resumes its unfinished executions.
        ping_interval: seconds between two pings of an actor.
        ping_timeout: seconds without an answer after which an actor counts as hung.
        environment_idle_timeout: seconds after which actors of a code environment without work are stopped.
        park_idle_after: seconds without anything to do after which an execution that only waits is parked: it holds no
            actor and no memory until it is woken.
        large_value_bytes: bytes of an encoded value beyond which it is kept once, by its content, and only referred to;
            it then goes from step to step without passing through the coordinator.
        retention: how long executions are kept after their end, where neither their options nor their workflow say;
            for ever if left out.
        allow_pickle: whether what only cloudpickle can write is written and read: values of classes that cannot be
            imported, and code of ``__main__`` and notebooks. False refuses both, and says where in a value it is.
    """

    store: str | None = None
    namespace: str | None = None
    address: str | None = None
    pool: PoolConfig = PoolConfig()
    execution: ExecutionOptions = ExecutionOptions()
    max_coordinators: int | None = Field(default=None, ge=1)
    executions_per_coordinator: int = Field(default=500, ge=1)
    standby_coordinators: int = Field(default=1, ge=0)
    recover: bool = True
    ping_interval: float = Field(default=1.0, gt=0)
    ping_timeout: float = Field(default=4.0, gt=0)
    environment_idle_timeout: float = Field(default=300.0, gt=0)
    park_idle_after: float = Field(default=1.0, gt=0)
    large_value_bytes: int = Field(default=256 << 10, ge=1 << 10)
    retention: Retention = Retention()
    allow_pickle: bool = True

    @field_validator("pool")
    @classmethod
    def _default_pool(cls, value: PoolConfig) -> PoolConfig:
        if value.name != "default":
            raise ValueError(
                f"the default pool is called 'default', not {value.name!r}; make others with engine.pools.create()"
            )
        return value

    @model_validator(mode="after")
    def _ping(self) -> Self:
        if self.ping_timeout <= self.ping_interval:
            raise ValueError("ping_timeout must be longer than ping_interval, or a healthy actor counts as hung")
        return self

    @classmethod
    def load(cls, *, environ: Mapping[str, str] = os.environ, **given: Any) -> EngineConfig:
        """Return the configuration from keywords, then ``RAYFLOW_*``, then the defaults.

        Example:
            >>> EngineConfig.load(environ={"RAYFLOW_STANDBY_COORDINATORS": "3"}).standby_coordinators
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
        raise InvalidArgument(f"{ENVIRONMENT_PREFIX}{name.upper()}: {explain(annotation, error)}") from None
