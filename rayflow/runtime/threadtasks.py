"""Tasks of the actor system of one process: functions that run once, each on a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from rayflow.errors import ClusterError
from rayflow.runtime.daemons import Daemons
from rayflow.runtime.system import ActorLost, ActorSystem, Reply, TaskCrashed, TaskSpec

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
        """See :class:`~rayflow.runtime.system.RunningTask`."""
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
        self._threads = Daemons("task", _MOST)
        self._answers = Daemons("task-answers", 1)

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
        """See :meth:`Daemons.join`."""
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
