"""What steps answer in a test, instead of what they would do, and a record of how they were called."""

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
        step: the name under which it was called, as a snapshot shows it.
        target: the name of the step, or the id of the agent.
        args: what it was called with.
        kwargs: the same, by name.
        execution_id: in which execution.
        attempt: the number of the attempt, from 1.
        at: when it began, in seconds since the epoch by the test's clock.
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
    """What a step answers. Made by :meth:`TestEngine.script`.

    Args:
        name: whose.
        answers: what it does at each attempt from now on; it is used up when there is none any more.
        takes: seconds of virtual time that each attempt takes.
        calls: the attempts so far.
    """

    name: str
    answers: Iterator[Function | None] = field(repr=False)
    takes: float = 0.0
    calls: list[Call] = field(default_factory=list)


class _Unsaid:
    """Nothing was given, which is not the same as None."""


UNSAID = _Unsaid()


def made(name: str, returns: Any, raises: Any, side_effect: Any, takes: float) -> Script:
    """The script of what somebody said.

    Args:
        name: whose it is.
        returns: what each attempt returns.
        raises: the exception (or its class) that each attempt raises.
        side_effect: a function that is called in the step's place, or an iterable with one result or exception for
            each attempt.
        takes: seconds of virtual time that each attempt takes.

    Raises:
        InvalidArgument: it does not fit.
    """
    said = [given for given in (returns, raises, side_effect) if given is not UNSAID]
    if len(said) > 1 or (not said and not takes):
        raise InvalidArgument(
            f"the script of step {name!r} needs one of returns=, raises= and side_effect=, and has {len(said)} of them"
        )
    if takes < 0:
        raise InvalidArgument(f"the script of step {name!r}: takes={takes} is negative; it is in seconds")
    if raises is not UNSAID and not _is_exception(raises):
        raise InvalidArgument(f"the script of step {name!r}: raises= needs an exception or its class, not {raises!r}")
    if returns is not UNSAID:
        return Script(name, itertools.repeat(_answering(returns)), takes)
    if raises is not UNSAID:
        return Script(name, itertools.repeat(_raising(raises)), takes)
    if side_effect is UNSAID:
        return Script(name, itertools.repeat(None), takes)  # only its time is another one
    return Script(name, _effects(name, side_effect), takes)


def _effects(name: str, given: Function | Iterable[Any]) -> Iterator[Function]:
    if isinstance(given, Step):
        return itertools.repeat(given.fn)
    if callable(given):
        return itertools.repeat(given)
    if not isinstance(given, str | bytes) and hasattr(given, "__iter__"):
        return (_raising(item) if _is_exception(item) else _answering(item) for item in given)
    raise InvalidArgument(
        f"the script of step {name!r}: side_effect= needs a function, or a list with a result or an exception for each "
        f"attempt, not {given!r}"
    )


def _is_exception(value: object) -> bool:
    return isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException))


def _answering(value: Any) -> Function:
    return lambda *args, **kwargs: value


def _raising(error: BaseException | type[BaseException]) -> Function:
    def step(*args: Any, **kwargs: Any) -> Any:
        raise error

    return step


# --- which script is whose ----------------------------------------------------------------------------------
class Scripts:
    """The scripts of a test, by the names of steps and agents, and all calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._scripts: dict[str, Script] = {}

    def add(self, script: Script) -> None:
        """Use a script from now on, in the place of an earlier one."""
        self._scripts[script.name] = script

    def of(self, call: StepCall) -> Script | None:
        """The script of a call, if there is one."""
        found = (self._scripts.get(name) for name in names_of(call))
        return next((script for script in found if script is not None), None)

    @property
    def names(self) -> list[str]:
        """Whom there are scripts for."""
        return list(self._scripts)


def name_of(target: Scriptable) -> str:
    """The name of what is scripted. Raises InvalidArgument if it is neither a step nor an agent."""
    if isinstance(target, str):
        return target
    if isinstance(target, Step):
        return target.name
    if callable(getattr(target, "run", None)) and not isinstance(target, Workflow):
        return agent_id(target)
    raise InvalidArgument(f"{target!r} cannot be scripted: give a step (@rf.step), an agent, or the name of one")


def names_of(call: StepCall) -> Iterator[str]:
    """The names by which a call is known: its own, then that of the step or agent that it calls."""
    yield call.name
    owner = call.target.owner
    if isinstance(owner, Step):
        yield owner.origin.name
    elif (agent := agent_of(call)) is not None:
        yield agent_id(agent)


def agent_of(call: StepCall) -> Any:
    """The agent of a declared workflow that is called; None if a step is."""
    owner = call.target.owner
    return owner.part(call.target.part) if isinstance(owner, Workflow) else None


def noted(function: Function, original: Function, note: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> Function:
    """A function in the place of another one, which notes how it is called."""

    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        note(args, kwargs)
        return function(*args, **kwargs)

    return step
