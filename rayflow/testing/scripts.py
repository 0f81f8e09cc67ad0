"""Scripts of a test: results of steps in place of their code, and a record of their calls."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayflow.definition.agent import agent_id
from rayflow.definition.context import StepCall
from rayflow.definition.step import Step
from rayflow.definition.workflow import Workflow
from rayflow.errors import InvalidArgument

#: A step, an agent, or the name of either.
Scriptable = Any

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt at a step, real or scripted.

    Args:
        step: the name of the call, as a snapshot shows it.
        target: the name of the step, or the id of the agent.
        args: the positional arguments.
        kwargs: the keyword arguments.
        execution_id: the execution.
        attempt: the number of the attempt, from 1.
        at: when the attempt started, in seconds since the epoch by the test's clock.
    """

    step: str
    target: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    execution_id: str
    attempt: int
    at: float


@dataclass(eq=False, slots=True)
class Script:
    """Scripted results of a step. Created by :meth:`TestEngine.script`.

    Args:
        name: the name of the step or agent.
        results: the function that each further attempt calls; None for the step's own code.
        takes: virtual seconds of each attempt.
        calls: the attempts so far.
    """

    name: str
    results: Iterator[Function | None] = field(repr=False)
    takes: float = 0.0
    calls: list[Call] = field(default_factory=list)


class _NotGiven:
    """Marker of an argument that was not given, as opposed to None."""


NOT_GIVEN = _NotGiven()


def make_script(name: str, returns: Any, raises: Any, side_effect: Any, takes: float) -> Script:
    """Return the script for the arguments of :meth:`TestEngine.script`. Raises InvalidArgument."""
    chosen = [given for given in (returns, raises, side_effect) if given is not NOT_GIVEN]
    if len(chosen) > 1 or (not chosen and not takes):
        raise InvalidArgument(
            f"the script of step {name!r} needs one of returns=, raises= and side_effect=, not {len(chosen)}"
        )
    if takes < 0:
        raise InvalidArgument(f"the script of step {name!r}: takes ({takes}) must be at least 0 seconds")
    if raises is not NOT_GIVEN and not _is_exception(raises):
        raise InvalidArgument(f"the script of step {name!r}: raises= needs an exception or its class, not {raises!r}")
    if returns is not NOT_GIVEN:
        return Script(name, itertools.repeat(_returning(returns)), takes)
    if raises is not NOT_GIVEN:
        return Script(name, itertools.repeat(_raising(raises)), takes)
    if side_effect is NOT_GIVEN:
        return Script(name, itertools.repeat(None), takes)  # the step's own code, in another time
    return Script(name, _effects(name, side_effect), takes)


def _effects(name: str, given: Function | Iterable[Any]) -> Iterator[Function]:
    if isinstance(given, Step):
        return itertools.repeat(given.fn)
    if callable(given):
        return itertools.repeat(given)
    if not isinstance(given, str | bytes) and hasattr(given, "__iter__"):
        return (_raising(item) if _is_exception(item) else _returning(item) for item in given)
    raise InvalidArgument(
        f"the script of step {name!r}: side_effect= needs a function, or a list with a result or an exception for each "
        f"attempt, not {given!r}"
    )


def _is_exception(value: object) -> bool:
    return isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException))


def _returning(value: Any) -> Function:
    return lambda *args, **kwargs: value


def _raising(error: BaseException | type[BaseException]) -> Function:
    def step(*args: Any, **kwargs: Any) -> Any:
        raise error

    return step


class Scripts:
    """Scripts of a test by the names of steps and agents, and all calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._scripts: dict[str, Script] = {}

    def add(self, script: Script) -> None:
        """Add a script, in place of an earlier one of the same step."""
        self._scripts[script.name] = script

    def of(self, call: StepCall) -> Script | None:
        """Return the script of a call; None without one."""
        found = (self._scripts.get(name) for name in names_of(call))
        return next((script for script in found if script is not None), None)

    @property
    def names(self) -> list[str]:
        """The names of the scripted steps and agents."""
        return list(self._scripts)


def name_of(target: Scriptable) -> str:
    """Return the name of a step or agent. Raises InvalidArgument for anything else."""
    if isinstance(target, str):
        return target
    if isinstance(target, Step):
        return target.name
    if callable(getattr(target, "run", None)) and not isinstance(target, Workflow):
        return agent_id(target)
    raise InvalidArgument(f"{target!r} cannot be scripted: pass a step (@rf.step), an agent, or the name of either")


def names_of(call: StepCall) -> Iterator[str]:
    """Yield the names of a call: its own, then that of its step or agent."""
    yield call.name
    owner = call.target.owner
    if isinstance(owner, Step):
        yield owner.origin.name
    elif (agent := agent_of(call)) is not None:
        yield agent_id(agent)


def agent_of(call: StepCall) -> Any:
    """Return the agent of a declared workflow that is called; None for a step."""
    owner = call.target.owner
    return owner.part(call.target.part) if isinstance(owner, Workflow) else None


def recorded(
    function: Function, original: Function, note: Callable[[tuple[Any, ...], dict[str, Any]], None]
) -> Function:
    """Return a function that records its calls, in place of another function."""

    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        note(args, kwargs)
        return function(*args, **kwargs)

    return step
