"""Agents: what declared steps call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, overload

from rayflow.definition.base import Definition, making_module
from rayflow.definition.checks import check_function, check_name, check_options, default_name, signature_of
from rayflow.definition.step import Step
from rayflow.errors import DefinitionError, Failure, TerminalError
from rayflow.ids import Clock


class AgentLike(Protocol):
    """Anything with ``run(input)``, plain or ``async``, is an agent.

    It is known by its ``id`` if it has one, else by its ``name``, else by the name of its class.
    """

    def run(self, value: Any, /) -> Any:
        """Answer the output, an :class:`AgentOutput` or an :class:`AgentResult`, or a coroutine of one of them."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that a call of an agent used.

    Args:
        input_tokens: tokens read.
        output_tokens: tokens written.
    """

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Tokens read and written."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@dataclass(frozen=True, slots=True)
class AgentOutput:
    """Result of an agent's function that reports token usage in addition to its output.

    Example:
        >>> async def summarise(text: str) -> AgentOutput:
        ...     return AgentOutput(text[:20], usage=TokenUsage(input_tokens=120, output_tokens=8))
    """

    output: Any
    usage: TokenUsage = field(default_factory=TokenUsage)


@dataclass(frozen=True, slots=True)
class AgentResult:
    """What one call of an agent came to.

    Args:
        agent_id: the agent's id.
        input: what it was given.
        output: what it answered; None if it failed.
        error: how it failed; None if it did not.
        start_time: seconds since the epoch (of the event loop's own clock outside an execution).
        end_time: likewise.
        usage: tokens, as far as the agent reported them.
    """

    agent_id: str
    input: Any = None
    output: Any = None
    error: Failure | None = None
    start_time: float = 0.0
    end_time: float = 0.0
    usage: TokenUsage = field(default_factory=TokenUsage)

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.end_time - self.start_time


class Agent(Definition):
    """An agent made of a function.

    Args:
        id: the agent's id.
        run: called with the input; plain or ``async``. It returns the output, an :class:`AgentOutput` (to report
            token usage), or a whole :class:`AgentResult`.
        name: for people; the id if left out.
        description: what it does, for people; the function's docstring if left out.

    Raises:
        DefinitionError: the id is empty, or ``run`` cannot be called with one argument.

    Example:
        >>> Agent("shout", run=str.upper).run("hello")
        'HELLO'
    """

    fn: Callable[[Any], Any]

    def __init__(self, id: str, run: Callable[[Any], Any], *, name: str = "", description: str = "") -> None:
        self.id = check_name("agent id", id)
        self.name = name or id
        self.fn = check_function("agent", run)
        takes_one_argument(f"agent {id!r}", run)
        self.description = description or inspect.getdoc(run) or ""
        self.home = making_module()

    def run(self, value: Any, /) -> Any:
        """Call the function: its answer, or a coroutine of it."""
        return self.fn(value)

    def __call__(self, value: Any, /) -> Any:
        """As :meth:`run`: a decorated function still is one."""
        return self.fn(value)

    def __repr__(self) -> str:
        return f"<agent {self.id!r} of {self.fn!r}>"


class AgentDecorator(Protocol):
    """Decorator that ``rf.agent(...)`` with options returns."""

    def __call__(self, fn: Callable[[Any], Any], /) -> Agent:
        """Make an agent of a function."""


@overload
def agent(fn: Callable[[Any], Any], /) -> Agent: ...
@overload
def agent(*, id: str = ..., name: str = ..., description: str = ...) -> AgentDecorator: ...
def agent(fn: Callable[[Any], Any] | None = None, /, **options: str) -> Any:
    """Make an :class:`Agent` of a function of one argument.

    Args:
        fn: the function; left out in ``@rf.agent(...)`` with options.
        options: ``id`` (default: the function's name), ``name``, ``description``.

    Raises:
        DefinitionError: an option is unknown, or the function does not fit.
    """
    check_options("agent", options, ("id", "name", "description"))

    def make(function: Callable[[Any], Any]) -> Agent:
        given = dict(options)
        identity = given.pop("id", None)
        if identity is None:
            identity = default_name("agent", check_function("agent", function), "id")
        return Agent(identity, function, **given)

    return make if fn is None else make(fn)


async def run_agent(agent: Any, value: Any, clock: Clock) -> AgentResult:
    """Call an agent and say what it came to. What it raises passes through: the attempt has failed.

    A plain (not ``async``) agent runs in the calling thread and blocks its event loop until the agent returns.

    Args:
        agent: an agent, or a Step whose function takes one argument.
        value: the agent's input.
        clock: where the times come from.

    Raises:
        TerminalError: the agent answered an AgentResult with an error that is not to be retried.
        RuntimeError: … with another error.
    """
    run = agent.fn if isinstance(agent, Step) else agent.run
    began = clock()
    answer = run(value)
    if inspect.isawaitable(answer):
        answer = await answer
    result = AgentResult(agent_id(agent), value, start_time=began, end_time=clock())
    if isinstance(answer, AgentOutput):
        return replace(result, output=answer.output, usage=answer.usage)
    if not isinstance(answer, AgentResult):
        return replace(result, output=answer)
    if answer.error is not None:
        raise (RuntimeError if answer.error.retryable else TerminalError)(str(answer.error))
    return answer


def agent_id(agent: Any) -> str:
    """Return the id of any agent: its ``id``, else its ``name``, else its class's name."""
    found = getattr(agent, "id", None) or getattr(agent, "name", None) or type(agent).__name__
    return str(found)


def check_agent(where: str, agent: object) -> None:
    """Raise DefinitionError if ``agent`` is not an agent.

    Args:
        where: which step it was given to, for the message.
        agent: the given object.
    """
    if isinstance(agent, Step):
        takes_one_argument(f"{where}: as an agent, step {agent.name!r}", agent.fn)
    elif isinstance(agent, type):
        raise DefinitionError(f"{where}: {agent.__name__} is a class; pass an instance of it")
    elif isinstance(agent, Definition) and not isinstance(agent, Agent):
        raise DefinitionError(f"{where}: a {type(agent).__name__} cannot be an agent; pass an agent or a step")
    elif not callable(getattr(agent, "run", None)):
        hint = "; put @rf.agent on it, or @rf.step" if callable(agent) else ""
        raise DefinitionError(f"{where}: {agent!r} is not an agent: it has no run(input){hint}")
    else:
        check_name(f"{where}: agent id", agent_id(agent))


def takes_one_argument(what: str, fn: Callable[..., Any]) -> None:
    """Raise DefinitionError if ``fn`` cannot be called with exactly one positional argument."""
    signature = signature_of("agent", fn)
    try:
        signature.bind(None)
    except TypeError:
        raise DefinitionError(f"{what} is called with one argument, its input, but takes {signature}") from None
