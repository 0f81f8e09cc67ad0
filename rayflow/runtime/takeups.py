"""Makes executions that were assigned to a coordinator ready to be driven: their claims, and what they hold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from rayflow.errors import CorruptRecord, Fenced, RayflowError
from rayflow.runtime import naming
from rayflow.runtime.commits import RETRY_FIRST, RETRY_MOST
from rayflow.runtime.driven import is_fresh
from rayflow.runtime.driver import Driver
from rayflow.runtime.messages import pack, unpack
from rayflow.runtime.outages import Outage
from rayflow.runtime.persistence import TakenUp
from rayflow.runtime.system import ActorSystem, Reply, send_to
from rayflow.runtime.turns import Turns
from rayflow.storage.operations import Refused

log = logging.getLogger(__name__)


class TakeUps:
    """See the module's docstring. Used on the coordinator's thread only.

    Args:
        system: where the store is found.
        turns: the coordinator's thread.
        held: whether the coordinator still wants to drive it.
        loaded: told that an execution is ready.
        drop: told that it is somebody else's, and why.
    """

    def __init__(
        self,
        system: ActorSystem,
        turns: Turns,
        held: Callable[[Driver], bool],
        loaded: Callable[[Driver], None],
        drop: Callable[[Driver, object], None],
    ) -> None:
        self._system = system
        self._turns = turns
        self._held = held
        self._loaded = loaded
        self._drop = drop
        self._outage = Outage(log, "executions cannot be taken up")
        self._loading = Outage(log, "executions cannot be loaded")

    def begin(self, driver: Driver) -> None:
        """Take an execution up, a new one or one that has a journal."""
        if is_fresh(driver.record):
            self._load(driver, partial(driver.begin, self._turns.now()))
        else:
            self._claim(driver)

    def _load(self, driver: Driver, load: Callable[[], None], wait: float = RETRY_FIRST) -> None:
        if not self._held(driver):
            return
        try:
            load()
        except (RayflowError, OSError) as error:
            self._loading.failed(f"{driver.id}: {error}")
            self._turns.later(wait, lambda: self._load(driver, load, min(wait * 2, RETRY_MOST)))
        else:
            self._loaded(driver)

    def _claim(self, driver: Driver, wait: float = RETRY_FIRST) -> None:
        def reply(answer: Reply) -> None:
            self._turns.post(lambda: self._claimed(driver, answer, wait))

        request = pack(driver.claim(self._turns.now()))
        send_to(self._system, naming.PERSISTENCE, "take_up", request, then=reply, label=f"take up {driver.id}")

    def _claimed(self, driver: Driver, answer: Reply, wait: float) -> None:
        if not self._held(driver):
            return
        if isinstance(answer.error, Fenced):
            self._drop(driver, answer.error)
            return
        if isinstance(damage := answer.error, CorruptRecord):  # it is ours now, but cannot be read
            self._load(driver, lambda: driver.set_damaged(damage, self._turns.now()))
            return
        if answer.error is not None:
            self._outage.failed(answer.error)
            self._turns.later(wait, lambda: self._claim(driver, min(wait * 2, RETRY_MOST)))
            return
        self._outage.over()
        taken: TakenUp = unpack(answer.value)
        if isinstance(taken.answer, Refused):
            self._drop(driver, taken.answer.error)
            return
        record = taken.record
        assert record is not None
        self._load(driver, lambda: driver.restore(record, taken.journal, taken.inbox, self._turns.now()))
