"""Notification of waiting handles when their executions end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from rayflow.client.backend import Backend
from rayflow.errors import ExecutionNotFound, RayflowError, WriterFenced
from rayflow.runtime.logs import ThrottledWarning
from rayflow.storage.model import ExecutionRecord

log = logging.getLogger(__name__)

#: Seconds that one request for completions stays open.
_LONG_POLL = 10.0

#: Seconds until a failed request is repeated.
_RETRY_AFTER = 0.5


class Watcher:
    """Tells an engine's handles when their executions end, on one thread for any number of handles.

    The watcher asks the store actor for completions since its last request. It reads the record of an execution when
    a handle begins to wait, and the records of all of them after the store actor has restarted.

    Args:
        backend: where completions and records are read.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._pending: dict[str, Future[ExecutionRecord]] = {}
        self._cursor = ("", 0)
        self._missed = False
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def future(self, execution_id: str) -> Future[ExecutionRecord]:
        """Return a future of the execution's record once it has ended. Raises ExecutionNotFound."""
        with self._lock:
            if self._closed:
                raise RayflowError("this engine is closed; open another one and use engine.handle(id)")
            if self._thread is None:  # before anything waits for it: a thread may fail to start
                thread = threading.Thread(target=self._run, name="rayflow-watcher", daemon=True)
                thread.start()
                self._thread = thread
            known = self._pending.get(execution_id)
            if known is None or known.done():
                known = self._pending[execution_id] = Future()
                known.set_running_or_notify_cancel()
            self._wake.set()
        if not known.done():
            self._check([execution_id])
        return known

    def wait(self, execution_id: str, timeout: float | None) -> ExecutionRecord:
        """Return the execution's record once it has ended.

        Raises:
            ExecutionNotFound: the execution does not exist.
            TimeoutError: it has not ended within ``timeout`` seconds.
        """
        return self.future(execution_id).result(timeout)

    def close(self) -> None:
        """Stop. Callers that still wait get an error that says that the engine was closed."""
        with self._lock:
            self._closed = True
        self._fail_pending(RayflowError("the engine was closed during this wait; the execution continues"))
        self._wake.set()

    def _fail_pending(self, error: RayflowError) -> None:
        with self._lock:
            pending, self._pending = list(self._pending.values()), {}
            self._wake.clear()
        for future in pending:
            if not future.done():
                future.set_exception(error)

    def _run(self) -> None:
        outage = ThrottledWarning(log, "completions cannot be read")
        while not self._closed:
            self._wake.wait()
            if self._closed:
                return
            try:
                cursor, self._missed = ("", 0) if self._missed else self._cursor, False
                found = self._backend.completions(cursor, _LONG_POLL)
            except WriterFenced as error:  # no execution of this store can end now
                self._fail_pending(error)
                continue
            except Exception as error:  # noqa: BLE001 - the cluster may be gone; log it and ask again
                outage.failed(error)
                self._missed = True
                time.sleep(_RETRY_AFTER)
                continue
            self._cursor = found.cursor
            with self._lock:
                ids = list(self._pending) if found.reset else [i for i in found.ended if i in self._pending]
            problem = self._check(ids)
            if problem is None:
                outage.recovered()
            else:
                outage.failed(problem)
                time.sleep(_RETRY_AFTER)
            with self._lock:
                if not self._pending and not self._closed:
                    self._wake.clear()

    def _check(self, ids: Sequence[str]) -> RayflowError | None:
        """Resolve the futures of executions that have ended; return the error that kept a record from being read."""
        for execution_id in ids:
            try:
                record = self._backend.execution(execution_id)
            except WriterFenced as error:
                self._fail_pending(error)
                return None
            except RayflowError as error:
                self._missed = True  # check all of them again
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
