"""The actor system of one process: actors are plain objects, and their methods run on threads.

What a cluster promises is kept: a call is answered exactly once; the calls of an actor that was killed, and those
that still run, are answered at once and their results dropped. Daemons cannot be killed, so an actor that was
killed is cut off instead: what it still tries to call ends its thread, as the death of its process would, and
nobody answers it any more.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import (
    Actor,
    ActorLost,
    ActorSpec,
    ActorSystem,
    ActorUnavailable,
    CallTimeout,
    Reply,
    RunningTask,
    TaskSpec,
)
from rayflow.runtime.actors.clock import REAL, SystemClock
from rayflow.runtime.actors.daemon_threads import DaemonThreadPool
from rayflow.runtime.actors.thread_calls import ActorInstance, Call, ThreadTasks, check_alive, tell, unless_dead

log = logging.getLogger(__name__)

#: Seconds that closing the system waits for threads that are still in a call.
JOIN = 5.0


class _Record:
    """One actor: its specification, and the object that it is at present."""

    def __init__(self, spec: ActorSpec, life: ActorInstance) -> None:
        self.spec = spec
        self.life = life


class _Handle:
    """A handle on an actor, as one caller holds it.

    Args:
        system: the system.
        record: who is called.
        caller: the life that calls; None for the world outside the actors.
    """

    def __init__(self, system: ThreadSystem, record: _Record, caller: ActorInstance | None) -> None:
        self.name = record.spec.name
        self._system = system
        self._record = record
        self._caller = caller

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """See :class:`~rayflow.runtime.actors.base.Actor`."""
        check_alive(self._caller)
        call = self._system.submit(self._record, method, args, group=group, caller=self._caller)
        if not call.settled.wait(timeout):
            raise CallTimeout(self.name, method, timeout or 0.0)
        check_alive(self._caller)
        if call.reply.error is not None:
            raise call.reply.error
        return call.reply.value

    def send(
        self,
        method: str,
        *args: Any,
        then: Callable[[Reply], None] | None = None,
        group: str = "",
        label: str = "",
    ) -> None:
        """See :class:`~rayflow.runtime.actors.base.Actor`."""
        check_alive(self._caller)
        self._system.submit(self._record, method, args, then=then, group=group, caller=self._caller)


class _View:
    """The system as one actor sees it: while it lives, everything; after its death, nothing."""

    def __init__(self, system: ThreadSystem, life: ActorInstance) -> None:
        self._system = system
        self._life = life

    @property
    def identity(self) -> str:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        return self._system.identity

    @property
    def restarted(self) -> bool:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        return self._life.restarted

    @property
    def separate(self) -> bool:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        return self._system.separate

    @property
    def clock(self) -> SystemClock:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        return self._system.clock

    def spawn(self, spec: ActorSpec) -> Actor:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        check_alive(self._life)
        return self._system.handle(self._system.made(spec), self._life)

    def find(self, name: str) -> Actor:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        check_alive(self._life)
        return self._system.handle(self._system.known(name), self._life)

    def names(self) -> list[str]:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        check_alive(self._life)
        return self._system.names()

    def kill(self, name: str, *, restart: bool = False) -> None:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        check_alive(self._life)
        self._system.kill(name, restart=restart)

    def hold(self, data: bytes) -> Any:
        """See ActorSystem: in one process, bytes are their own handle."""
        return data

    def fetch(self, handle: Any, timeout: float) -> bytes | None:
        """See ActorSystem."""
        data: bytes = handle
        return data

    def provide(self, uri: str, fetch: Callable[[], bytes | None]) -> None:
        """Nothing: all actors are in this process, whose code is there."""

    def cpus(self) -> float:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        return self._system.cpus()

    def nodes(self) -> list[dict[str, float]]:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        return self._system.nodes()

    def free(self) -> list[dict[str, float]]:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        return self._system.free()

    def run(self, spec: TaskSpec, then: Callable[[Reply], None]) -> RunningTask:
        """See :class:`~rayflow.runtime.actors.base.ActorSystem`."""
        check_alive(self._life)
        return self._system.run(spec, then, self._life)


class ThreadSystem:
    """See the module's docstring. Values are passed by reference, so actors must not change what they are given.

    Args:
        identity: what the system answers as its cluster's identity.

    Example:
        >>> class Echo:
        ...     def __init__(self, system: ActorSystem) -> None: ...
        ...     def say(self, word: str) -> str:
        ...         return word
        >>> system = ThreadSystem()
        >>> system.spawn(ActorSpec(Echo, "echo")).call("say", "hello")
        'hello'
        >>> system.close()
    """

    def __init__(self, identity: str = "local") -> None:
        self._identity = identity
        self._records: dict[str, _Record] = {}
        # Re-entrant: an actor's __init__ may spawn and find others.
        self._lock = threading.RLock()
        self._closed = False
        # Calls of the dead are answered here: neither the killer nor the caller expects to be called back.
        self._answers = DaemonThreadPool("answers", 2)
        self._tasks = ThreadTasks()

    @property
    def identity(self) -> str:
        """The identity that it was given."""
        return self._identity

    @property
    def restarted(self) -> bool:
        """No: this is the world outside of the actors."""
        return False

    @property
    def separate(self) -> bool:
        """No: all of them have what this process has imported."""
        return False

    @property
    def clock(self) -> SystemClock:
        """The machine's clock."""
        return REAL

    def spawn(self, spec: ActorSpec) -> Actor:
        """The actor of that name: the one there is, or a new one.

        Raises:
            ClusterError: the system is closed.
            Exception: whatever the actor's ``__init__`` raised.
        """
        return self.handle(self.made(spec), None)

    def find(self, name: str) -> Actor:
        """The actor of that name. Raises ActorLost if there is none."""
        return self.handle(self.known(name), None)

    def names(self) -> list[str]:
        """Names of all actors, oldest first."""
        with self._lock:
            return list(self._records)

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Kill the actor; with ``restart``, and where its specification allows it, make it anew.

        Its calls are answered at once: ActorLost, or ActorUnavailable if it was made anew.
        """
        with self._lock:
            record = self._records.get(name)
            if record is None:
                return
            again = restart and record.spec.restart
            dead, dead.alive = record.life, False
            if again:
                record.life = self._begin(record.spec, restarted=True)
            else:
                del self._records[name]
            pending, tasks = list(dead.pending), list(dead.tasks)
        for threads in dead.groups.values():
            threads.close()
        for task in tasks:
            task.cancel(force=True)
        lost = ActorUnavailable if again else ActorLost
        for call in pending:
            self._settle(call, Reply(error=lost(name, "it was killed")), self._answers)

    def hold(self, data: bytes) -> Any:
        """See ActorSystem: in one process, bytes are their own handle."""
        return data

    def fetch(self, handle: Any, timeout: float) -> bytes | None:
        """See ActorSystem."""
        data: bytes = handle
        return data

    def provide(self, uri: str, fetch: Callable[[], bytes | None]) -> None:
        """Nothing: all actors are in this process, whose code is there."""

    def cpus(self) -> float:
        """CPUs of this machine."""
        return float(os.cpu_count() or 1)

    def nodes(self) -> list[dict[str, float]]:
        """Nothing: nobody counts resources here."""
        return []

    def free(self) -> list[dict[str, float]]:
        """Nothing, as for :meth:`nodes`."""
        return []

    def run(self, spec: TaskSpec, then: Callable[[Reply], None], owner: ActorInstance | None = None) -> RunningTask:
        """See ActorSystem. The tasks of an actor that is killed are killed as well.

        Raises:
            ClusterError: the system is closed.
        """
        view: ActorSystem = self if owner is None else _View(self, owner)
        running = set() if owner is None else owner.tasks
        task = self._tasks.run(view, spec, unless_dead(then, owner), running.discard)
        running.add(task)
        return task

    def close(self) -> None:
        """Stop all actors, newest first, and wait for their threads: at most a few seconds."""
        with self._lock:
            self._closed = True
            records = list(reversed(self._records.values()))
        for record in records:
            stop = getattr(record.life.target, "stop", None)
            if stop is not None:
                try:
                    stop()
                except Exception:
                    log.exception("actor %s did not stop cleanly", record.spec.name)
        for record in records:
            self.kill(record.spec.name)
        self._tasks.close()
        self._answers.close()
        deadline = time.monotonic() + JOIN
        groups = [threads for record in records for threads in record.life.groups.values()]
        running = [name for threads in (*groups, self._answers) for name in threads.join(deadline)]
        running += self._tasks.join(deadline)
        if running:
            log.warning("threads that still run end with the process: %s", ", ".join(running))

    def perform(self, name: str, target: Any, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method of an actor's object. The one place where a subclass delays, fails or repeats calls."""
        return getattr(target, method)(*args)

    # --- what handles and views call -----------------------------------------------------------------------
    def handle(self, record: _Record, caller: ActorInstance | None) -> Actor:
        """A handle for a caller."""
        return _Handle(self, record, caller)

    def known(self, name: str) -> _Record:
        """The actor of that name. Raises ActorLost if there is none."""
        with self._lock:
            record = self._records.get(name)
        if record is None:
            raise ActorLost(name, "there is no actor of that name")
        return record

    def made(self, spec: ActorSpec) -> _Record:
        """The actor of the specification's name; made now if there is none."""
        with self._lock:
            if self._closed:
                raise ClusterError(f"cannot make actor {spec.name!r}: the system is closed")
            record = self._records.get(spec.name)
            if record is None:
                record = self._records[spec.name] = _Record(spec, self._begin(spec))
            return record

    def submit(
        self,
        record: _Record,
        method: str,
        args: tuple[Any, ...],
        *,
        then: Callable[[Reply], None] | None = None,
        group: str,
        caller: ActorInstance | None,
    ) -> Call:
        """Put a call on its actor's threads."""
        with self._lock:
            life = record.life
            call = Call(life, None if then is None else unless_dead(then, caller))
            threads = life.groups.get(group)
            if threads is not None and life.alive:
                life.pending.add(call)
                if threads.submit(lambda: self._perform(call, method, args, threads)):
                    return call
        if threads is None:
            known = ", ".join(repr(name) for name in life.groups)
            error: ClusterError = ClusterError(
                f"actor {life.name!r} has no group {group!r} of threads; it has: {known}"
            )
        else:
            error = ActorLost(life.name, "it was killed")
        self._settle(call, Reply(error=error), self._answers)
        return call

    # --- inside --------------------------------------------------------------------------------------------
    def _begin(self, spec: ActorSpec, *, restarted: bool = False) -> ActorInstance:
        life = ActorInstance(spec, restarted=restarted)
        view: ActorSystem = _View(self, life)
        life.target = spec.cls(view, *spec.args)
        return life

    def _perform(self, call: Call, method: str, args: tuple[Any, ...], threads: DaemonThreadPool) -> None:
        life = call.life
        if not life.alive:
            return
        try:
            reply = Reply(value=self.perform(life.name, life.target, method, args))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            reply = Reply(error=error)
        except BaseException as error:  # noqa: BLE001 - it would end the caller's thread in place of the actor's
            reply = Reply(
                error=ClusterError(f"{method}() of actor {life.name!r} raised {type(error).__name__}: {error}")
            )
        if life.alive:
            self._settle(call, reply, None)

    def _settle(self, call: Call, reply: Reply, elsewhere: DaemonThreadPool | None) -> None:
        if not call.settle(reply):
            return
        with self._lock:
            call.life.pending.discard(call)
        then = call.then
        if then is None:
            return
        if elsewhere is None or not elsewhere.submit(lambda: tell(then, reply)):
            tell(then, reply)
