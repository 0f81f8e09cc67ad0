"""What all declared steps share. The kinds are in ``steps`` and ``wrappers``.

Every step is frozen and validated when it is made. Its callables (``input``, ``condition``, ``over``) get a
read-only view of the state; they run in the workflow, are run again by every replay, and so must answer the same
for the same state. What they find in it is not theirs to change.

An agent has a path in its workflow, by which a worker finds it again: the step's name, then what leads to it, as
in ``extract/agent``, ``analysis/agents/1``, ``review/then/agent``, ``fetch/step/agent``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayflow.definition.agent import AgentLike
from rayflow.definition.checks import check_name, is_async
from rayflow.definition.options import RetryPolicy, StepOptions
from rayflow.definition.step import Step
from rayflow.definition.walk import Outcome, Walk
from rayflow.errors import DefinitionError, RayflowError

AnyAgent = AgentLike | Step[..., Any]
State = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class DeclaredStep(ABC):
    """Base of the declared steps.

    Args:
        name: unique in its workflow; without "/".
        retry: retry policy of the calls of its agents; None takes the agent's own (a Step's), then the
            execution's. Of a step around other steps: what those take that say nothing themselves.
        timeout: seconds for one attempt at a call, with the same order; ``float("inf")`` is none.
    """

    name: str
    retry: RetryPolicy | None = field(default=None, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_name("step name", self.name, forbidden="/")
        try:
            self.options  # noqa: B018 - made once here, so that a wrong one is refused at the definition
        except DefinitionError as error:
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
