"""Progress of running steps: their heartbeats and notes, and the output that they print."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rayflow.core.pool.slots import Key
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.runtime.worker.heartbeat import Heartbeat
from rayflow.storage.codec.payloads import MsgpackCodec

#: Lines that are kept for each execution, and executions for which lines are kept.
MAX_LINES = 1_000
MAX_EXECUTIONS = 1_000


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of an execution, for the engine that watches it.

    Args:
        lines: new lines of the steps' output.
        cursor: where the next call continues.
        driving: whether this coordinator drives the execution.
        issued: steps that the workflow has issued so far.
        completed: those of them that have finished.
    """

    lines: tuple[str, ...] = ()
    cursor: int = 0
    driving: bool = False
    issued: int = 0
    completed: int = 0


class StepProgress:
    """Records the heartbeats of steps as notes of their executions. All methods run on the coordinator's thread.

    Args:
        find: returns the driver of an execution that is driven here.
        alive: receives a driver one of whose steps is alive, so that its heartbeat timeout is scheduled again.
    """

    def __init__(
        self,
        find: Callable[[str], ExecutionDriver | None],
        now: Callable[[], float],
        codec: MsgpackCodec,
        alive: Callable[[ExecutionDriver], None],
    ) -> None:
        self._find = find
        self._now = now
        self._codec = codec
        self._alive = alive
        self._waiting: set[Key] = set()

    def heartbeat(self, key: Key, epoch: int, beat: Heartbeat) -> None:
        """Record a heartbeat: the step is alive, has made progress, or has only its result left to store."""
        driver = self._find(key[0])
        if driver is None or driver.execution is None or driver.epoch != epoch:
            return
        if driver.execution.beat(key[1], key[2], self._now()):
            if beat.ran:
                driver.execution.ran(key[1], key[2])
            self._alive(driver)
            if beat.progress is not None:
                driver.note(key[1], key[2], self._now(), beat.progress)

    def begun(self, key: Key, at: float) -> None:
        """Record that a step that had to wait has begun."""
        driver = self._find(key[0])
        if driver is not None and key in self._waiting:
            self._waiting.discard(key)
            driver.note(key[1], key[2], at, self._codec.encode(None))

    def waits(self, key: Key, why: str) -> None:
        """Record that a step waits for a resource that the cluster does not have."""
        driver = self._find(key[0])
        if driver is not None:
            driver.log.warning("step %d of execution %s waits: %s", key[1], key[0], why)
            driver.note(key[1], key[2], self._now(), self._codec.encode(why), kind="waits")
            self._waiting.add(key)

    def forget(self, execution_id: str) -> None:
        """Drop the progress of an execution that is no longer driven here."""
        self._waiting = {key for key in self._waiting if key[0] != execution_id}


@dataclass(slots=True)
class _Output:
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    total: int = 0


class OutputBuffer:
    """The newest lines of output of each execution. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outputs: OrderedDict[str, _Output] = OrderedDict()

    def add(self, execution_id: str, lines: Sequence[str]) -> None:
        """Add lines."""
        with self._lock:
            output = self._outputs.setdefault(execution_id, _Output())
            output.lines.extend(lines)
            output.total += len(lines)
            self._outputs.move_to_end(execution_id)
            if len(self._outputs) > MAX_EXECUTIONS:
                self._outputs.popitem(last=False)

    def since(self, execution_id: str, cursor: int) -> tuple[tuple[str, ...], int]:
        """Return the lines after a cursor that are still here, and the new cursor."""
        with self._lock:
            output = self._outputs.get(execution_id)
            if output is None:
                return (), cursor
            fresh = min(len(output.lines), max(0, output.total - cursor))
            return tuple(output.lines)[len(output.lines) - fresh :], output.total
