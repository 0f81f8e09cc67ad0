"""Handles: one execution to wait for and to control."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rayflow.client.control import ExecutionCommands
from rayflow.client.queries import ExecutionQueries
from rayflow.client.watcher import Watcher
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.execution.snapshot import ExecutionSnapshot
from rayflow.errors import ResultTimeout

R_co = TypeVar("R_co", covariant=True)


@refused_in_workflows("handle")
class ExecutionHandle(Generic[R_co]):
    """One execution. It can be awaited. It may be dropped at any time; the execution continues.

    Made by ``engine.start()`` and ``engine.handle()``.

    Attributes:
        id: the execution's id.

    Example:
        >>> handle = engine.start(analyse, "…")  # doctest: +SKIP
        >>> handle.result(timeout=60)  # or: await handle  # doctest: +SKIP
    """

    def __init__(self, made_by: Handles, execution_id: str, returns: Any = None) -> None:
        self._made_by = made_by
        self._returns = returns
        self.id = execution_id

    def __repr__(self) -> str:
        return f"<execution {self.id!r}>"

    def status(self) -> ExecutionSnapshot:
        """Return the execution's snapshot. Raises ExecutionNotFound."""
        return self._made_by.queries.status(self.id)

    def result(self, timeout: float | None = None) -> R_co:
        """Wait for the end and return the workflow's result.

        Args:
            timeout: seconds to wait at most; None waits without a limit.

        Raises:
            ExecutionFailed: the execution failed; ``.failure`` says how. ExecutionTimeout if its deadline passed.
            ExecutionCancelled: the execution was cancelled.
            ResultTimeout: the execution still runs; it continues.
            WriterFenced: another cluster or process took over the store; the execution continues there.
        """
        parts = self._made_by
        began = time.monotonic()
        try:
            record = parts.watcher.wait(self.id, timeout)
        except TimeoutError:
            status = parts.queries.record(self.id).status
            raise ResultTimeout(self.id, waited=time.monotonic() - began, status=status) from None
        result: R_co = parts.queries.outcome(record, self._returns)
        return result

    def done(self) -> bool:
        """Return whether the execution has finished."""
        return self._made_by.queries.record(self.id).status.terminal

    def pause(self, reason: str = "") -> None:
        """Pause the execution, as ``engine.pause`` does."""
        self._made_by.commands.pause(self.id, reason=reason)

    def resume(self) -> None:
        """Resume the execution, as ``engine.resume`` does."""
        self._made_by.commands.resume(self.id)

    def signal(self, name: str, payload: Any = None, *, key: str | None = None) -> None:
        """Send the execution a signal, as ``engine.signal`` does."""
        self._made_by.commands.signal(self.id, name, payload, key=key)

    def cancel(self, reason: str = "") -> None:
        """Cancel the execution, as ``engine.cancel`` does."""
        self._made_by.commands.cancel(self.id, reason=reason)

    def __await__(self) -> Generator[Any, None, R_co]:
        future = asyncio.wrap_future(self._made_by.watcher.future(self.id))
        record = yield from future.__await__()
        result: R_co = self._made_by.queries.outcome(record, self._returns)
        return result


@dataclass(frozen=True, slots=True)
class Handles:
    """Factory of an engine's handles.

    Args:
        queries: reads executions.
        commands: controls them.
        watcher: waits for their ends.
    """

    queries: ExecutionQueries
    commands: ExecutionCommands
    watcher: Watcher

    def of(self, execution_id: str, returns: Any = None) -> ExecutionHandle[Any]:
        """Return a handle.

        Args:
            execution_id: the execution's id.
            returns: the annotation of the workflow's result, to rebuild it.
        """
        return ExecutionHandle(self, execution_id, returns)
