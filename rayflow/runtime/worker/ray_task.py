"""Ray task body: runs one step in its own process.

The body is a worker with one slot and one task, which lives as long as the task. It sends no early reply: a message to
the coordinator reports that the task has begun.
"""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future, wait
from dataclasses import replace

from rayflow.runtime.actors.base import ActorSystem, Envelope, as_envelope, send_to
from rayflow.runtime.code.change_detector import refresh
from rayflow.runtime.code.environment import Environment, supplied
from rayflow.runtime.messages import BatchMessage, TaskMessage, pack, unpack
from rayflow.runtime.worker.actor import Worker, WorkerSettings
from rayflow.runtime.worker.attempt import Attempt
from rayflow.runtime.worker.slots import key_of

#: Seconds between two checks whether the task was cancelled. Ray interrupts the main thread, but does not wake it, so
#: the thread must not block for longer.
POLL_INTERVAL = 0.05

#: Seconds that the coordinator may take to return the variables of its environment.
_VARIABLES_TIMEOUT = 30.0


def run_ray_task(
    system: ActorSystem,
    environment: Environment,
    settings: WorkerSettings,
    name: str,
    given: bytes | Envelope,
    *,
    cancelled: threading.Event | None = None,
) -> bytes | Envelope:
    """Run one step to its end.

    An interrupt of the main thread cancels the attempt and waits for its end: an async step cleans up, a sync step sees
    ``step_context().cancelled``.

    Args:
        system: the actor system.
        environment: the code environment.
        settings: settings of a worker; slots, setup and task limit are ignored.
        name: the name of the worker in the step's context.
        given: a packed BatchMessage with one task.
        cancelled: cancels the attempt where the task runs on a thread, which cannot be interrupted.

    Returns:
        A packed BatchReply.
    """
    _enable_interrupts()
    if system.separate:
        refresh()  # Ray may reuse the process of an earlier task
    data, refs = as_envelope(given)
    message: BatchMessage = unpack(data)
    [task] = message.tasks
    if environment.variables:
        _, variables = system.find(message.coordinator).call("environment", group="control", timeout=_VARIABLES_TIMEOUT)
        supplied(environment, variables).without(settings.own_variables).apply()

    def begun(attempt: Attempt) -> None:
        arguments = (task.execution_id, task.seq, task.attempt, task.epoch, attempt.began)
        send_to(system, message.coordinator, "begun", *arguments)

    alone = replace(settings, concurrency=1, setup="", max_tasks=None)
    worker = Worker(system, name, environment, alone, begun)
    answer: Future[bytes | Envelope] = Future()
    request = Envelope(pack(message._replace(tell_begin=False)), refs)
    interrupts: list[bool] = []
    go = threading.Event()
    work = ((_answer, answer, go, worker, request), (_cancel_on_request, answer, worker, task, interrupts, cancelled))
    try:
        for target, *arguments in work:
            threading.Thread(target=target, args=arguments, name=f"{name}/{target.__name__}", daemon=True).start()
        _await(answer, go, interrupts)
        return answer.result()
    finally:
        answer.cancel()  # an interrupt may have come before the start
        go.set()
        worker.stop()


def _enable_interrupts() -> None:
    """Enable interrupts: a cluster that a shell started in the background ignores them, like all its processes."""
    on_main = threading.current_thread() is threading.main_thread()
    if on_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _answer(answer: Future[bytes | Envelope], go: threading.Event, worker: Worker, request: Envelope) -> None:
    go.wait()
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(worker.run(request))
    except BaseException as error:  # noqa: BLE001 - raised by the caller's result()
        answer.set_exception(error)


def _await(answer: Future[bytes | Envelope], go: threading.Event, interrupts: list[bool]) -> None:
    """Let the worker start, wait for its answer, and record each interrupt of this thread."""
    while True:
        try:
            go.set()
            if wait((answer,), POLL_INTERVAL).done:
                return
        except KeyboardInterrupt:
            interrupts.append(True)


def _cancel_on_request(
    answer: Future[bytes | Envelope],
    worker: Worker,
    task: TaskMessage,
    interrupts: list[bool],
    cancelled: threading.Event | None,
) -> None:
    """Cancel the task on request; on a separate thread, which interrupts do not reach."""
    while not wait((answer,), POLL_INTERVAL).done:
        if (interrupts or (cancelled is not None and cancelled.is_set())) and worker.cancel(
            *key_of(task), "its result is no longer wanted"
        ):
            return  # otherwise the worker does not have the task yet, and is called again
