"""The body of a Ray task that runs one step in a process of its own.

It is a worker with one slot and one task, which lives as long as the task does. There is no early answer: that the
task has begun is told to its coordinator.
"""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future, wait
from dataclasses import replace

from rayflow.runtime.actors.base import ActorSystem, Envelope, opened, send_to
from rayflow.runtime.code.change_detector import refresh
from rayflow.runtime.code.environment import Environment, supplied
from rayflow.runtime.messages import BatchMessage, TaskMessage, pack, unpack
from rayflow.runtime.worker.actor import Worker, WorkerSettings
from rayflow.runtime.worker.attempt import Attempt
from rayflow.runtime.worker.slots import key_of

#: Seconds between two looks at whether the task was cancelled. Ray interrupts the main thread, but does not wake it:
#: it is not to wait for longer than this at once.
LOOK = 0.05

#: Seconds that the coordinator may take to say what the variables of its environment are.
_ANSWER = 30.0


def run_own_task(
    system: ActorSystem,
    environment: Environment,
    settings: WorkerSettings,
    name: str,
    given: bytes | Envelope,
    *,
    cancelled: threading.Event | None = None,
) -> bytes | Envelope:
    """Run one step, and leave nothing behind.

    An interrupt of the main thread cancels the attempt, which is then waited for: an async step cleans up, a sync one
    sees it in ``step_context().cancelled``.

    Args:
        system: where the coordinator and the store are found.
        environment: the code environment.
        settings: as for a worker; its slots, setup and end do not matter here.
        name: the name of the worker in the step's context.
        given: a packed BatchMessage with one task.
        cancelled: another way to cancel, for threads, which nobody can interrupt.

    Returns:
        A packed BatchReply.
    """
    _hear_interrupts()
    if system.separate:
        refresh()  # Ray may give it a process that has run another one
    data, held = opened(given)
    message: BatchMessage = unpack(data)
    [task] = message.tasks
    if environment.variables:
        _, variables = system.find(message.coordinator).call("environment", group="control", timeout=_ANSWER)
        supplied(environment, variables).without(settings.own_variables).apply()

    def begun(attempt: Attempt) -> None:
        arguments = (task.execution_id, task.seq, task.attempt, task.epoch, attempt.began)
        send_to(system, message.coordinator, "begun", *arguments)

    alone = replace(settings, concurrency=1, setup="", max_tasks=None)
    worker = Worker(system, name, environment, alone, begun)
    answer: Future[bytes | Envelope] = Future()
    request = Envelope(pack(message._replace(tell_begin=False)), held)
    asked: list[bool] = []
    go = threading.Event()
    work = ((_answer, answer, go, worker, request), (_cancel_when_asked, answer, worker, task, asked, cancelled))
    try:
        for target, *arguments in work:
            threading.Thread(target=target, args=arguments, name=f"{name}/{target.__name__}", daemon=True).start()
        _await(answer, go, asked)
        return answer.result()
    finally:
        answer.cancel()  # an interrupt before it began
        go.set()
        worker.stop()


def _hear_interrupts() -> None:
    """Make interrupts arrive: a cluster that a shell started in the background ignores them, and its processes too."""
    on_main = threading.current_thread() is threading.main_thread()
    if on_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _answer(answer: Future[bytes | Envelope], go: threading.Event, worker: Worker, request: Envelope) -> None:
    go.wait()
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(worker.run(request))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the task's result is
        answer.set_exception(error)


def _await(answer: Future[bytes | Envelope], go: threading.Event, asked: list[bool]) -> None:
    """Let it begin and wait for the answer; notes each interrupt, wherever it strikes."""
    while True:
        try:
            go.set()
            if wait((answer,), LOOK).done:
                return
        except KeyboardInterrupt:
            asked.append(True)


def _cancel_when_asked(
    answer: Future[bytes | Envelope],
    worker: Worker,
    task: TaskMessage,
    asked: list[bool],
    cancelled: threading.Event | None,
) -> None:
    """Cancel the task when somebody asks for that; on a thread of its own, which no interrupt strikes half way."""
    while not wait((answer,), LOOK).done:
        if (asked or (cancelled is not None and cancelled.is_set())) and worker.cancel(
            *key_of(task), "nobody waits for it"
        ):
            return  # else the worker does not even have it yet: it is told the next time
