"""Locks and semaphores for scripts, and the list of who holds them."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rayflow.client.backend import Backend
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.locks import machine
from rayflow.core.locks.machine import Claim, Lock
from rayflow.errors import LockLost, LockUnavailable, RayflowError
from rayflow.storage.operations import Done, LeaveLease, TakeLease

log = logging.getLogger(__name__)

#: Seconds between two checks of whether a lease was granted: the first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25


@refused_in_workflows("lease")
class Lease:
    """A permit of a lock or semaphore held by a script, for ``with``. Made by ``engine.lock()``.

    Args:
        backend: where locks are read and written.
        name: the lock's name.
        permits: how many permits it has.
        ttl: seconds that the lease lasts without being renewed.
        timeout: seconds to wait for the permit at most; None waits without a limit.

    Attributes:
        name: the lock's name.
        token: the fencing token: it rises with each grant of this lock; 0 while it is not held.
    """

    def __init__(self, backend: Backend, name: str, permits: int, ttl: float, timeout: float | None) -> None:
        self.name = name
        self.token = 0
        self._backend = backend
        self._permits = permits
        self._ttl = ttl
        self._timeout = timeout
        self._id = ""
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._renewing: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether the lease ended although this script did not release it: another holder may have the lock."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise LockLost if the lease has ended."""
        if self.lost or not self._id:
            raise LockLost(self.name, lease=self._id)

    def acquire(self) -> Self:
        """Wait for the permit and return the lease.

        Raises:
            LockUnavailable: no permit was free in time.
            LockPermitsMismatch: the lock is in use with another number of permits.
        """
        # Shown in lists of holders; the last part makes the id unique.
        self._id = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:12]}"
        self._lost.clear()
        self._ended.clear()
        clock = self._backend.clock
        began = clock.monotonic()
        self.token = self._ask(wait=self._timeout != 0)
        pause = _FIRST_PAUSE
        while not self.token:
            waited = clock.monotonic() - began
            if self._timeout is not None and waited >= self._timeout:
                self._leave()
                holders = [str(claim.claimant) for claim in self._backend.locks((self.name,))[0].holders]
                raise LockUnavailable(self.name, limit=self._permits, holders=tuple(holders), waited=waited)
            self._pause(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            self.token = self._ask(renew=True)
        renewing = threading.Thread(target=self._renew, name=f"lease of {self.name}", daemon=True)
        renewing.start()
        self._renewing = renewing
        return self

    def release(self) -> None:
        """Release the permit. Does nothing if the permit is no longer held."""
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
        asked = TakeLease(self.name, self._permits, self._id, self._ttl, self._backend.clock.now(), wait, renew)
        [answer] = self._backend.write([asked])
        assert isinstance(answer, Done)
        return answer.token

    def _pause(self, seconds: float) -> None:
        """Wait between two checks of whether the permit was granted."""
        self._backend.clock.sleep(seconds)

    def _leave(self) -> None:
        [answer] = self._backend.write([LeaveLease(self.name, self._id, self._backend.clock.now())])
        self._id, self.token = "", 0
        assert isinstance(answer, Done)
        self._backend.notify(answer.touched)

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(self._ttl / 3):
            try:
                self._ask(renew=True)
            except LockLost:
                self._lost.set()
                log.error("lease of lock %r lost: another holder may have the lock now", self.name)  # noqa: TRY400
                return
            except RayflowError as error:
                log.warning("lease of lock %r not renewed, trying again: %s", self.name, error)
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
        permits: how many claims may hold it at a time.
        holders: claims that hold it, in the order of their grants.
        waiting: claims that wait, the next one first.
    """

    name: str
    permits: int
    holders: tuple[Claim, ...]
    waiting: tuple[Claim, ...]


@refused_in_workflows("engine.locks")
class Locks:
    """The locks of an engine's store: ``engine.locks``.

    Args:
        backend: where locks are read and written.

    Example:
        >>> [(lock.name, len(lock.waiting)) for lock in engine.locks.list()]  # doctest: +SKIP
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def list(self) -> list[LockInfo]:
        """Return the locks that are held or waited for, by name."""
        return [lock_info(lock) for lock in self._backend.locks()]

    def check(self, name: str, token: int) -> None:
        """Check that a fencing token is valid: no other claim was granted that permit since.

        Raises:
            LockLost: the holder released the permit or lost it.
        """
        found = self._backend.locks((name,))
        if not found or not machine.check(found[0], token):
            raise LockLost(name, lease=f"token {token}")

    def release(self, name: str, lease: str) -> None:
        """Revoke a script's lease, by its id as :meth:`list` shows it."""
        [answer] = self._backend.write([LeaveLease(name, lease, self._backend.clock.now())])
        assert isinstance(answer, Done)
        self._backend.notify(answer.touched)


def lock_info(lock: Lock) -> LockInfo:
    """Return a lock as it is shown."""
    return LockInfo(lock.name, lock.limit, lock.holders, lock.waiting)
