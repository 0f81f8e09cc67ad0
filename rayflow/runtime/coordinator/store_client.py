"""A coordinator's commits: one under way at a time, sent again until it is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from rayflow.errors import CorruptRecord, RayflowError, WriterFenced
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, Channel, Reply, send_to
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.coordinator.driver import ExecutionDriver, is_fresh
from rayflow.runtime.logs import ThrottledWarning
from rayflow.runtime.messages import pack, unpack
from rayflow.runtime.store.actor import WriterClaimed
from rayflow.storage.model import InboxRow
from rayflow.storage.operations import Answer, Operation, Rejected

log = logging.getLogger(__name__)

#: Seconds between two attempts to reach a store or a pool that does not answer.
RETRY_FIRST, RETRY_MOST = 0.05, 2.0

Members = list[tuple[ExecutionDriver, list[Operation]]]


class CommitQueue:
    """See the module's docstring. Used on the coordinator's thread only.

    What the executions' code has made that is large goes to the store first: their operations refer to it.

    Args:
        line: the way to the store.
        put: has the store keep a large value: its digest and payload, and who is told.
        post: runs an action on the coordinator's thread.
        later: the same, after some seconds.
        finish: told the answers to a driver's operations.
        fenced: told that another cluster writes this store now.
    """

    def __init__(
        self,
        line: Channel,
        put: Callable[[str, bytes, Callable[[Reply], None]], None],
        post: Callable[[Callable[[], None]], None],
        later: Callable[[float, Callable[[], None]], None],
        *,
        finish: Callable[[ExecutionDriver, Sequence[Answer]], None],
        fenced: Callable[[WriterFenced], None],
    ) -> None:
        self._line = line
        self._put = put
        self._post = post
        self._later = later
        self._finish = finish
        self._fenced = fenced
        self._outage = ThrottledWarning(log, "commits are not answered")
        self.under_way = False

    def send(self, members: Members) -> None:
        """Commit the operations of some drivers, all in one message."""
        self.under_way = True
        request = pack([operation for _, operations in members for operation in operations])
        values = {digest: data for driver, _ in members for digest, (_, data) in driver.values.take().items()}
        self._keep(values, request, members, RETRY_FIRST)

    def _keep(self, values: dict[str, bytes], request: bytes, members: Members, wait: float) -> None:
        """Put the values one after the other, then send the request."""
        if not values:
            self._send(request, members, RETRY_FIRST)
            return
        digest = next(iter(values))

        def kept(answer: Reply) -> None:
            if isinstance(answer.error, WriterFenced):
                self._answered(request, members, answer, wait)
            elif answer.error is not None:
                log.warning("a large value cannot be kept: %s; it is sent again", answer.error)
                self._later(wait, lambda: self._keep(values, request, members, min(wait * 2, RETRY_MOST)))
            else:
                del values[digest]
                self._keep(values, request, members, RETRY_FIRST)

        self._put(digest, values[digest], lambda answer: self._post(lambda: kept(answer)))

    def _send(self, request: bytes, members: Members, wait: float) -> None:
        def reply(answer: Reply) -> None:
            self._post(lambda: self._answered(request, members, answer, wait))

        self._line.send(request, reply, "commit")

    def _answered(self, request: bytes, members: Members, answer: Reply, wait: float) -> None:
        if isinstance(answer.error, WriterFenced):
            self.under_way = False
            self._fenced(answer.error)
            return
        if answer.error is not None:
            self._outage.failed(answer.error)
            self._later(wait, lambda: self._send(request, members, min(wait * 2, RETRY_MOST)))
            return
        self._outage.over()
        self.under_way = False
        answers: list[Answer] = unpack(answer.value)
        for driver, operations in members:
            mine, answers = answers[: len(operations)], answers[len(operations) :]
            self._finish(driver, mine)


#: Seconds until an inbox that could not be read is read again.
_AGAIN = 1.0


class InboxReader:
    """See the module's docstring. Used on the coordinator's thread only.

    Args:
        system: where the store is found.
        post: runs an action on the coordinator's thread.
        later: the same, after some seconds.
        received: told of rows that a driver has not seen.
    """

    def __init__(
        self,
        system: ActorSystem,
        post: Callable[[Callable[[], None]], None],
        later: Callable[[float, Callable[[], None]], None],
        received: Callable[[ExecutionDriver, Sequence[InboxRow]], None],
    ) -> None:
        self._system = system
        self._post = post
        self._later = later
        self._received = received
        self._outage = ThrottledWarning(log, "inboxes cannot be read")

    def read(self, driver: ExecutionDriver) -> None:
        """Read what is new in an execution's inbox."""

        def reply(answer: Reply) -> None:
            self._post(lambda: self._read(driver, answer))

        send_to(self._system, actor_names.PERSISTENCE, "inbox", driver.id, driver.inbox_seen, then=reply)

    def _read(self, driver: ExecutionDriver, answer: Reply) -> None:
        if driver.over:
            return
        if answer.error is not None:
            self._outage.failed(answer.error)
            self._later(_AGAIN, lambda: self.read(driver))
            return
        self._outage.over()
        if answer.value:
            self._received(driver, answer.value)


class ExecutionClaims:
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
        turns: Mailbox,
        held: Callable[[ExecutionDriver], bool],
        loaded: Callable[[ExecutionDriver], None],
        drop: Callable[[ExecutionDriver, object], None],
    ) -> None:
        self._system = system
        self._turns = turns
        self._held = held
        self._loaded = loaded
        self._drop = drop
        self._outage = ThrottledWarning(log, "executions cannot be taken up")
        self._loading = ThrottledWarning(log, "executions cannot be loaded")

    def begin(self, driver: ExecutionDriver) -> None:
        """Take an execution up, a new one or one that has a journal."""
        if is_fresh(driver.record):
            self._load(driver, partial(driver.begin, self._turns.now()))
        else:
            self._claim(driver)

    def _load(self, driver: ExecutionDriver, load: Callable[[], None], wait: float = RETRY_FIRST) -> None:
        if not self._held(driver):
            return
        try:
            load()
        except (RayflowError, OSError) as error:
            self._loading.failed(f"{driver.id}: {error}")
            self._turns.later(wait, lambda: self._load(driver, load, min(wait * 2, RETRY_MOST)))
        else:
            self._loaded(driver)

    def _claim(self, driver: ExecutionDriver, wait: float = RETRY_FIRST) -> None:
        def reply(answer: Reply) -> None:
            self._turns.post(lambda: self._claimed(driver, answer, wait))

        request = pack(driver.claim(self._turns.now()))
        send_to(self._system, actor_names.PERSISTENCE, "take_up", request, then=reply, label=f"take up {driver.id}")

    def _claimed(self, driver: ExecutionDriver, answer: Reply, wait: float) -> None:
        if not self._held(driver):
            return
        if isinstance(answer.error, WriterFenced):
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
        taken: WriterClaimed = unpack(answer.value)
        if isinstance(taken.answer, Rejected):
            self._drop(driver, taken.answer.error)
            return
        record = taken.record
        assert record is not None
        self._load(driver, lambda: driver.restore(record, taken.journal, taken.inbox, self._turns.now()))
