"""Declared steps that call agents: in turn, at once, or once for each item of a list."""

from __future__ import annotations

import asyncio
import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, cast

from rayflow.definition.agent import AgentLike, AgentResult, agent_id, check_agent, run_agent
from rayflow.definition.checks import check_name, is_async
from rayflow.definition.context import ExecutionContext, StepCall, Target
from rayflow.definition.options import RetryPolicy, StepOptions
from rayflow.definition.step import Step
from rayflow.errors import DefinitionError, Failure, InvalidArgument, RayflowError, StepFailed, StepTimeout, class_name

AnyAgent = AgentLike | Step[..., Any]
State = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class DeclaredStep(ABC):
    """Base of the declared steps.

    Args:
        name: unique in its workflow; without "/".
        retry: retry policy of the calls of its agents; None takes the agent's own (a Step's), then the
            execution's. Of a step around other steps: what those take that say nothing themselves.
        timeout: seconds for one attempt at a call, with the same order; ``float("inf")`` sets no limit.
    """

    name: str
    retry: RetryPolicy | None = field(default=None, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_name("step name", self.name, forbidden="/")
        try:
            self.options  # noqa: B018 - made once here, so that a wrong one is refused at the definition
        except InvalidArgument as error:
            raise self._wrong(str(error)) from None
        self.check()

    @property
    def options(self) -> StepOptions:
        """The options that this step itself sets."""
        given = {"retry": self.retry, "timeout": self.timeout}
        return StepOptions(**{name: value for name, value in given.items() if value is not None})

    @abstractmethod
    def check(self) -> None:
        """Raise DefinitionError if the step is wrong as written."""

    @abstractmethod
    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """Every agent in the step, with its path from here."""

    @abstractmethod
    async def perform(self, walk: Walk, path: str) -> Outcome:
        """Run the step.

        Args:
            walk: the walk through the workflow.
            path: the step's own path in it.

        Raises:
            DefinitionError: one of its callables raised, or answered what does not fit.
        """

    # --- for the kinds below -------------------------------------------------------------------------------
    def _wrong(self, what: str) -> DefinitionError:
        return DefinitionError(f"step {self.name!r}: {what}")

    def _check_callable(self, option: str, value: object) -> None:
        if not callable(value):
            raise self._wrong(f"{option}= needs a function of the state, not {value!r}")
        if is_async(value):
            raise self._wrong(f"{option}= must be a plain function of the state; what waits belongs into an agent")

    def _check_key(self, option: str, value: object) -> None:
        if not isinstance(value, str) or not value:
            raise self._wrong(f"{option} needs a non-empty string, a key of the state, not {value!r}")

    def _check_step(self, option: str, value: object) -> None:
        if not isinstance(value, DeclaredStep):
            hint = "; wrap it in a SequentialStep" if isinstance(value, Step) else ""
            raise self._wrong(f"{option} needs a declared step, not {value!r}{hint}")

    def _check_workers(self, value: object) -> None:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise self._wrong(f"max_workers must be a whole number from 1, not {value!r}; leave it out for no limit")

    def _ask(self, option: str, function: Callable[[State], Any], walk: Walk) -> Any:
        try:
            return function(walk.view)
        except RayflowError:
            raise
        except Exception as error:
            has = ", ".join(map(repr, sorted(walk.state))) or "nothing"
            raise self._wrong(f"{option}= raised {type(error).__name__}: {error}; the state has {has}") from error

    def _ask_list(self, option: str, function: Callable[[State], Any], walk: Walk) -> list[Any]:
        found = self._ask(option, function, walk)
        if isinstance(found, str | bytes | Mapping) or not isinstance(found, Sequence):
            raise self._wrong(f"{option}= must answer a list, not {type(found).__name__} {found!r}")
        return list(found)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call of an agent came to: its result, and if it failed, as what the step fails."""

    result: AgentResult
    error: StepFailed | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a declared step came to, before the workflow gives it its index."""

    results: tuple[AgentResult, ...] = ()
    error: StepFailed | None = None
    skipped: bool = False

    @property
    def status(self) -> StageStatus:
        """The status of the step's stage."""
        if self.error is not None:
            return "failed"
        return "skipped" if self.skipped else "completed"


@dataclass(frozen=True, slots=True)
class Walk:
    """See the module's docstring.

    Args:
        workflow: the declared workflow; owner of the agents.
        execution: where calls go; None outside an execution, where agents simply run.
        state: this execution's own state.
        defaults: options of steps that say nothing themselves; set by the steps around them.
        overrides: options that a step around them insists on.
    """

    workflow: Any
    execution: ExecutionContext | None
    state: dict[str, Any]
    defaults: StepOptions = field(default_factory=StepOptions)
    overrides: StepOptions = field(default_factory=StepOptions)

    @property
    def view(self) -> Mapping[str, Any]:
        """The state as the callables of a definition see it: read-only, so that every change is published."""
        return MappingProxyType(self.state)

    def put(self, outputs: Mapping[str, Any]) -> None:
        """Set keys of the state, visibly."""
        for key, value in outputs.items():
            self.state[key] = value
            if self.execution is not None:
                self.execution.state[key] = value

    def stage(self, index: int, name: str, status: StageStatus, result: StepResult | None = None) -> None:
        """Record that a step of the workflow began or ended."""
        if self.execution is not None:
            self.execution.stage(index, name, status, result)

    def under(self, *, defaults: StepOptions | None = None, overrides: StepOptions | None = None) -> Walk:
        """Return the walk for the steps inside another one: the nearest default wins, and the outermost override."""
        return replace(
            self,
            defaults=layered(self.defaults, defaults or StepOptions()),
            overrides=layered(overrides or StepOptions(), self.overrides),
        )

    def now(self) -> float:
        """Return the execution's time; outside one, its event loop's."""
        return asyncio.get_running_loop().time() if self.execution is None else self.execution.now()

    async def call(
        self, agent: Any, value: Any, *, step: str, name: str, part: str, own: StepOptions, item: str = ""
    ) -> Answer:
        """Call an agent; answer its failure rather than raise it.

        Args:
            agent: the agent.
            value: its input.
            step: name of the declared step, for messages.
            name: name of the call, for the journal.
            part: the agent's path in the workflow.
            own: the declared step's own options.
            item: which of several inputs this is, for messages.
        """
        began = self.now()
        of_agent = agent.settings if isinstance(agent, Step) else StepOptions()
        options = layered(self.defaults, of_agent, own, self.overrides)
        try:
            if self.execution is None:
                return Answer(await run_agent(agent, value, self.now))
            call = StepCall(name, Target(self.workflow, part), (value,), {}, options, AgentResult)
            return Answer(cast("AgentResult", await self.execution.call(call)))
        except Exception as error:  # noqa: BLE001 - it is answered; whoever called decides what it means
            failed = agent_failed(step, agent_id(agent) + item, error)
            lost = AgentResult(agent_id(agent), value, error=failure_from(error), start_time=began, end_time=self.now())
            return Answer(lost, failed)


def layered(*layers: StepOptions) -> StepOptions:
    """Options of which each layer overrules the ones before, as far as it says anything."""
    said: dict[str, Any] = {}
    for layer in layers:
        said.update({name: getattr(layer, name) for name in layer.model_fields_set if getattr(layer, name) is not None})
    return StepOptions(**said)


StageStatus = Literal["running", "completed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one declared step came to.

    Args:
        name: the step's name.
        index: its position in the workflow, from 0.
        status: "completed", "failed" or "skipped".
        results: the results of its agents, in their order; of a failed step those that there are.
        error: why it failed; None if it did not.
    """

    name: str
    index: int
    status: StageStatus
    results: tuple[AgentResult, ...] = ()
    error: Failure | None = None


def agent_failed(step: str, who: str, error: Exception) -> StepFailed:
    """Return the failure of a declared step whose agent failed, with the class and number of the agent's call.

    Args:
        step: the declared step's name.
        who: the agent's id, and for which item.
        error: what its call raised.
    """
    cause = failure_from(error)
    attempts, seq = (error.attempts, error.seq) if isinstance(error, StepFailed) else (1, 0)
    cls = StepTimeout if isinstance(error, StepTimeout) else StepFailed
    failure = replace(cause, message=f"agent {who} failed: {cause.message or cause.type}")
    failed = cls(step, failure, attempts=attempts, seq=seq)
    failed.__cause__ = error
    return failed


def retries_exhausted(step: str, retries: int, last: StepFailed) -> StepFailed:
    """Return the failure of a RetryStep after its last run."""
    times = "retry" if retries == 1 else "retries"
    failure = replace(last.failure, message=f"failed after {retries} {times}: {last.failure.message}")
    failed = type(last)(step, failure, attempts=retries + 1, seq=last.seq)
    failed.__cause__ = last
    return failed


def failure_from(error: BaseException) -> Failure:
    """Return an exception as data; of a failed step, the recorded failure."""
    if isinstance(error, StepFailed):
        return error.failure
    return Failure(
        type=class_name(type(error)),
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        retryable=not isinstance(error, RayflowError),
        mro=tuple(class_name(c) for c in type(error).__mro__[:-1]),
    )


@dataclass(frozen=True, eq=False)
class ConditionalStep(DeclaredStep):
    """One step or another, or none.

    Args:
        condition: function of the state; true takes ``then``.
        then: the step for true.
        otherwise: the step for false; without one, the step is skipped.
    """

    condition: Callable[[State], Any] = field(kw_only=True)
    then: DeclaredStep = field(kw_only=True)
    otherwise: DeclaredStep | None = field(default=None, kw_only=True)

    def check(self) -> None:
        """See the base."""
        self._check_callable("condition", self.condition)
        self._check_step("then=", self.then)
        if self.otherwise is not None:
            self._check_step("otherwise=", self.otherwise)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield from _parts_below("then", self.then)
        if self.otherwise is not None:
            yield from _parts_below("otherwise", self.otherwise)

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        inner = walk.under(defaults=self.options)
        if self._ask("condition", self.condition, walk):
            return await self.then.perform(inner, f"{path}/then")
        if self.otherwise is not None:
            return await self.otherwise.perform(inner, f"{path}/otherwise")
        return Outcome(skipped=True)


@dataclass(frozen=True, eq=False)
class RetryStep(DeclaredStep):
    """A step that is run again as a whole when it failed, after a fixed and durable delay.

    Calls inside it that set no retry policy are not retried singly. A failure that says that
    it is not to be retried (TerminalError) ends it at once. Its name is that of the step in it.

    Args:
        step: the step; of a ParallelStep all agents run again.
        max_retries: runs after the first one.
        delay: seconds before each of them.
    """

    name: str = field(init=False)
    step: DeclaredStep
    max_retries: int = field(kw_only=True)
    delay: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", getattr(self.step, "name", "(retry)"))
        super().__post_init__()

    def check(self) -> None:
        """See the base."""
        self._check_step("RetryStep", self.step)
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise self._wrong(f"max_retries must be a whole number from 0, not {self.max_retries!r}")
        if type(self.delay) not in {int, float} or not 0 <= self.delay < math.inf:
            raise self._wrong(f"delay must be seconds as a number, 0 or more, not {self.delay!r}")

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield from _parts_below("step", self.step)

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        once = StepOptions(retry=RetryPolicy(max_retries=0)).replace(**self.options.model_dump(exclude_unset=True))
        inner = walk.under(defaults=once)
        retries = 0
        while True:
            outcome = await self.step.perform(inner, f"{path}/step")
            if outcome.error is None:
                return outcome
            if retries == self.max_retries or not outcome.error.failure.retryable:
                return Outcome(outcome.results, retries_exhausted(self.name, retries, outcome.error))
            retries += 1
            await asyncio.sleep(self.delay)


@dataclass(frozen=True, eq=False)
class RemoteStep(DeclaredStep):
    """A step whose agents always run on a worker, also in an execution that is not distributed.

    Its ``timeout`` and ``retry`` are insisted on: what the step in it says of them does not count. Its name is
    that of the step in it.

    Args:
        step: the step.
        timeout: seconds for one attempt at each call.
        retry: retry policy of each call.
    """

    name: str = field(init=False)
    step: DeclaredStep

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", getattr(self.step, "name", "(remote)"))
        super().__post_init__()

    def check(self) -> None:
        """See the base."""
        self._check_step("RemoteStep", self.step)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield from _parts_below("step", self.step)

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        inner = walk.under(overrides=self.options.replace(local=False))
        return await self.step.perform(inner, f"{path}/step")


def _parts_below(prefix: str, step: DeclaredStep) -> Iterator[tuple[str, AnyAgent]]:
    for path, agent in step.parts():
        yield f"{prefix}/{path}", agent


Call = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, eq=False)
class SequentialStep(DeclaredStep):
    """One agent, called once.

    Args:
        agent: an agent, a Step of one argument, or anything with ``run(input)``.
        input: function of the state; its answer is the agent's input.
        output_key: where the output goes in the state.

    Example:
        >>> from rayflow.definition.agent import Agent
        >>> shout = Agent("shout", run=str.upper)
        >>> SequentialStep("shout", agent=shout, input=lambda s: s["text"], output_key="loud").name
        'shout'
    """

    agent: AnyAgent = field(kw_only=True)
    input: Callable[[State], Any] = field(kw_only=True)
    output_key: str = field(kw_only=True)

    def check(self) -> None:
        """See the base."""
        check_agent(f"step {self.name!r}", self.agent)
        self._check_callable("input", self.input)
        self._check_key("output_key", self.output_key)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield "agent", self.agent

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        value = self._ask("input", self.input, walk)
        answer = await walk.call(
            self.agent, value, step=self.name, name=self.name, part=f"{path}/agent", own=self.options
        )
        if answer.error is None:
            walk.put({self.output_key: answer.result.output})
        return Outcome((answer.result,), answer.error)


@dataclass(frozen=True, eq=False)
class ParallelStep(DeclaredStep):
    """Several agents at once. It waits for all; if any failed, it fails with the first by index and stores nothing.

    Args:
        agents: at least one; the same one may appear several times.
        input: function of the state; returns a list with one input for each agent.
        output_keys: where the outputs go in the state, one key for each agent.
    """

    agents: Sequence[AnyAgent] = field(kw_only=True)
    input: Callable[[State], Sequence[Any]] = field(kw_only=True)
    output_keys: Sequence[str] = field(kw_only=True)

    def check(self) -> None:
        """See the base."""
        for option in ("agents", "output_keys"):
            given = getattr(self, option)
            if isinstance(given, str) or not isinstance(given, Sequence) or not given:
                raise self._wrong(f"{option} needs a non-empty list, not {given!r}")
            object.__setattr__(self, option, tuple(given))
        if len(self.output_keys) != len(self.agents):
            raise self._wrong(
                f"output key count ({len(self.output_keys)}) does not match agent count ({len(self.agents)})"
            )
        for index, key in enumerate(self.output_keys):
            check_agent(f"step {self.name!r}: agents[{index}]", self.agents[index])
            self._check_key(f"output_keys[{index}]", key)
            if key in self.output_keys[:index]:
                raise self._wrong(f"output key {key!r} appears twice; one output would overwrite the other")
        self._check_callable("input", self.input)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        for index, agent in enumerate(self.agents):
            yield f"agents/{index}", agent

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        inputs = self._ask_list("input", self.input, walk)
        if len(inputs) != len(self.agents):
            raise self._wrong(f"input count ({len(inputs)}) does not match agent count ({len(self.agents)})")
        answers, error = await self._all([self._call(walk, path, i, value) for i, value in enumerate(inputs)])
        if error is None:
            outputs = (answer.result.output for answer in answers)
            walk.put(dict(zip(self.output_keys, outputs, strict=True)))
        return Outcome(tuple(answer.result for answer in answers), error)

    def _call(self, walk: Walk, path: str, index: int, value: Any) -> Call:
        agent = self.agents[index]
        name, part = f"{self.name}/{agent_id(agent)}", f"{path}/agents/{index}"
        return lambda: walk.call(agent, value, step=self.name, name=name, part=part, own=self.options)

    async def _all(self, calls: Sequence[Call]) -> tuple[list[Answer], StepFailed | None]:
        answers = await asyncio.gather(*(call() for call in calls))
        return answers, next((answer.error for answer in answers if answer.error is not None), None)


@dataclass(frozen=True, eq=False)
class DistributedParallelStep(ParallelStep):
    """Several agents, some at a time. The first failure cancels the others and fails the step; nothing is stored.

    Args:
        max_workers: calls that are out at once; None for all.
    """

    max_workers: int | None = field(default=None, kw_only=True)

    def check(self) -> None:
        """See the base."""
        super().check()
        self._check_workers(self.max_workers)

    async def _all(self, calls: Sequence[Call]) -> tuple[list[Answer], StepFailed | None]:
        return await _bounded(calls, self.max_workers)


@dataclass(frozen=True, eq=False)
class MapStep(DeclaredStep):
    """One agent, called for each item of a list. The first failure cancels the others; nothing is stored then.

    Args:
        agent: as for a SequentialStep.
        over: function of the state; returns the list of the agent's inputs.
        output_key: where the list of outputs goes, in the order of the inputs.
        max_workers: calls that are out at once; None for all.
    """

    agent: AnyAgent = field(kw_only=True)
    over: Callable[[State], Sequence[Any]] = field(kw_only=True)
    output_key: str = field(kw_only=True)
    max_workers: int | None = field(default=None, kw_only=True)

    def check(self) -> None:
        """See the base."""
        check_agent(f"step {self.name!r}", self.agent)
        self._check_callable("over", self.over)
        self._check_key("output_key", self.output_key)
        self._check_workers(self.max_workers)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield "agent", self.agent

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        items = self._ask_list("over", self.over, walk)
        calls = [self._call(walk, path, index, item) for index, item in enumerate(items)]
        answers, error = await _bounded(calls, self.max_workers)
        if error is None:
            walk.put({self.output_key: [answer.result.output for answer in answers]})
        return Outcome(tuple(answer.result for answer in answers), error)

    def _call(self, walk: Walk, path: str, index: int, item: Any) -> Call:
        return lambda: walk.call(
            self.agent,
            item,
            step=self.name,
            name=self.name,
            part=f"{path}/agent",
            own=self.options,
            item=f" for item {index}",
        )


class _FirstFailure(Exception):
    """Leaves the task group, so that it cancels the other calls."""


async def _bounded(calls: Sequence[Call], limit: int | None) -> tuple[list[Answer], StepFailed | None]:
    """Run at most ``limit`` calls at once, until all are answered or one has failed.

    Returns the answers in the order of the calls, and the first failure by time.
    """
    answers: dict[int, Answer] = {}
    errors: list[StepFailed] = []
    todo = iter(range(len(calls)))

    async def work() -> None:
        for index in todo:  # shared by all workers: each takes the next call when it is free
            answer = answers[index] = await calls[index]()
            if answer.error is not None:
                errors.append(answer.error)
                raise _FirstFailure

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit or len(calls), len(calls))):
                group.create_task(work())
    except* _FirstFailure:
        pass  # it only ends the others; what failed is in errors
    return [answers[index] for index in sorted(answers)], errors[0] if errors else None
