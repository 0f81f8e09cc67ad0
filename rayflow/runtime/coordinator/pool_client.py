"""Pool client of a coordinator: reports demand and held slots to one pool, and applies the pool's decisions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from rayflow.core.execution.execution import RunAttempt
from rayflow.core.pool import Grant, LeaseRevoked, Recall
from rayflow.core.pool.slots import Key, Report, Slots
from rayflow.errors import Failure
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, Reply, send_to
from rayflow.runtime.messages import TaskMessage, TaskOutcome, pack, unpack

log = logging.getLogger(__name__)

#: Seconds between two attempts to reach the pool, and attempts after which the store is asked whether the pool exists.
RETRY_DELAY, LOOKUP_AFTER = 0.2, 10


class AttemptCallbacks(Protocol):
    """Coordinator interface used by dispatchers and local step runners."""

    name: str

    def submit(self, action: Callable[[], None]) -> None:
        """Run the action on the coordinator's thread."""

    def submit_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run the action on the coordinator's thread after a delay."""

    def now(self) -> float:
        """Return the time in seconds since the epoch."""

    def message(self, run: RunAttempt, execution_id: str) -> TaskMessage | None:
        """Return the task for a worker; None if it is no longer wanted."""

    def code_fingerprint(self, execution_id: str) -> str:
        """Return the fingerprint of the code that an execution runs; "" if it is unknown now."""

    def sent(self, key: Key, at: float) -> None:
        """Receive that an attempt has begun, or was sent to a slot where it begins at once."""

    def outcome(self, outcome: TaskOutcome, worker: str, epoch: int) -> None:
        """Receive the outcome of an attempt of that epoch."""

    def lost(self, key: Key, failure: Failure, *, exclusive: bool, worker: str, epoch: int) -> None:
        """Receive that an attempt was lost with its worker."""

    def not_begun(self, key: Key, epoch: int) -> None:
        """Receive that an attempt was returned before it began."""

    def refused(self, key: Key, error: BaseException) -> None:
        """Receive that an attempt cannot be made."""

    def waits(self, key: Key, why: str) -> None:
        """Receive that an attempt waits for a resource that the cluster does not have."""

    def look_up_pool(self, pool: str) -> None:
        """Check whether a pool still exists that cannot be reached or was restarted."""


class PoolClient:
    """Reports to one pool: one report under way at a time. All methods run on the coordinator's thread.

    Args:
        slots: the slots to report.
        apply: receives the pool's epoch and its decisions.

    Attributes:
        full: whether the pool's queue was at its limit at the last reply.
    """

    def __init__(
        self,
        host: AttemptCallbacks,
        system: ActorSystem,
        pool: str,
        slots: Slots,
        apply: Callable[[int, Sequence[Grant | Recall | LeaseRevoked]], None],
    ) -> None:
        self.full = False
        self._host = host
        self._system = system
        self._pool = pool
        self._slots = slots
        self._apply = apply
        self._reporting = False
        self._failures = 0

    def report(self) -> None:
        """Report the changes since the last report, if there are any."""
        if not self._reporting:
            report = self._slots.report()
            if report is not None:
                self._send(report)

    def report_all(self) -> None:
        """Report everything again: the pool forgets coordinators that stay silent."""
        if not self._reporting and (self._slots.has_waiting or self._slots.holding or self.full):
            self._send(self._slots.full_report())

    def _send(self, report: Report) -> None:
        self._reporting = True

        def replied(reply: Reply) -> None:
            self._host.submit(lambda: self._replied(report, reply))

        send_to(self._system, actor_names.pool(self._pool), "update", pack((self._host.name, report)), then=replied)

    def _replied(self, report: Report, reply: Reply) -> None:
        self._reporting = False
        if reply.error is not None:
            self._failed(reply.error)
            return
        self._failures = 0
        epoch, commands, self.full = unpack(reply.value)
        if 0 < self._slots.epoch < epoch:
            self._host.look_up_pool(self._pool)
        self._slots.report_received(report)
        self._apply(epoch, commands)

    def _failed(self, error: BaseException) -> None:
        if not self._failures:
            log.warning("cannot report to pool %s, retrying: %s", self._pool, error)
        self._failures += 1
        if self._failures % LOOKUP_AFTER == 0:
            self._host.look_up_pool(self._pool)
        self._slots.report_lost()
        self._reporting = True  # until the pause has passed
        self._host.submit_later(RETRY_DELAY, self._resume)

    def _resume(self) -> None:
        self._reporting = False
