"""One walk through a declared workflow: its own state, and where the calls of its agents go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, cast

from rayflow.definition.agent import AgentResult, agent_id, run_agent
from rayflow.definition.context import ExecutionContext, StepCall, Target
from rayflow.definition.options import StepOptions
from rayflow.definition.results import StageStatus, StepResult, agent_failed, failure_from
from rayflow.definition.step import Step
from rayflow.errors import StepFailed


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
        """The walk as the steps inside another one see it. The nearest default wins, and the outermost override."""
        return replace(
            self,
            defaults=layered(self.defaults, defaults or StepOptions()),
            overrides=layered(overrides or StepOptions(), self.overrides),
        )

    def now(self) -> float:
        """The execution's time; outside one, its event loop's."""
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
        of_agent = agent.options if isinstance(agent, Step) else StepOptions()
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
