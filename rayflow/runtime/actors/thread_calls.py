"""Pending calls and tasks of the thread actor system, and how they end.

Every call and every task is settled exactly once: by its result, or by the death of its actor. Threads cannot be
killed, so the result of a killed actor or task is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import ActorLost, ActorSpec, ActorSystem, Reply, TaskCrashed, TaskSpec
from rayflow.runtime.actors.daemon_threads import DaemonThreadPool

log = logging.getLogger(__name__)

#: Tasks that run at the same time.
_MAX_TASKS = 1_000

#: Guards the first reply of every call; it is held for an instant.
_settling = threading.Lock()


class ActorInstance:
    """One object of an actor, from its creation to its death, with the calls that are pending."""

    def __init__(self, spec: ActorSpec, *, restarted: bool) -> None:
        self.name = spec.name
        self.restarted = restarted
        self.target: Any = None
        self.alive = True
        self.pending: set[Call] = set()
        self.tasks: set[ThreadTask] = set()
        self.groups = {group: DaemonThreadPool(f"{spec.name}/{group}", n) for group, n in spec.groups.items()}
        self.groups[""] = DaemonThreadPool(spec.name, spec.threads)


class Call:
    """A pending call. It is settled once, by its reply or by the death of the actor."""

    def __init__(self, instance: ActorInstance, then: Callable[[Reply], None] | None) -> None:
        self.instance = instance
        self.then = then
        self.reply = Reply()
        self._first = True
        self.settled = threading.Event()

    def settle(self, reply: Reply) -> bool:
        """Store the reply, and return whether it was the first one."""
        with _settling:
            if not self._first:
                return False
            self._first = False
            self.reply = reply
        self.settled.set()
        return True


def check_alive(caller: ActorInstance | None) -> None:
    """End the current thread if it belongs to an actor that was killed."""
    if caller is not None and not caller.alive:
        # Threads end quietly by this very class, and by none that is derived from it.
        raise SystemExit(f"actor {caller.name!r} was killed")


def if_alive(then: Callable[[Reply], None], caller: ActorInstance | None) -> Callable[[Reply], None]:
    """Return a callback that does nothing once the actor that it belongs to was killed."""

    def guarded(reply: Reply) -> None:
        if caller is None or caller.alive:
            then(reply)

    return guarded


def call_back(then: Callable[[Reply], None], reply: Reply) -> None:
    """Call back, and log what the callback raises."""
    try:
        then(reply)
    except SystemExit:
        return  # the callback belongs to an actor that was killed in the meantime
    except Exception:
        log.exception("the callback of a call failed")


class ThreadTask:
    """A submitted task."""

    def __init__(self, name: str, then: Callable[[Reply], None], tasks: ThreadTasks) -> None:
        self.cancelled = threading.Event()
        self._name = name
        self._then: Callable[[Reply], None] | None = then
        self._tasks = tasks
        self._lock = threading.Lock()

    def cancel(self, *, force: bool = False) -> None:
        """Set the event ``cancelled``; with ``force``, settle the task at once as killed."""
        self.cancelled.set()
        if force:
            reply = Reply(error=ActorLost(self._name, "it was killed"))
            # On another thread: the caller does not expect to be called back.
            self._tasks.call_back_later(lambda: self.settle(reply))

    def settle(self, reply: Reply) -> None:
        """Pass on the first reply; ignore later ones."""
        with self._lock:
            then, self._then = self._then, None
        if then is not None:
            call_back(then, reply)


class ThreadTasks:
    """Runs tasks on threads, whatever resources they ask for."""

    def __init__(self) -> None:
        self._threads = DaemonThreadPool("task", _MAX_TASKS)
        self._callbacks = DaemonThreadPool("task-callbacks", 1)

    def run(
        self, view: ActorSystem, spec: TaskSpec, then: Callable[[Reply], None], ended: Callable[[ThreadTask], None]
    ) -> ThreadTask:
        """Run a function on a thread.

        Args:
            view: the system as the task's owner sees it.
            spec: the function.
            then: receives the task's reply.
            ended: called when the task's thread has ended.

        Raises:
            ClusterError: if the system is closed.
        """
        task = ThreadTask(spec.name, then, self)

        def body() -> None:
            reply = _run(view, spec, task.cancelled)
            ended(task)
            task.settle(reply)

        if not self._threads.submit(body):
            raise ClusterError(f"cannot run task {spec.name!r}: the actor system is closed")
        return task

    def call_back_later(self, job: Callable[[], None]) -> None:
        """Run a short job on another thread."""
        self._callbacks.submit(job)

    def close(self) -> None:
        """Accept no more tasks."""
        self._threads.close()
        self._callbacks.close()

    def join(self, deadline: float) -> list[str]:
        """Wait for all threads, as :meth:`DaemonThreadPool.join` does."""
        return self._threads.join(deadline) + self._callbacks.join(deadline)


def _run(view: ActorSystem, spec: TaskSpec, cancelled: threading.Event) -> Reply:
    try:
        return Reply(value=spec.fn(view, *spec.args, cancelled=cancelled))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the submitter's
        return Reply(error=error)
    except BaseException as error:  # noqa: BLE001 - a separate process would have ended
        return Reply(error=TaskCrashed(spec.name, f"{type(error).__name__}: {error}"))
