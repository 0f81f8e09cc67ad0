"""Locks and semaphores from outside: leases for scripts, and who has what."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.locks import machine
from rayflow.core.locks.machine import Claim, Lock
from rayflow.errors import LockLost, LockUnavailable, RayflowError
from rayflow.storage.operations import Done, LeaveLease, TakeLease

if TYPE_CHECKING:
    from rayflow.client.control import ExecutionCommands

log = logging.getLogger(__name__)

#: Seconds between two looks at whether a lease was granted: the first, and at most.
_LOOK_FIRST, _LOOK_MOST = 0.01, 0.25


@refused_in_workflows("lease")
class Lease:
    """A permit of a lock or semaphore that a script has, for ``with``. Made by ``engine.lock()``.

    Args:
        engine: the engine.
        name: the lock's name.
        permits: how many permits it has.
        ttl: seconds that the lease lasts without being renewed.
        timeout: seconds to wait for it at most; None for as long as it takes.

    Attributes:
        name: the lock's name.
        token: the fencing token: it rises with each grant of this lock; 0 while it is not held.
    """

    def __init__(self, engine: ExecutionCommands, name: str, permits: int, ttl: float, timeout: float | None) -> None:
        self.name = name
        self.token = 0
        self._engine = engine
        self._permits = permits
        self._ttl = ttl
        self._timeout = timeout
        self._id = ""
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._renewing: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether the lease is over although this script did not give it back: somebody else may have the lock."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise LockLost if the lease is over."""
        if self.lost or not self._id:
            raise LockLost(self.name, lease=self._id)

    def acquire(self) -> Self:
        """Wait for the permit.

        Raises:
            LockUnavailable: it was not free in time.
            LockLimitMismatch: the lock is in use with another number of permits.
        """
        # For those who look at what holds a lock; the last part makes it unique.
        self._id = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:12]}"
        self._lost.clear()
        self._ended.clear()
        clock = self._engine.clock
        began = clock.monotonic()
        self.token = self._ask(wait=self._timeout != 0)
        pause = _LOOK_FIRST
        while not self.token:
            waited = clock.monotonic() - began
            if self._timeout is not None and waited >= self._timeout:
                self._leave()
                holders = [str(claim.claimant) for claim in self._engine.read_locks((self.name,))[0].holders]
                raise LockUnavailable(self.name, limit=self._permits, holders=tuple(holders), waited=waited)
            self._pause(pause)
            pause = min(pause * 2, _LOOK_MOST)
            self.token = self._ask(renew=True)
        renewing = threading.Thread(target=self._renew, name=f"lease of {self.name}", daemon=True)
        renewing.start()
        self._renewing = renewing
        return self

    def release(self) -> None:
        """Give the permit back. Nothing happens if it is not held any more."""
        if not self._id:
            return
        self._ended.set()
        if self._renewing is not None:
            self._renewing.join()
        self._leave()

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _ask(self, *, wait: bool = True, renew: bool = False) -> int:
        asked = TakeLease(self.name, self._permits, self._id, self._ttl, self._engine.clock.now(), wait, renew)
        [answer] = self._engine.write([asked])
        assert isinstance(answer, Done)
        return answer.token

    def _pause(self, seconds: float) -> None:
        """Between two looks at whether it was granted."""
        self._engine.clock.sleep(seconds)

    def _leave(self) -> None:
        [answer] = self._engine.write([LeaveLease(self.name, self._id, self._engine.clock.now())])
        self._id, self.token = "", 0
        assert isinstance(answer, Done)
        self._engine.nudge(answer.touched)

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(self._ttl / 3):
            try:
                self._ask(renew=True)
            except LockLost:
                self._lost.set()
                log.error("the lease of lock %r is over: somebody else may have the lock now", self.name)  # noqa: TRY400
                return
            except RayflowError as error:
                log.warning("the lease of lock %r cannot be renewed now: %s", self.name, error)
                if time.monotonic() - renewed > self._ttl:
                    self._lost.set()
            else:
                renewed = time.monotonic()
                self._lost.clear()


@dataclass(frozen=True, slots=True)
class LockInfo:
    """A lock or semaphore and its claims.

    Args:
        name: its name.
        permits: how many may have it at a time.
        holders: who has it, in the order in which they got it.
        waiting: who waits for it, the next one first.
    """

    name: str
    permits: int
    holders: tuple[Claim, ...]
    waiting: tuple[Claim, ...]


@refused_in_workflows("engine.locks")
class Locks:
    """The locks of an engine's store: ``engine.locks``.

    Args:
        engine: the engine.

    Example:
        >>> [(lock.name, len(lock.waiting)) for lock in engine.locks.list()]  # doctest: +SKIP
    """

    def __init__(self, engine: ExecutionCommands) -> None:
        self._engine = engine

    def list(self) -> list[LockInfo]:
        """The locks that somebody has or waits for, by name."""
        return [lock_info(lock) for lock in self._engine.read_locks(None)]

    def check(self, name: str, token: int) -> None:
        """Whether a fencing token is good: nobody else was granted that permit since.

        Raises:
            LockLost: its holder has given it back, or has lost it.
        """
        found = self._engine.read_locks((name,))
        if not found or not machine.check(found[0], token):
            raise LockLost(name, lease=f"token {token}")

    def release(self, name: str, lease: str) -> None:
        """Take a script's lease away, by its id as :meth:`list` shows it."""
        [answer] = self._engine.write([LeaveLease(name, lease, self._engine.clock.now())])
        assert isinstance(answer, Done)
        self._engine.nudge(answer.touched)


def lock_info(lock: Lock) -> LockInfo:
    """A lock as people see it."""
    return LockInfo(lock.name, lock.limit, lock.holders, lock.waiting)
