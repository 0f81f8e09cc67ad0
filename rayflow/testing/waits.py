"""Waiting in a test: for an execution or a lock, in virtual time."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from rayflow.client.backend import Backend
from rayflow.client.locks import Lease
from rayflow.client.watcher import Watcher
from rayflow.core.execution.execution import Execution
from rayflow.core.execution.requests import WaitsFor
from rayflow.core.pool.slots import Key
from rayflow.errors import ExecutionNotFound, RayflowError
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors import actor_names
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.storage.damage import failure_or_damage
from rayflow.storage.model import ExecutionRecord
from rayflow.testing.actors import DeterministicActorSystem
from rayflow.testing.errors import WorkflowStuck
from rayflow.testing.virtual_time import in_step

#: How many times the clock moves without progress of the awaited execution.
MOST_SKIPS = 5_000

#: Seconds of a script's lease: as long as the test, however far the clock moves.
LEASE = 2.5e10


class DeterministicWatcher(Watcher):
    """Watcher that moves the clock until an execution has ended.

    Args:
        system: the actor system.
        backend: reads records.
        driver: returns the driver of an execution.
        blocked: errors that block executions, by their ids.
        problems: errors of the test itself.
        auto_skip: whether the clock may be moved.
    """

    def __init__(
        self,
        system: DeterministicActorSystem,
        backend: Backend,
        driver: Callable[[str], ExecutionDriver | None],
        *,
        blocked: dict[str, Exception],
        problems: list[Exception],
        auto_skip: bool,
    ) -> None:
        super().__init__(backend)
        self._actor_system = system
        self._driver = driver
        self._blocked = blocked
        self._problems = problems
        self._auto_skip = auto_skip

    def future(self, execution_id: str) -> Future[ExecutionRecord]:
        """Return the future of an execution; the clock moves until it has finished or the future is cancelled."""
        future: Future[ExecutionRecord] = Future()
        future.add_done_callback(lambda done: self._actor_system.wake() if done.cancelled() else None)
        step = in_step()

        def wait() -> ExecutionRecord:
            with self._suspended(step):
                return self._until_finished(execution_id, future.cancelled)

        return self._actor_system.later(wait, future)

    def wait(self, execution_id: str, timeout: float | None) -> ExecutionRecord:
        """Wait for an execution; the timeout is real time, as a guard against a test that hangs."""
        future = self.future(execution_id)
        try:
            return future.result(timeout)
        finally:
            future.cancel()

    def close(self) -> None:
        """Do nothing: closing the actor system ends all waits."""

    def raise_problem(self) -> None:
        """Raise the first error of the test itself, once."""
        if self._problems:
            first, self._problems[:] = self._problems[0], []
            raise first

    @contextmanager
    def _suspended(self, step: Key | None) -> Iterator[None]:
        """Suspend the step that waits, so that its slot is free for another step."""
        steps = self._actor_system.steps
        if step is None or steps is None:
            yield
            return
        steps.suspend(step)
        try:
            yield
        finally:
            steps.resume(step)

    def _until_finished(self, execution_id: str, cancelled: Callable[[], bool]) -> ExecutionRecord:
        """Run everything until the execution has finished, and return its record."""
        seen, skips = -1, 0
        while True:
            self._actor_system.settle(0.0, cancelled=cancelled)
            if cancelled():
                raise RayflowError("the wait was cancelled")
            record: ExecutionRecord | None = self._actor_system.perform(actor_names.STORE, "execution", (execution_id,))
            if record is None:
                raise ExecutionNotFound(execution_id)
            self.raise_problem()
            if record.status.terminal:
                return record
            if self._actor_system.wait_for_step():
                continue
            driver = self._driver(execution_id)
            own = record.runnable_at if driver is None else driver.wake
            skips = 0 if own is not None or record.last_seq != seen else skips + 1
            seen = record.last_seq
            if not self._auto_skip or skips > MOST_SKIPS or self._actor_system.skip() is None:
                raise self._stuck(record, None if driver is None else driver.execution, skips)

    def _stuck(self, record: ExecutionRecord, execution: Execution | None, skips: int) -> Exception:
        blocked = self._blocked.get(record.id)
        if blocked is not None:
            return blocked
        why, hint = self._why(record, execution)
        due = self._actor_system.next_due()
        if skips > MOST_SKIPS:
            why += (
                f", and nothing happened to it although time passed until {moment_text(self._actor_system.clock.now())}"
            )
        elif due is None:
            why += ", and no timer is due"
        else:
            why += f", and time stands still (auto_skip=False); the next timer is due at {moment_text(due)}"
            hint = "Call env.advance(…) or env.skip() first"
        stuck = WorkflowStuck(f"execution {record.id!r}", why=why, hint=hint)
        stuck.__cause__ = next(iter(self._blocked.values()), None)  # possibly a child's
        return stuck

    def _why(self, record: ExecutionRecord, execution: Execution | None) -> tuple[str, str]:
        if record.status is ExecutionStatus.PAUSED:
            reason = failure_or_damage(record)
            return f"it is paused ({reason})", "Resume it"
        words = WaitsFor.from_text(record.waits).describe()
        if words:
            return f"it waits for {', '.join(words)}", "Send or finish it first, or give the wait a timeout"
        steps = [] if execution is None else [task.name for task in execution.live()]
        if steps:
            return f"its steps {', '.join(steps)} do not end", "Give them a timeout, or scripts that end"
        return "it waits for a future that nothing sets", "Check its code for a future that is never set"


class DeterministicLease(Lease):
    """Lease that does not expire, and that lets time pass while the test waits for it."""

    def __init__(self, system: DeterministicActorSystem, *given: Any) -> None:
        super().__init__(*given)
        self._actor_system = system
        self._stuck_since: float | None = None

    def _pause(self, seconds: float) -> None:
        super()._pause(seconds)
        if not self._actor_system.ask(lambda: self._actor_system.is_idle):
            self._stuck_since = None
            return
        # Another thread of the test may still release it.
        time.sleep(0.01)
        now = time.monotonic()
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since > self._actor_system.patience:
            raise WorkflowStuck(
                f"acquiring lock {self.name!r}",
                why="its holder does not release it: nothing is running and no timer is due",
                hint="Release the lock first, or wait with a timeout",
            )


def moment_text(moment: float) -> str:
    """Return a time for people, in UTC."""
    return dt.datetime.fromtimestamp(moment, tz=dt.UTC).isoformat()
