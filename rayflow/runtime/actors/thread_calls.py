"""The lives of actors that are objects of one process, and the calls that they have not answered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import ActorLost, ActorSpec, ActorSystem, Reply, TaskCrashed, TaskSpec
from rayflow.runtime.actors.daemon_threads import DaemonThreadPool


class ActorInstance:
    """One object of an actor, from its making to its death, and the calls that it has not answered."""

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
    """A call under way. It is settled once, by its answer or by the death of the actor."""

    def __init__(self, life: ActorInstance, then: Callable[[Reply], None] | None) -> None:
        self.life = life
        self.then = then
        self.reply = Reply()
        self._first = True
        self.settled = threading.Event()

    def settle(self, reply: Reply) -> bool:
        """Whether this was the first answer."""
        with _settling:
            if not self._first:
                return False
            self._first = False
            self.reply = reply
        self.settled.set()
        return True


#: Guards the first answer of every call; it is held for an instant.
_settling = threading.Lock()


def check_alive(caller: ActorInstance | None) -> None:
    """End the thread if it belongs to an actor that was killed."""
    if caller is not None and not caller.alive:
        # Threads end quietly by this very class, and by none that is derived from it.
        raise SystemExit(f"actor {caller.name!r} was killed")


def unless_dead(then: Callable[[Reply], None], caller: ActorInstance | None) -> Callable[[Reply], None]:
    """A callback that is not called when the actor that it belongs to was killed."""

    def told(reply: Reply) -> None:
        if caller is None or caller.alive:
            then(reply)

    return told


log = logging.getLogger(__name__)

#: Tasks that run at once.
_MOST = 1_000


class ThreadTask:
    """A task that was submitted. Threads cannot be killed, so one that is killed is cut off."""

    def __init__(self, name: str, then: Callable[[Reply], None], tasks: ThreadTasks) -> None:
        self.cancelled = threading.Event()
        self._name = name
        self._then: Callable[[Reply], None] | None = then
        self._tasks = tasks
        self._lock = threading.Lock()

    def cancel(self, *, force: bool = False) -> None:
        """See :class:`~rayflow.runtime.actors.base.RunningTask`."""
        self.cancelled.set()
        if force:
            reply = Reply(error=ActorLost(self._name, "it was killed"))
            # Elsewhere: whoever cancels does not expect to be called back.
            self._tasks.elsewhere(lambda: self.settle(reply))

    def settle(self, reply: Reply) -> None:
        """Tell how it ended, if nobody was told yet."""
        with self._lock:
            then, self._then = self._then, None
        if then is not None:
            tell(then, reply)


class ThreadTasks:
    """Runs tasks on threads, whatever resources they ask for."""

    def __init__(self) -> None:
        self._threads = DaemonThreadPool("task", _MOST)
        self._answers = DaemonThreadPool("task-answers", 1)

    def run(
        self, view: ActorSystem, spec: TaskSpec, then: Callable[[Reply], None], ended: Callable[[ThreadTask], None]
    ) -> ThreadTask:
        """Run a function.

        Args:
            view: the system as its owner sees it.
            spec: the function.
            then: told how it ended.
            ended: told that its thread has.

        Raises:
            ClusterError: the system is closed.
        """
        task = ThreadTask(spec.name, then, self)

        def body() -> None:
            reply = _performed(view, spec, task.cancelled)
            ended(task)
            task.settle(reply)

        if not self._threads.submit(body):
            raise ClusterError(f"cannot run task {spec.name!r}: the system is closed")
        return task

    def elsewhere(self, job: Callable[[], None]) -> None:
        """Run a short job on another thread."""
        self._answers.submit(job)

    def close(self) -> None:
        """Take no more tasks."""
        self._threads.close()
        self._answers.close()

    def join(self, deadline: float) -> list[str]:
        """See :meth:`DaemonThreadPool.join`."""
        return self._threads.join(deadline) + self._answers.join(deadline)


def _performed(view: ActorSystem, spec: TaskSpec, cancelled: threading.Event) -> Reply:
    try:
        return Reply(value=spec.fn(view, *spec.args, cancelled=cancelled))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the submitter's
        return Reply(error=error)
    except BaseException as error:  # noqa: BLE001 - a process would have ended by it
        return Reply(error=TaskCrashed(spec.name, f"{type(error).__name__}: {error}"))


def tell(then: Callable[[Reply], None], reply: Reply) -> None:
    """Call back, unless whoever wanted to be called was killed meanwhile."""
    try:
        then(reply)
    except SystemExit:
        return  # the callback belongs to an actor that was killed meanwhile
    except Exception:
        log.exception("the callback of a call failed")
