"""What a coordinator and one pool tell each other: reports there, answers back."""

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

#: Seconds between two attempts to reach the pool, and attempts after which somebody looks whether there is one.
AGAIN, MISSED = 0.2, 10


class PoolClient:
    """See the module's docstring. One report is under way at a time. Used on the coordinator's thread only.

    Args:
        host: the coordinator.
        system: where the pool is found.
        pool: its name.
        slots: what is reported.
        apply: told the pool's epoch and what it decided.

    Attributes:
        full: whether the pool's queue was at its limit when it last answered.
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
        self._asking = False
        self._missed = 0

    def tell(self) -> None:
        """Tell the pool what it does not know, if there is anything."""
        if not self._asking:
            report = self._slots.report()
            if report is not None:
                self._ask(report)

    def tell_all(self) -> None:
        """Tell the pool everything again; it forgets coordinators that it does not hear from."""
        if not self._asking and (self._slots.wanting or self._slots.holding or self.full):
            self._ask(self._slots.full_report())

    def _ask(self, report: Report) -> None:
        self._asking = True

        def reply(answer: Reply) -> None:
            self._host.post(lambda: self._answered(report, answer))

        send_to(self._system, actor_names.pool(self._pool), "update", pack((self._host.name, report)), then=reply)

    def _answered(self, report: Report, answer: Reply) -> None:
        self._asking = False
        if answer.error is not None:
            self._try_again(answer.error)
            return
        self._missed = 0
        epoch, commands, self.full = unpack(answer.value)
        if 0 < self._slots.epoch < epoch:
            self._host.look_up_pool(self._pool)
        self._slots.told(report)
        self._apply(epoch, commands)

    def _try_again(self, error: BaseException) -> None:
        if not self._missed:
            log.warning("pool %s cannot be reached: %s", self._pool, error)
        self._missed += 1
        if self._missed % MISSED == 0:
            self._host.look_up_pool(self._pool)
        self._slots.forget_told()
        self._asking = True
        self._host.later(AGAIN, self._rested)

    def _rested(self) -> None:
        self._asking = False


class AttemptCallbacks(Protocol):
    """A coordinator, as dispatchers and local runs see it."""

    name: str

    def post(self, action: Callable[[], None]) -> None:
        """Run the action on the coordinator's thread."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """The same, after a while."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def message(self, run: RunAttempt, execution_id: str) -> TaskMessage | None:
        """The task as a worker gets it; None if nobody wants it any more."""

    def code_fingerprint(self, execution_id: str) -> str:
        """The fingerprint of the code that an execution runs; "" if it cannot be told now."""

    def sent(self, key: Key, at: float) -> None:
        """The attempt began, or went out to where it begins at once."""

    def outcome(self, outcome: TaskOutcome, worker: str, epoch: int) -> None:
        """An attempt of that epoch ended."""

    def lost(self, key: Key, failure: Failure, *, alone: bool, worker: str, epoch: int) -> None:
        """An attempt was lost with its worker."""

    def not_begun(self, key: Key, epoch: int) -> None:
        """An attempt was given back."""

    def refused(self, key: Key, error: BaseException) -> None:
        """An attempt cannot be made."""

    def waits(self, key: Key, why: str) -> None:
        """An attempt waits for something that the cluster does not have."""

    def look_up_pool(self, pool: str) -> None:
        """The pool cannot be reached, or its actor is another one: it may have been deleted, or made again."""
