"""What a start answers: a handle on an execution, to wait for it and to steer it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.execution.snapshot import ExecutionSnapshot
from rayflow.errors import ExecutionNotFound, RayflowError, ResultTimeout, WriterFenced
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem
from rayflow.runtime.logs import ThrottledWarning
from rayflow.runtime.store.completions import Completions
from rayflow.storage.model import ExecutionRecord

if TYPE_CHECKING:
    from rayflow.client.engine import Engine

log = logging.getLogger(__name__)
R = TypeVar("R")

#: Seconds that one question for news stays open.
_PATIENCE = 10.0

#: Seconds until what could not be asked is asked again.
_AGAIN = 0.5


@refused_in_workflows("handle")
class ExecutionHandle(Generic[R]):
    """One execution. It can be awaited; it may be dropped at any time, the execution goes on.

    Args:
        engine: the engine that made it.
        execution_id: the execution's id.
        returns: the annotation of the workflow's result, to rebuild it.

    Example:
        >>> handle = engine.start(analyse, "…")  # doctest: +SKIP
        >>> handle.result(timeout=60)  # or: await handle  # doctest: +SKIP
    """

    def __init__(self, engine: Engine, execution_id: str, returns: Any = None) -> None:
        self._engine = engine
        self._returns = returns
        self.id = execution_id

    def __repr__(self) -> str:
        return f"<execution {self.id!r}>"

    def status(self) -> ExecutionSnapshot:
        """The execution's snapshot. Raises ExecutionNotFound."""
        return self._engine.status(self.id)

    def result(self, timeout: float | None = None) -> R:
        """Wait for the end and answer the workflow's result.

        Args:
            timeout: seconds to wait at most; None for as long as it takes.

        Raises:
            ExecutionFailed: it failed; ``.failure`` says how. ExecutionTimeout if its own time was up.
            ExecutionCancelled: it was cancelled.
            ResultTimeout: it still runs; it goes on.
            Fenced: another cluster or process has taken the store over: it goes on there.
        """
        began = time.monotonic()
        try:
            record = self._engine.watcher.wait(self.id, timeout)
        except TimeoutError:
            status = self._engine.record(self.id).status
            raise ResultTimeout(self.id, waited=time.monotonic() - began, status=status) from None
        result: R = self._engine.outcome(record, self._returns)
        return result

    def done(self) -> bool:
        """Whether it is over."""
        return self._engine.record(self.id).status.terminal

    def pause(self, reason: str = "") -> None:
        """See ``engine.pause``."""
        self._engine.pause(self.id, reason=reason)

    def resume(self) -> None:
        """See ``engine.resume``."""
        self._engine.resume(self.id)

    def signal(self, name: str, payload: Any = None, *, key: str | None = None) -> None:
        """See ``engine.signal``."""
        self._engine.signal(self.id, name, payload, key=key)

    def cancel(self, reason: str = "") -> None:
        """See ``engine.cancel``."""
        self._engine.cancel(self.id, reason=reason)

    def __await__(self) -> Generator[Any, None, R]:
        future = asyncio.wrap_future(self._engine.watcher.future(self.id))
        record = yield from future.__await__()
        result: R = self._engine.outcome(record, self._returns)
        return result


class Watcher:
    """Tells an engine's handles when their executions end; one thread, however many handles.

    It asks the persistence actor what ended since it last asked, and looks for itself at an execution that it is
    newly asked for, and at all of them when the actor was restarted.

    Args:
        system: where the persistence actor is found.
    """

    def __init__(self, system: ActorSystem) -> None:
        self._system = system
        self._lock = threading.Lock()
        self._pending: dict[str, Future[ExecutionRecord]] = {}
        self._cursor = ("", 0)
        self._missed = False
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def future(self, execution_id: str) -> Future[ExecutionRecord]:
        """A future of the execution's row once it has ended. Raises ExecutionNotFound."""
        with self._lock:
            if self._closed:
                raise RayflowError("this engine is closed; open another one and use engine.handle(id)")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="rayflow-watcher", daemon=True)
                thread.start()
                self._thread = thread
            known = self._pending.get(execution_id)
            if known is None or known.done():
                known = self._pending[execution_id] = Future()
                known.set_running_or_notify_cancel()
            self._wake.set()
        if not known.done():
            self._look([execution_id])
        return known

    def wait(self, execution_id: str, timeout: float | None) -> ExecutionRecord:
        """The execution's row once it has ended.

        Raises:
            ExecutionNotFound: there is no such execution.
            TimeoutError: it has not ended within so many seconds.
        """
        return self.future(execution_id).result(timeout)

    def close(self) -> None:
        """Stop. Whoever still waits gets an error that says that the engine was closed."""
        with self._lock:
            self._closed = True
        self._give_up(RayflowError("the engine was closed while this waited; the execution goes on"))
        self._wake.set()

    def _give_up(self, error: RayflowError) -> None:
        """Whoever waits gets this error."""
        with self._lock:
            pending, self._pending = list(self._pending.values()), {}
            self._wake.clear()
        for future in pending:
            if not future.done():
                future.set_exception(error)

    def _run(self) -> None:
        outage = ThrottledWarning(log, "it cannot be told what ends")
        while not self._closed:
            self._wake.wait()
            if self._closed:
                return
            try:
                cursor, self._missed = ("", 0) if self._missed else self._cursor, False
                news: Completions = self._persistence().call(
                    "news", cursor, _PATIENCE, timeout=4 * _PATIENCE, group="news"
                )
            except WriterFenced as error:  # nothing ends here any more: whoever waits is told
                self._give_up(error)
                continue
            except Exception as error:  # noqa: BLE001 - the cluster may be gone under us; say so, and try again
                outage.failed(error)
                self._missed = True
                time.sleep(_AGAIN)
                continue
            self._cursor = news.cursor
            with self._lock:
                ids = list(self._pending) if news.reset else [i for i in news.ended if i in self._pending]
            trouble = self._look(ids)
            if trouble is None:
                outage.over()
            else:
                outage.failed(trouble)
                time.sleep(_AGAIN)
            with self._lock:
                if not self._pending and not self._closed:
                    self._wake.clear()

    def _look(self, ids: Sequence[str]) -> RayflowError | None:
        """Tell those who wait for executions that are over; answers why not all could be looked at."""
        for execution_id in ids:
            try:
                record = self._persistence().call("execution", execution_id)
            except WriterFenced as error:
                self._give_up(error)
                return None
            except RayflowError as error:
                self._missed = True  # look at all of them again
                return error
            with self._lock:
                future = self._pending.get(execution_id)
                if future is None or future.done() or (record is not None and not record.status.terminal):
                    continue
                del self._pending[execution_id]
            if record is None:
                future.set_exception(ExecutionNotFound(execution_id))
            else:
                future.set_result(record)
        return None

    def _persistence(self) -> Any:
        return self._system.find(actor_names.PERSISTENCE)
