"""Waiting in a test: what waits for an execution, or for a lock, lets time pass until it is there, or can never be."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from rayflow.client.handle import Watcher
from rayflow.client.locks import Lease
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

#: How often the clock is moved for whoever waits for an execution that nothing happens to.
MOST_SKIPS = 5_000

#: Seconds that a script's lease lasts: as long as the test, however far its clock is moved.
LEASE = 2.5e10


class DeterministicWatcher(Watcher):
    """Moves the clock until an execution has ended.

    Args:
        stage: the stage.
        driver: answers what drives an execution.
        blocked: why executions cannot go on, by their ids.
        trouble: what is wrong with the test.
        auto_skip: whether the clock may be moved.
    """

    def __init__(
        self,
        stage: DeterministicActorSystem,
        driver: Callable[[str], ExecutionDriver | None],
        *,
        blocked: dict[str, Exception],
        trouble: list[Exception],
        auto_skip: bool,
    ) -> None:
        super().__init__(stage)
        self._stage = stage
        self._driver = driver
        self._blocked = blocked
        self._trouble = trouble
        self._auto_skip = auto_skip

    def future(self, execution_id: str) -> Future[ExecutionRecord]:
        """See Watcher. The clock is moved from now on, until it is over or the future is cancelled."""
        future: Future[ExecutionRecord] = Future()
        future.add_done_callback(lambda done: self._stage.wake() if done.cancelled() else None)
        step = in_step()

        def wait() -> ExecutionRecord:
            with self._room(step):
                return self._until_over(execution_id, future.cancelled)

        return self._stage.later(wait, future)

    def wait(self, execution_id: str, timeout: float | None) -> ExecutionRecord:
        """See Watcher; the timeout is real time: a guard against a test that hangs."""
        future = self.future(execution_id)
        try:
            return future.result(timeout)
        finally:
            future.cancel()

    def close(self) -> None:
        """See Watcher; the stage tells those that wait."""

    def raise_trouble(self) -> None:
        """Raise what is wrong with the test, once."""
        if self._trouble:
            first, self._trouble[:] = self._trouble[0], []
            raise first

    # --- on the stage --------------------------------------------------------------------------------------
    @contextmanager
    def _room(self, step: Key | None) -> Iterator[None]:
        """If it is a step that waits, nobody waits for that step meanwhile."""
        steps = self._stage.steps
        if step is None or steps is None:
            yield
            return
        steps.suspend(step)
        try:
            yield
        finally:
            steps.resume(step)

    def _until_over(self, execution_id: str, given_up: Callable[[], bool]) -> ExecutionRecord:
        """Let happen what happens until the execution is over."""
        seen, skips = -1, 0
        while True:
            self._stage.settle(0.0, given_up=given_up)
            if given_up():
                raise RayflowError("nobody waits any more")
            record: ExecutionRecord | None = self._stage.perform(actor_names.STORE, "execution", (execution_id,))
            if record is None:
                raise ExecutionNotFound(execution_id)
            self.raise_trouble()
            if record.status.terminal:
                return record
            if self._stage.wait_for_step():
                continue
            driver = self._driver(execution_id)
            own = record.runnable_at if driver is None else driver.wake
            skips = 0 if own is not None or record.last_seq != seen else skips + 1
            seen = record.last_seq
            if not self._auto_skip or skips > MOST_SKIPS or self._stage.skip() is None:
                raise self._stalled(record, None if driver is None else driver.execution, skips)

    def _stalled(self, record: ExecutionRecord, execution: Execution | None, skips: int) -> Exception:
        blocked = self._blocked.get(record.id)
        if blocked is not None:
            return blocked
        why, hint = self._why(record, execution)
        due = self._stage.next_due()
        if skips > MOST_SKIPS:
            why += f", and although time went on until {moment_text(self._stage.clock.now())}, nothing happened to it"
        elif due is None:
            why += ", and nothing is due any more"
        else:
            why += f", and time stands still (auto_skip=False); the next thing is due at {moment_text(due)}"
            hint = "Call env.advance(…) or env.skip() first"
        stalled = WorkflowStuck(f"execution {record.id!r}", why=why, hint=hint)
        stalled.__cause__ = next(iter(self._blocked.values()), None)  # that of a child, perhaps
        return stalled

    def _why(self, record: ExecutionRecord, execution: Execution | None) -> tuple[str, str]:
        if record.status is ExecutionStatus.PAUSED:
            reason = failure_or_damage(record)
            return f"it is paused ({reason})", "Resume it"
        words = WaitsFor.from_text(record.waits).words()
        if words:
            return f"it waits for {', '.join(words)}", "Let that come first, or give the wait a timeout"
        steps = [] if execution is None else [task.name for task in execution.live()]
        if steps:
            return f"its steps {', '.join(steps)} do not end", "Give them a timeout, or scripts that end"
        return "it waits for nothing that could come", "Look at its code: which future does nobody set?"


class DeterministicLease(Lease):
    """A lease that lasts as long as its script has it, and lets time pass while it is waited for.

    Args:
        stage: the stage.
        given: as of :class:`~rayflow.client.locks.Lease`.
    """

    def __init__(self, stage: DeterministicActorSystem, *given: Any) -> None:
        super().__init__(*given)
        self._stage = stage
        self._vain_since: float | None = None

    def _pause(self, seconds: float) -> None:
        super()._pause(seconds)
        if not self._stage.ask(lambda: self._stage.at_rest):
            self._vain_since = None
            return
        # Another thread of the test may give it back all the same.
        time.sleep(0.01)
        now = time.monotonic()
        self._vain_since = self._vain_since or now
        if now - self._vain_since > self._stage.patience:
            raise WorkflowStuck(
                f"whoever waits for lock {self.name!r}",
                why="nothing is under way and nothing is due any more, so that nobody gives it back",
                hint="Let its holder give it back first, or wait with a timeout",
            )


def moment_text(moment: float) -> str:
    """A moment for people, in UTC."""
    return dt.datetime.fromtimestamp(moment, tz=dt.UTC).isoformat()
