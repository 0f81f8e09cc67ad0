"""The seam: what the runtime asks of whatever its actors run on.

Two systems exist: ``rayflow.runtime.actors.ray_system.RaySystem`` (a Ray cluster) and
``rayflow.runtime.actors.thread_system.ThreadSystem`` (one process, for :class:`rayflow.LocalEngine` and for tests).
Actors are plain classes; their methods are called from several threads. An actor's ``__init__`` must not fail and must
not take long: with Ray, an exception there is final. The first argument of each is the system itself, then
``ActorSpec.args``.
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
    """The actor is dead (or never was); the call may or may not have been executed."""

    def __init__(self, name: str, detail: str = "") -> None:
        self.name = name
        super().__init__(f"actor {name!r} is gone{': ' + detail if detail else ''}")


class ActorUnavailable(ClusterError):
    """The actor cannot be reached now (it restarts); the call may or may not have been executed."""

    def __init__(self, name: str, detail: str = "") -> None:
        self.name = name
        super().__init__(f"actor {name!r} cannot be reached now{': ' + detail if detail else ''}")


class CallTimeout(ClusterError, TimeoutError):
    """The actor did not answer in time; it may be hung, or only busy."""

    def __init__(self, name: str, method: str, seconds: float) -> None:
        self.name = name
        self.method = method
        super().__init__(f"actor {name!r} did not answer {method}() within {seconds:g} s")


class TaskRefused(ClusterError):
    """A task's options do not fit: it can never run."""

    def __init__(self, name: str, detail: str) -> None:
        self.name = name
        super().__init__(f"{name} cannot run as a Ray task: {detail}")


class TaskCrashed(ClusterError):
    """The process of a task died while it ran."""

    def __init__(self, name: str, detail: str = "") -> None:
        self.name = name
        super().__init__(f"the process of task {name!r} died{': ' + detail if detail else ''}")


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """How an actor is made.

    Args:
        cls: the plain class.
        name: unique in the namespace; it is how the actor is found again.
        args: arguments after the system.
        threads: calls that run at once.
        groups: separate sets of threads, by name, for calls that must not wait behind others.
        restart: let the system make it anew, by the same arguments, when it dies.
        num_cpus: CPUs reserved for it.
        num_gpus: GPUs reserved for it.
        memory: bytes of memory reserved for it; None for none.
        resources: custom resources reserved for it.
        pinned: keep it on the head node, beside its disk.
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
    """How a function runs once, in a process of its own.

    Args:
        fn: a function of a module; it gets the system, then ``args``, and, where nothing can interrupt it, the
            keyword ``cancelled``: a threading.Event that is set when it is to stop.
        name: what the task is called in the Ray dashboard.
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
    """How a call ended: a value, or an error."""

    value: Any = None
    error: BaseException | None = None


class ObjectRef(NamedTuple):
    """Bytes in the system's own memory.

    Args:
        handle: what :meth:`ActorSystem.fetch` takes. It may be sent on inside of lists and dictionaries.
        size: how many bytes there are.
    """

    handle: Any
    size: int


class Envelope(NamedTuple):
    """What goes over a line where more than bytes do.

    Args:
        data: the bytes.
        held: what they refer to that is in the system's own memory, by digest.
    """

    data: bytes
    held: Mapping[str, ObjectRef]


def opened(received: Any) -> Envelope:
    """What came over a line: bytes alone, or a parcel."""
    return received if isinstance(received, Envelope) else Envelope(received, {})


class Actor(Protocol):
    """A handle on an actor. Handles are not sent around or stored: names are."""

    name: str

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """Call and wait.

        Raises:
            ActorLost: it is dead.
            ActorUnavailable: it cannot be reached now.
            CallTimeout: no answer within ``timeout`` seconds.
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
        """Call without waiting; ``then`` gets the reply, on some thread of the system's.

        ``then`` must be quick; it may send, but not call.

        Args:
            method: the method's name.
            args: its arguments.
            then: told how it ended, exactly once.
            group: the set of threads it runs on.
            label: what the call is called in the Ray dashboard.
        """


class RunningTask(Protocol):
    """A task that was submitted."""

    def cancel(self, *, force: bool = False) -> None:
        """Ask it to stop, by a KeyboardInterrupt where it runs; with ``force`` kill its process."""


class ActorSystem(Protocol):
    """Makes, finds, lists and kills actors, and runs tasks."""

    @property
    def identity(self) -> str:
        """Which namespace of which cluster this is, in words: the same for all actors of one life of the cluster."""

    @property
    def restarted(self) -> bool:
        """Inside of an actor: whether the system has made it anew."""

    @property
    def clock(self) -> SystemClock:
        """The time that everything in this system goes by."""

    @property
    def separate(self) -> bool:
        """Whether each actor has a process of its own, which imports its code when it is made."""

    def spawn(self, spec: ActorSpec) -> Actor:
        """The actor of that name: the one there is, or a new one."""

    def find(self, name: str) -> Actor:
        """The actor of that name. Raises ActorLost if there is none."""

    def names(self) -> list[str]:
        """Names of all actors in the namespace."""

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Kill the actor's process; with ``restart`` let the system make it anew. No error if it is gone."""

    def cpus(self) -> float:
        """CPUs of the cluster."""

    def nodes(self) -> list[dict[str, float]]:
        """What each live node has in all: CPU, GPU, memory (bytes), custom resources. Empty if nobody counts them."""

    def free(self) -> list[dict[str, float]]:
        """What each live node has left: as :meth:`nodes`, less what is reserved."""

    def run(self, spec: TaskSpec, then: Callable[[Reply], None]) -> RunningTask:
        """Run a function once, in a process of its own, as soon as there is room for it.

        Args:
            spec: what runs, and what it needs.
            then: told how it ended, exactly once, on some thread: TaskCrashed if its process died by itself,
                ActorLost if it was lost otherwise.

        Raises:
            TaskRefused: its options do not fit.
            ClusterError: it cannot be submitted now.
        """

    def hold(self, data: bytes) -> Any:
        """Put bytes into the system's own memory, where actors of other processes can have them.

        They are there as long as this process lives and anybody has the handle; nothing durable depends on them.

        Returns:
            A handle; None if there is no room now.
        """

    def fetch(self, handle: Any, timeout: float) -> bytes | None:
        """The bytes behind a handle; None if they are lost, or not here within ``timeout`` seconds."""

    def provide(self, uri: str, fetch: Callable[[], bytes | None]) -> None:
        """Make a package of code available under its URI, if it is not.

        Args:
            uri: as ``ActorSpec.runtime_env`` names it.
            fetch: answers its bytes; None if they are lost.

        Raises:
            ClusterError: they are lost.
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
    """Send to an actor by its name; that there is none is told to ``then``, like any other error.

    Args:
        system: where it is found.
        name: its name.
        method: as for :meth:`Actor.send`, like the arguments after it.
        args: see there.
        then: see there.
        group: see there.
        label: see there.
    """
    try:
        actor = system.find(name)
    except ActorLost as error:
        if then is not None:
            then(Reply(error=error))
    else:
        actor.send(method, *args, then=then, group=group, label=label)


def ask_all(
    system: ActorSystem, names: Sequence[str], method: str, *, timeout: float, group: str = ""
) -> dict[str, Reply]:
    """Ask many actors the same at once; answers the replies that came in time.

    Args:
        system: where they are found.
        names: their names.
        method: as for :meth:`Actor.send`.
        timeout: seconds to wait for all of them together.
        group: as for :meth:`Actor.send`.
    """
    replies: queue.SimpleQueue[tuple[str, Reply]] = queue.SimpleQueue()

    def put(name: str, reply: Reply) -> None:
        replies.put((name, reply))

    for name in names:
        send_to(system, name, method, then=partial(put, name), group=group)
    found: dict[str, Reply] = {}
    give_up = time.monotonic() + timeout
    while len(found) < len(names):
        try:
            name, reply = replies.get(timeout=max(0.0, give_up - time.monotonic()))
        except queue.Empty:
            break
        found[name] = reply
    return found


def kill_async(system: ActorSystem, name: str, *, restart: bool = False) -> None:
    """Kill an actor without waiting for it: killing a process that is stopped takes seconds.

    Args:
        system: where it is found.
        name: its name.
        restart: let the system make it anew.
    """

    def kill() -> None:
        with suppress(SystemExit):  # whoever asked was killed meanwhile
            system.kill(name, restart=restart)

    threading.Thread(target=kill, name="kill", daemon=True).start()


class Channel(Protocol):
    """One way from a coordinator to a worker or to the store: bytes there, bytes back, or parcels.

    The only road today is an actor call; a faster one can be put behind the same two methods.
    """

    def send(self, request: bytes | Envelope, then: Callable[[Reply], None], label: str = "") -> None:
        """Send a request; ``then`` gets the reply, or an error, exactly once, on some other thread."""

    @property
    def peer(self) -> str:
        """Name of the actor at the other end."""


class ActorChannel:
    """A line that is an actor call.

    Args:
        actor: who is called.
        method: its method, which takes and returns bytes, or parcels.
    """

    def __init__(self, actor: Actor, method: str) -> None:
        self._actor = actor
        self._method = method

    @property
    def peer(self) -> str:
        """Name of the actor at the other end."""
        return self._actor.name

    def send(self, request: bytes | Envelope, then: Callable[[Reply], None], label: str = "") -> None:
        """See :class:`Channel`."""
        self._actor.send(self._method, request, then=then, label=label)


#: Seconds for which a call is sent again: several times what the system takes to make an actor anew.
PATIENCE = 10.0
#: Seconds between two of them.
AGAIN = 0.1


class RetryingActor(Actor):
    """An actor by its name, also while it restarts.

    Since a call that failed may have been executed, only what may be done twice is called like this.

    Args:
        system: where it is found.
        name: its name.
        over: whether nobody is to wait any more.
    """

    def __init__(self, system: ActorSystem, name: str, over: Callable[[], bool] = lambda: False) -> None:
        self._system = system
        self.name = name
        self._over = over

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """Call and wait, and again while it cannot be reached. See :meth:`Actor.call`."""
        give_up: float | None = None
        while True:
            try:
                return self._system.find(self.name).call(method, *args, timeout=timeout, group=group)
            except (ActorLost, ActorUnavailable) as error:
                give_up = give_up or monotonic() + PATIENCE
                # One that the method raised itself is about another actor.
                if error.name != self.name or self._over() or monotonic() > give_up:
                    raise
                sleep(AGAIN)

    def send(self, method: str, *args: Any, **how: Any) -> None:
        """Call once, without waiting; that there is none is told to ``then``. See :meth:`Actor.send`."""
        send_to(self._system, self.name, method, *args, **how)
