"""Workflows that are declared as a list of steps."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Self, Unpack

from rayflow.definition.agent import agent_id
from rayflow.definition.base import Definition, making_module
from rayflow.definition.checks import check_name
from rayflow.definition.context import current_execution
from rayflow.definition.declared_steps import AnyAgent, DeclaredStep, StepResult, Walk, failure_from
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.options import Retention, check_retention
from rayflow.definition.start_options import ConfiguredWorkflow, SavedWorkflow, StartOptions, WorkflowCall
from rayflow.definition.step import Step
from rayflow.errors import DefinitionError, IncompatibleVersion, InvalidArgument, InvalidInput
from rayflow.ids import check_id


class Workflow(Definition):
    """A workflow of declared steps, run one after another over a shared state.

    The result is the final state. Each execution has its own state: a copy of the one that it was started with,
    and the outputs of its steps.

    Args:
        id: the workflow's id.
        name: for people; the id if left out.
        description: what it does, for people.
        version: must change when executions of the old steps could not continue with the new ones.
        retention: how long its executions are kept after their end; None for what the engine's configuration says.

    Raises:
        DefinitionError: the id does not fit.

    Example:
        >>> from rayflow.definition.agent import Agent
        >>> from rayflow.definition.declared_steps import SequentialStep
        >>> up = Agent("up", run=str.upper)
        >>> shout = SequentialStep("shout", agent=up, input=lambda s: s["text"], output_key="loud")
        >>> [step.name for step in Workflow("greeting").add_step(shout).steps]
        ['shout']
    """

    returns: Any = dict[str, Any]
    retention: Retention | None = None
    transient = Definition.transient | {"_parts"}

    def __init__(
        self,
        id: str,
        *,
        name: str = "",
        description: str = "",
        version: str = "1",
        retention: Retention | None = None,
    ) -> None:
        self.id = check_id("workflow", id)
        self.name = name or id
        self.description = description
        self.version = check_name("workflow version", version)
        self.retention = check_retention(f"workflow {self.id!r}", retention)
        self.home = making_module()
        self._steps: tuple[DeclaredStep, ...] = ()
        self._parts: dict[str, AnyAgent] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._parts = {path: agent for step in self._steps for path, agent in _parts_of(step)}

    @property
    def steps(self) -> tuple[DeclaredStep, ...]:
        """The steps, in order."""
        return self._steps

    def add_step(self, step: DeclaredStep) -> Self:
        """Append a step, and answer the workflow itself.

        Raises:
            DefinitionError: ``step`` is not a declared step, its name is taken, or one of its agents has the id of
                another agent of this workflow.
        """
        if not isinstance(step, DeclaredStep):
            hint = "; wrap it in a SequentialStep" if isinstance(step, Step) else ""
            raise self._wrong(f"add_step needs a declared step, not {step!r}{hint}")
        if any(step.name == other.name for other in self._steps):
            raise self._wrong(f"it has a step {step.name!r} already; the name of each step has to be its own")
        parts = dict(_parts_of(step))
        known = {agent_id(agent): agent for agent in self._parts.values()}
        for agent in parts.values():
            if known.setdefault(agent_id(agent), agent) is not agent:
                raise self._wrong(f"two different agents have the id {agent_id(agent)!r}; give one of them another id")
        self._steps += (step,)
        self._parts |= parts
        return self

    def part(self, path: str) -> AnyAgent:
        """Return the agent at a path, such as "analysis/agents/1".

        Raises:
            IncompatibleVersion: the workflow has no agent at that path.
        """
        found = self._parts.get(path)
        if found is None:
            raise IncompatibleVersion(
                f"workflow {self.id!r} (version {self.version}) has no agent at {path!r}; it has: "
                f"{', '.join(self._parts) or 'none'}. Were its steps changed while an execution was under way?"
            )
        return found

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Check the arguments of a start: one dict with string keys, or nothing.

        Raises:
            InvalidInput: they are something else.
        """
        try:
            bound = _TAKES.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidInput(f"workflow {self.id!r}: {error}; it takes its initial state, one dict") from None
        state = bound.arguments.get("state")
        if state is not None and not isinstance(state, Mapping):
            raise InvalidInput(f"workflow {self.id!r} takes its initial state, one dict, not {type(state).__name__}")
        for key in state or ():
            if not isinstance(key, str):
                raise InvalidInput(f"workflow {self.id!r}: the keys of its state must be strings, not {key!r}")
        return bound

    def begin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, dict[str, Any]]:
        """Return the coroutine that an execution runs. Raises TypeError like :meth:`bind`."""
        return self.run(*self.bind(*args, **kwargs).args)

    async def run(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run the steps, durably where it is called in an execution, and answer the final state.

        Args:
            state: the initial state; the mapping is copied, its values are not.

        Raises:
            StepFailed: a step failed (StepTimeout: because its agent ran out of time).
            DefinitionError: a callable of a step raised, or answered what does not fit.
        """
        self.bind(state)
        walk = Walk(self, current_execution(), {})
        walk.put(state or {})
        for index, step in enumerate(self._steps):
            await self._perform(walk, index, step)
        return walk.state

    def options(self, **given: Unpack[StartOptions]) -> ConfiguredWorkflow[..., dict[str, Any]]:
        """Return the workflow with options for one start: its id, priority, timeout and so on.

        Args:
            given: see :class:`~rayflow.definition.start_options.StartOptions`.

        Raises:
            InvalidArgument: an option is unknown or not valid.

        Example:
            ``engine.start(review.options(id="doc-17"), {"input": text})``, and in a durable function
            ``state = await review.options()({"input": text})``.
        """
        return ConfiguredWorkflow(self, given)

    def call(self, state: Mapping[str, Any] | None = None) -> WorkflowCall[dict[str, Any]]:
        """Return a call of the workflow with this initial state, for ``engine.start_many()`` and schedules.

        Raises:
            InvalidInput: the state is not a dict with string keys.
        """
        return self.options().call(*(() if state is None else (state,)))

    async def _perform(self, walk: Walk, index: int, step: DeclaredStep) -> None:
        walk.stage(index, step.name, "running")
        try:
            outcome = await step.perform(walk, step.name)
        except InvalidArgument as error:
            result = StepResult(step.name, index, "failed", error=failure_from(error))
            walk.stage(index, step.name, "failed", result)
            raise
        failure = None if outcome.error is None else failure_from(outcome.error)
        result = StepResult(step.name, index, outcome.status, outcome.results, failure)
        walk.stage(index, step.name, outcome.status, result)
        if outcome.error is not None:
            raise outcome.error

    def _wrong(self, what: str) -> DefinitionError:
        return DefinitionError(f"workflow {self.id!r}: {what}")

    def __repr__(self) -> str:
        return f"<workflow {self.id!r} version {self.version!r}: {len(self._steps)} steps>"


_TAKES = inspect.Signature([inspect.Parameter("state", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)])


def _parts_of(step: DeclaredStep) -> list[tuple[str, AnyAgent]]:
    return [(f"{step.name}/{path}", agent) for path, agent in step.parts()]


AnyWorkflow = WorkflowFunction[..., Any] | Workflow
"""A workflow as written: a durable function or declared steps."""


def configured(workflow: AnyWorkflow | SavedWorkflow | ConfiguredWorkflow[..., Any]) -> ConfiguredWorkflow[..., Any]:
    """Return a workflow with its options for one start; without options where none were given.

    Raises:
        InvalidArgument: ``workflow`` is not a workflow.
    """
    if isinstance(workflow, ConfiguredWorkflow):
        return workflow
    if isinstance(workflow, WorkflowFunction | Workflow | SavedWorkflow):
        return workflow.options()
    hint = f"; rf.SavedWorkflow({workflow!r}) names a saved one" if isinstance(workflow, str) else ""
    raise InvalidArgument(f"{workflow!r} is not a workflow: pass an @rf.workflow function or an rf.Workflow{hint}")
