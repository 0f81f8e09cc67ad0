"""Actor system on threads: actors are plain objects of one process, and their methods run on threads.

It gives the guarantees of a cluster: a call is settled exactly once; the pending calls of a killed actor are settled at
once and their results dropped. Threads cannot be killed, so a killed actor is cut off instead: its next call ends the
calling thread, as the death of its process would, and it receives no more replies.
"""

from __future__ import annotations

import logging
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
from rayflow.runtime.actors.in_process import InProcessSystem
from rayflow.runtime.actors.thread_calls import ActorInstance, Call, ThreadTasks, call_back, check_alive, if_alive

log = logging.getLogger(__name__)

#: Seconds that `close` waits for threads that are still in a call.
JOIN = 5.0


class _Record:
    """One actor: its specification and its current instance."""

    def __init__(self, spec: ActorSpec, instance: ActorInstance) -> None:
        self.spec = spec
        self.instance = instance


class _Handle:
    """A handle on an actor, as one caller holds it.

    Args:
        caller: the actor instance that calls; None for callers outside of actors.
    """

    def __init__(self, system: ThreadSystem, record: _Record, caller: ActorInstance | None) -> None:
        self.name = record.spec.name
        self._system = system
        self._record = record
        self._caller = caller

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """Call and wait."""
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
        """Call without waiting."""
        check_alive(self._caller)
        self._system.submit(self._record, method, args, then=then, group=group, caller=self._caller)


class _View(InProcessSystem):
    """The system as one actor sees it. Once the actor is dead, every use ends the calling thread."""

    def __init__(self, system: ThreadSystem, instance: ActorInstance) -> None:
        self._system = system
        self._instance = instance

    @property
    def identity(self) -> str:
        """Return the identity of the system."""
        return self._system.identity

    @property
    def restarted(self) -> bool:
        """Return whether the system has restarted this actor."""
        return self._instance.restarted

    @property
    def clock(self) -> SystemClock:
        """Return the clock of the system."""
        return self._system.clock

    def spawn(self, spec: ActorSpec) -> Actor:
        """Return the actor of that name; create it if it does not exist."""
        check_alive(self._instance)
        return self._system.handle(self._system.made(spec), self._instance)

    def find(self, name: str) -> Actor:
        """Return the actor of that name."""
        check_alive(self._instance)
        return self._system.handle(self._system.known(name), self._instance)

    def names(self) -> list[str]:
        """Return the names of all actors."""
        check_alive(self._instance)
        return self._system.names()

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Kill an actor."""
        check_alive(self._instance)
        self._system.kill(name, restart=restart)

    def run(self, spec: TaskSpec, then: Callable[[Reply], None]) -> RunningTask:
        """Run a task, which is killed together with this actor."""
        check_alive(self._instance)
        return self._system.run(spec, then, self._instance)


class ThreadSystem(InProcessSystem):
    """All actors of one process. Values are passed by reference, so actors must not change what they receive.

    Args:
        identity: what the system returns as its cluster's identity.

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
        # The calls of dead actors are settled here: neither the killer nor the caller expects to be called back.
        self._callbacks = DaemonThreadPool("callbacks", 2)
        self._tasks = ThreadTasks()

    @property
    def identity(self) -> str:
        """Return the identity that the system was given."""
        return self._identity

    @property
    def clock(self) -> SystemClock:
        """Return the machine's clock."""
        return REAL

    def spawn(self, spec: ActorSpec) -> Actor:
        """Return the actor of that name; create it if it does not exist.

        Raises:
            ClusterError: if the system is closed.
            Exception: whatever the actor's ``__init__`` raised.
        """
        return self.handle(self.made(spec), None)

    def find(self, name: str) -> Actor:
        """Return the actor of that name. Raises ActorLost if it does not exist."""
        return self.handle(self.known(name), None)

    def names(self) -> list[str]:
        """Return the names of all actors, oldest first."""
        with self._lock:
            return list(self._records)

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Kill the actor; with ``restart``, and where its specification allows it, restart it.

        Its pending calls are settled at once: with ActorLost, or with ActorUnavailable if it was restarted.
        """
        with self._lock:
            record = self._records.get(name)
            if record is None:
                return
            again = restart and record.spec.restart
            dead, dead.alive = record.instance, False
            if again:
                record.instance = self._start(record.spec, restarted=True)
            else:
                del self._records[name]
            pending, tasks = list(dead.pending), list(dead.tasks)
        for threads in dead.groups.values():
            threads.close()
        for task in tasks:
            task.cancel(force=True)
        lost = ActorUnavailable if again else ActorLost
        for call in pending:
            self._settle(call, Reply(error=lost(name, "it was killed")), self._callbacks)

    def run(self, spec: TaskSpec, then: Callable[[Reply], None], owner: ActorInstance | None = None) -> RunningTask:
        """Run a task on a thread. The tasks of a killed actor are killed with it.

        Raises:
            ClusterError: if the system is closed.
        """
        view: ActorSystem = self if owner is None else _View(self, owner)
        running = set() if owner is None else owner.tasks
        task = self._tasks.run(view, spec, if_alive(then, owner), running.discard)
        running.add(task)
        return task

    def close(self) -> None:
        """Stop all actors, newest first, and wait a few seconds for their threads."""
        with self._lock:
            self._closed = True
            records = list(reversed(self._records.values()))
        for record in records:
            stop = getattr(record.instance.target, "stop", None)
            if stop is not None:
                try:
                    stop()
                except Exception:
                    log.exception("actor %s failed while it was stopped", record.spec.name)
        for record in records:
            self.kill(record.spec.name)
        self._tasks.close()
        self._callbacks.close()
        deadline = time.monotonic() + JOIN
        groups = [threads for record in records for threads in record.instance.groups.values()]
        running = [name for threads in (*groups, self._callbacks) for name in threads.join(deadline)]
        running += self._tasks.join(deadline)
        if running:
            log.warning("these threads still run and end with the process: %s", ", ".join(running))

    def perform(self, name: str, target: Any, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method of an actor's object. A subclass may delay, fail or repeat calls here."""
        return getattr(target, method)(*args)

    def handle(self, record: _Record, caller: ActorInstance | None) -> Actor:
        """Return a handle for a caller."""
        return _Handle(self, record, caller)

    def known(self, name: str) -> _Record:
        """Return the actor of that name. Raises ActorLost if it does not exist."""
        with self._lock:
            record = self._records.get(name)
        if record is None:
            raise ActorLost(name, "no actor has that name")
        return record

    def made(self, spec: ActorSpec) -> _Record:
        """Return the actor of the specification's name; create it if it does not exist."""
        with self._lock:
            if self._closed:
                raise ClusterError(f"cannot create actor {spec.name!r}: the actor system is closed")
            record = self._records.get(spec.name)
            if record is None:
                record = self._records[spec.name] = _Record(spec, self._start(spec))
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
        """Put a call into the queue of its actor's threads."""
        with self._lock:
            instance = record.instance
            call = Call(instance, None if then is None else if_alive(then, caller))
            threads = instance.groups.get(group)
            if threads is not None and instance.alive:
                instance.pending.add(call)
                if threads.submit(lambda: self._perform(call, method, args)):
                    return call
        if threads is None:
            known = ", ".join(repr(name) for name in instance.groups)
            error: ClusterError = ClusterError(
                f"actor {instance.name!r} has no concurrency group {group!r}; its groups are: {known}"
            )
        else:
            error = ActorLost(instance.name, "it was killed")
        self._settle(call, Reply(error=error), self._callbacks)
        return call

    def _start(self, spec: ActorSpec, *, restarted: bool = False) -> ActorInstance:
        instance = ActorInstance(spec, restarted=restarted)
        view: ActorSystem = _View(self, instance)
        instance.target = spec.cls(view, *spec.args)
        return instance

    def _perform(self, call: Call, method: str, args: tuple[Any, ...]) -> None:
        instance = call.instance
        if not instance.alive:
            return
        try:
            reply = Reply(value=self.perform(instance.name, instance.target, method, args))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            reply = Reply(error=error)
        except BaseException as error:  # noqa: BLE001 - it would end the caller's thread in place of the actor's
            reply = Reply(
                error=ClusterError(f"{method}() of actor {instance.name!r} raised {type(error).__name__}: {error}")
            )
        if instance.alive:
            self._settle(call, reply, None)

    def _settle(self, call: Call, reply: Reply, elsewhere: DaemonThreadPool | None) -> None:
        if not call.settle(reply):
            return
        with self._lock:
            call.instance.pending.discard(call)
        then = call.then
        if then is None:
            return
        if elsewhere is None or not elsewhere.submit(lambda: call_back(then, reply)):
            call_back(then, reply)
