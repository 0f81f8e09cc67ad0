"""What steps say of themselves while they are under way: that they begin, live, are so far, wait for the cluster."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rayflow.core.pool.slots import Key
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.runtime.worker.heartbeat import Heartbeat
from rayflow.storage.codec.payloads import MsgpackCodec


class StepProgress:
    """Keeps them as notes of their executions. Used on the coordinator's thread only.

    Args:
        find: answers the driver of an execution, if it is driven here.
        now: seconds since the epoch.
        codec: writes notes.
        alive: told of a driver one of whose steps is alive: its watchdog begins anew.
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

    def beat(self, key: Key, epoch: int, beat: Heartbeat) -> None:
        """A step says that it is alive, how far it is, or that only its result is still to be kept."""
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
        """A step that had to wait has begun."""
        driver = self._find(key[0])
        if driver is not None and key in self._waiting:
            self._waiting.discard(key)
            driver.note(key[1], key[2], at, self._codec.encode(None))

    def waits(self, key: Key, why: str) -> None:
        """A step waits for something that the cluster does not have."""
        driver = self._find(key[0])
        if driver is not None:
            driver.log.warning("step %d of execution %s waits: %s", key[1], key[0], why)
            driver.note(key[1], key[2], self._now(), self._codec.encode(why), kind="waits")
            self._waiting.add(key)

    def forget(self, execution_id: str) -> None:
        """The execution is not driven here any more."""
        self._waiting = {key for key in self._waiting if key[0] != execution_id}


#: Lines that are kept for each execution, and executions for which they are kept.
LINES_KEPT = 1_000
EXECUTIONS_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class Progress:
    """What a watcher is told.

    Args:
        lines: new lines of the steps' output.
        cursor: where to go on from.
        driving: whether this coordinator drives the execution.
        issued: steps that the workflow has issued so far.
        completed: steps of these that are over.
    """

    lines: tuple[str, ...] = ()
    cursor: int = 0
    driving: bool = False
    issued: int = 0
    completed: int = 0


@dataclass(slots=True)
class _Kept:
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    total: int = 0


class OutputBuffer:
    """The newest lines of each execution. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def add(self, execution_id: str, lines: Sequence[str]) -> None:
        """Keep lines."""
        with self._lock:
            kept = self._kept.setdefault(execution_id, _Kept())
            kept.lines.extend(lines)
            kept.total += len(lines)
            self._kept.move_to_end(execution_id)
            if len(self._kept) > EXECUTIONS_KEPT:
                self._kept.popitem(last=False)

    def since(self, execution_id: str, cursor: int) -> tuple[tuple[str, ...], int]:
        """The lines after a cursor, as far as they are kept, and the new cursor."""
        with self._lock:
            kept = self._kept.get(execution_id)
            if kept is None:
                return (), cursor
            fresh = min(len(kept.lines), max(0, kept.total - cursor))
            return tuple(kept.lines)[len(kept.lines) - fresh :], kept.total
