"""Actor system interface: what the runtime requires of the platform that its actors run on.

Two systems implement it: :class:`rayflow.runtime.actors.ray_system.RaySystem` (a Ray cluster) and
:class:`rayflow.runtime.actors.thread_system.ThreadSystem` (one process, for :class:`rayflow.LocalEngine` and tests).

Actors are plain classes; several threads call their methods. An actor's ``__init__`` must neither fail nor block: with
Ray, an exception there is final. Its first argument is the system, followed by ``ActorSpec.args``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, sleep
from typing import Any, NamedTuple, Protocol

from rayflow.errors import ClusterError
from rayflow.runtime.actors.clock import SystemClock


class ActorLost(ClusterError):
    """The actor is dead or never existed; the call may have been executed."""

    def __init__(self, name: str, detail: str = "") -> None:
        self.name = name
        super().__init__(f"actor {name!r} is dead{': ' + detail if detail else ''}")


class ActorUnavailable(ClusterError):
    """The actor cannot be reached at the moment, for example during a restart; the call may have been executed."""

    def __init__(self, name: str, detail: str = "") -> None:
        self.name = name
        super().__init__(f"actor {name!r} is not reachable at the moment{': ' + detail if detail else ''}")


class CallTimeout(ClusterError, TimeoutError):
    """The actor did not reply in time; it may hang or be busy."""

    def __init__(self, name: str, method: str, seconds: float) -> None:
        self.name = name
        self.method = method
        super().__init__(f"actor {name!r} did not reply to {method}() within {seconds:g} s")


class TaskRefused(ClusterError):
    """The options of a task are invalid: the task can never run."""

    def __init__(self, name: str, detail: str) -> None:
        self.name = name
        super().__init__(f"{name} cannot run as a Ray task: {detail}")


class TaskCrashed(ClusterError):
    """The process of a task died while the task ran."""

    def __init__(self, name: str, detail: str = "") -> None:
        self.name = name
        super().__init__(f"the process of task {name!r} died{': ' + detail if detail else ''}")


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """Specification of an actor.

    Args:
        cls: the plain class.
        name: unique in the namespace; actors are found by name.
        args: arguments after the system.
        threads: calls that run at the same time.
        groups: concurrency groups (name to number of threads), for calls that must not wait behind others.
        restart: whether the system restarts the actor, with the same arguments, when it dies.
        num_cpus: CPUs reserved for it.
        num_gpus: GPUs reserved for it.
        memory: bytes of memory reserved for it; None for none.
        resources: custom resources reserved for it.
        pinned: whether it stays on the head node, next to its disk.
        runtime_env: Ray's runtime environment for its process.
    """

    cls: type
    name: str
    args: tuple[Any, ...] = ()
    threads: int = 8
    groups: Mapping[str, int] = field(default_factory=dict)
    restart: bool = False
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    pinned: bool = False
    runtime_env: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Specification of a task: a function that runs once, in its own process.

    Args:
        fn: a module-level function. It receives the system, then ``args``. Where its process cannot be interrupted, it
            also receives the keyword ``cancelled``, a threading.Event that is set when it has to stop.
        name: the task's name in the Ray dashboard.
        args: its arguments.
        options: Ray's options: resources and scheduling strategy.
        runtime_env: Ray's runtime environment for its process.
    """

    fn: Callable[..., Any]
    name: str
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    runtime_env: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a call: a value or an error."""

    value: Any = None
    error: BaseException | None = None


class ObjectRef(NamedTuple):
    """Reference to bytes in the system's shared memory.

    Args:
        handle: the argument of :meth:`ActorSystem.get_object`. It can be sent inside of lists and dictionaries.
        size: number of bytes.
    """

    handle: Any
    size: int


class Envelope(NamedTuple):
    """A message with references to shared memory.

    Args:
        data: the message.
        refs: references to large values that the message mentions, by digest.
    """

    data: bytes
    refs: Mapping[str, ObjectRef]


def as_envelope(received: Any) -> Envelope:
    """Return a received message as an envelope; plain bytes have no references."""
    return received if isinstance(received, Envelope) else Envelope(received, {})


class Actor(Protocol):
    """A handle on an actor. Handles are neither sent nor stored: names are."""

    name: str

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """Call and wait.

        Raises:
            ActorLost: if the actor is dead.
            ActorUnavailable: if the actor cannot be reached at the moment.
            CallTimeout: if no reply arrives within ``timeout`` seconds.
            Exception: whatever the method raised.
        """

    def send(
        self,
        method: str,
        *args: Any,
        then: Callable[[Reply], None] | None = None,
        group: str = "",
        label: str = "",
    ) -> None:
        """Call without waiting.

        Args:
            method: the method's name.
            args: its arguments.
            then: receives the reply exactly once, on any thread. It must be quick; it may send, but not call.
            group: the concurrency group.
            label: the call's name in the Ray dashboard.
        """


class RunningTask(Protocol):
    """A submitted task."""

    def cancel(self, *, force: bool = False) -> None:
        """Stop the task by a KeyboardInterrupt; with ``force``, kill its process."""


class ActorSystem(Protocol):
    """Creates, finds, lists and kills actors, and runs tasks."""

    @property
    def identity(self) -> str:
        """Return the namespace and the cluster in words: the same for all actors until the cluster is restarted."""

    @property
    def restarted(self) -> bool:
        """Return, inside of an actor, whether the system has restarted it."""

    @property
    def clock(self) -> SystemClock:
        """Return the clock of the namespace."""

    @property
    def separate(self) -> bool:
        """Return whether each actor has its own process, which imports its code when it starts."""

    def spawn(self, spec: ActorSpec) -> Actor:
        """Return the actor of that name; create it if it does not exist."""

    def find(self, name: str) -> Actor:
        """Return the actor of that name. Raises ActorLost if it does not exist."""

    def names(self) -> list[str]:
        """Return the names of all actors in the namespace."""

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Kill the actor's process; with ``restart``, let the system restart it. A dead actor is not an error."""

    def cpus(self) -> float:
        """Return the CPUs of the cluster."""

    def nodes(self) -> list[dict[str, float]]:
        """Return all resources of each live node: CPU, GPU, memory (bytes), custom ones. Empty if not counted."""

    def free(self) -> list[dict[str, float]]:
        """Return the resources of each live node that are not reserved."""

    def run(self, spec: TaskSpec, then: Callable[[Reply], None]) -> RunningTask:
        """Run a function once, in its own process, as soon as the cluster has room for it.

        Args:
            spec: the function and what it needs.
            then: receives the reply exactly once, on any thread. TaskCrashed: the process died; ActorLost: the task
                was lost otherwise.

        Raises:
            TaskRefused: if the options are invalid.
            ClusterError: if it cannot be submitted at the moment.
        """

    def put_object(self, data: bytes) -> Any:
        """Put bytes into shared memory, from where actors of other processes can read them.

        They stay as long as this process lives and a process has the handle; nothing durable depends on them.

        Returns:
            A handle; None if the object store has no room at the moment.
        """

    def get_object(self, handle: Any, timeout: float) -> bytes | None:
        """Return the bytes behind a handle; None if they are lost or do not arrive within ``timeout`` seconds."""

    def ensure_package(self, uri: str, fetch: Callable[[], bytes | None]) -> None:
        """Upload a code package unless the cluster has it.

        Args:
            uri: the URI as in ``ActorSpec.runtime_env``.
            fetch: returns its bytes; None if they are lost.

        Raises:
            ClusterError: if the package is lost.
        """


def send_to(
    system: ActorSystem,
    name: str,
    method: str,
    *args: Any,
    then: Callable[[Reply], None] | None = None,
    group: str = "",
    label: str = "",
) -> None:
    """Send to an actor by its name; ``then`` also receives the error of a missing actor."""
    try:
        actor = system.find(name)
    except ActorLost as error:
        if then is not None:
            then(Reply(error=error))
    else:
        actor.send(method, *args, then=then, group=group, label=label)


def call_all(
    system: ActorSystem, names: Sequence[str], method: str, *, timeout: float, group: str = ""
) -> dict[str, Reply]:
    """Call the same method of many actors, and return the replies that arrive within ``timeout`` seconds in all."""
    replies: queue.SimpleQueue[tuple[str, Reply]] = queue.SimpleQueue()

    def put(name: str, reply: Reply) -> None:
        replies.put((name, reply))

    for name in names:
        send_to(system, name, method, then=partial(put, name), group=group)
    found: dict[str, Reply] = {}
    deadline = time.monotonic() + timeout
    while len(found) < len(names):
        try:
            name, reply = replies.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[name] = reply
    return found


def kill_async(system: ActorSystem, name: str, *, restart: bool = False) -> None:
    """Kill an actor on another thread: killing a stopped process takes seconds."""

    def kill() -> None:
        with suppress(SystemExit):  # the calling actor was killed in the meantime
            system.kill(name, restart=restart)

    threading.Thread(target=kill, name="kill", daemon=True).start()


class Channel(Protocol):
    """Request channel from a coordinator to a worker or to the store.

    The only implementation is an actor call. A faster transport can implement the same two members.
    """

    def send(self, request: bytes | Envelope, then: Callable[[Reply], None], label: str = "") -> None:
        """Send a request; ``then`` receives the reply or an error exactly once, on another thread."""

    @property
    def peer(self) -> str:
        """Return the name of the actor at the other end."""


class ActorChannel:
    """Channel over actor calls.

    Args:
        method: its method, which takes and returns bytes or envelopes.
    """

    def __init__(self, actor: Actor, method: str) -> None:
        self._actor = actor
        self._method = method

    @property
    def peer(self) -> str:
        """Return the name of the actor at the other end."""
        return self._actor.name

    def send(self, request: bytes | Envelope, then: Callable[[Reply], None], label: str = "") -> None:
        """Send a request as an actor call."""
        self._actor.send(self._method, request, then=then, label=label)


#: Seconds for which a failed call is repeated: several times the duration of an actor's restart.
RETRY_FOR = 10.0
#: Seconds between two attempts.
RETRY_DELAY = 0.1


class RetryingActor(Actor):
    """Handle on an actor, by name, whose calls outlast a restart of the actor.

    A failed call may have been executed, so only calls that may be executed twice are made through this handle.

    Args:
        stopped: returns whether the caller has stopped, so that a failed call is not repeated.
    """

    def __init__(self, system: ActorSystem, name: str, stopped: Callable[[], bool] = lambda: False) -> None:
        self._system = system
        self.name = name
        self._stopped = stopped

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """Call and wait; repeat the call while the actor cannot be reached."""
        deadline: float | None = None
        while True:
            try:
                return self._system.find(self.name).call(method, *args, timeout=timeout, group=group)
            except (ActorLost, ActorUnavailable) as error:
                deadline = deadline or monotonic() + RETRY_FOR
                # An error with another name was raised by the method itself, about another actor.
                if error.name != self.name or self._stopped() or monotonic() > deadline:
                    raise
                sleep(RETRY_DELAY)

    def send(self, method: str, *args: Any, **how: Any) -> None:
        """Send once, without waiting; ``then`` also receives the error of a missing actor."""
        send_to(self._system, self.name, method, *args, **how)
