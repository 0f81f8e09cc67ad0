"""What steps say of themselves while they are under way: that they begin, live, are so far, wait for the cluster."""

from __future__ import annotations

from collections.abc import Callable

from rayflow.core.slots import Key
from rayflow.runtime.beats import Beat
from rayflow.runtime.driver import Driver
from rayflow.storage.codec import MsgpackCodec


class Remarks:
    """Keeps them as notes of their executions. Used on the coordinator's thread only.

    Args:
        find: answers the driver of an execution, if it is driven here.
        now: seconds since the epoch.
        codec: writes notes.
        alive: told of a driver one of whose steps is alive: its watchdog begins anew.
    """

    def __init__(
        self,
        find: Callable[[str], Driver | None],
        now: Callable[[], float],
        codec: MsgpackCodec,
        alive: Callable[[Driver], None],
    ) -> None:
        self._find = find
        self._now = now
        self._codec = codec
        self._alive = alive
        self._waiting: set[Key] = set()

    def beat(self, key: Key, epoch: int, beat: Beat) -> None:
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
