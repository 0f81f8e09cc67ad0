"""Store client of a coordinator: claims, inbox reads and commits.

Every request is repeated until the store has answered it, and the answer arrives on the coordinator's thread. There is
at most one commit under way; what happens during that time becomes the next commit. If the reply of the
store is `WriterFenced`, another cluster writes it, and nothing is repeated.
"""

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
from rayflow.runtime.store.actor import ClaimResult
from rayflow.storage.model import InboxRow
from rayflow.storage.operations import Answer, Operation, Rejected

log = logging.getLogger(__name__)

#: Seconds between two attempts to reach a store or a pool that does not reply: the first pause, and the longest.
RETRY_FIRST, RETRY_MOST = 0.05, 2.0

#: Seconds until an inbox that could not be read is read again.
_INBOX_RETRY = 1.0

Members = list[tuple[ExecutionDriver, list[Operation]]]
"""What one commit writes: the operations of each driver."""

Again = Callable[[], None]


class ExecutionClaims:
    """Claims executions for the coordinator and loads them into their drivers.

    Args:
        wanted: returns whether the coordinator still wants to drive the execution.
        loaded: receives a driver whose execution is ready.
        drop: receives a driver whose execution belongs to another coordinator, and why.
    """

    def __init__(
        self,
        system: ActorSystem,
        mailbox: Mailbox,
        wanted: Callable[[ExecutionDriver], bool],
        loaded: Callable[[ExecutionDriver], None],
        drop: Callable[[ExecutionDriver, object], None],
    ) -> None:
        self._system = system
        self._mailbox = mailbox
        self._wanted = wanted
        self._loaded = loaded
        self._drop = drop
        self._outage = ThrottledWarning(log, "executions cannot be claimed")
        self._load_outage = ThrottledWarning(log, "executions cannot be loaded")

    def begin(self, driver: ExecutionDriver) -> None:
        """Claim and load an execution. The claim of a new one is written with its first entry."""
        if is_fresh(driver.record):
            self._load(driver, partial(driver.begin, self._mailbox.now()))
        else:
            self._mailbox.retry(partial(self._claim, driver), RETRY_FIRST, RETRY_MOST)

    def _load(self, driver: ExecutionDriver, load: Callable[[], None]) -> None:
        self._mailbox.retry(partial(self._try_to_load, driver, load), RETRY_FIRST, RETRY_MOST)

    def _try_to_load(self, driver: ExecutionDriver, load: Callable[[], None], again: Again) -> None:
        if not self._wanted(driver):
            return
        try:
            load()
        except (RayflowError, OSError) as error:
            self._load_outage.failed(f"{driver.id}: {error}")
            again()
        else:
            self._loaded(driver)

    def _claim(self, driver: ExecutionDriver, again: Again) -> None:
        def replied(reply: Reply) -> None:
            self._mailbox.submit(lambda: self._claimed(driver, reply, again))

        request = pack(driver.claim(self._mailbox.now()))
        send_to(self._system, actor_names.STORE, "claim", request, then=replied, label=f"claim {driver.id}")

    def _claimed(self, driver: ExecutionDriver, reply: Reply, again: Again) -> None:
        if not self._wanted(driver):
            return
        if isinstance(reply.error, WriterFenced):
            self._drop(driver, reply.error)
            return
        if isinstance(damage := reply.error, CorruptRecord):  # claimed, but unreadable
            self._load(driver, lambda: driver.set_damaged(damage, self._mailbox.now()))
            return
        if reply.error is not None:
            self._outage.failed(reply.error)
            again()
            return
        self._outage.recovered()
        claimed: ClaimResult = unpack(reply.value)
        if isinstance(claimed.answer, Rejected):
            self._drop(driver, claimed.answer.error)
            return
        record = claimed.record
        assert record is not None
        self._load(driver, lambda: driver.restore(record, claimed.journal, claimed.inbox, self._mailbox.now()))


class InboxReader:
    """Reads the inboxes of executions.

    Args:
        received: receives the rows that a driver has not seen.
    """

    def __init__(
        self,
        system: ActorSystem,
        mailbox: Mailbox,
        received: Callable[[ExecutionDriver, Sequence[InboxRow]], None],
    ) -> None:
        self._system = system
        self._mailbox = mailbox
        self._received = received
        self._outage = ThrottledWarning(log, "inboxes cannot be read")

    def read(self, driver: ExecutionDriver) -> None:
        """Read the new rows of an execution's inbox."""
        self._mailbox.retry(partial(self._read, driver), _INBOX_RETRY)

    def _read(self, driver: ExecutionDriver, again: Again) -> None:
        def replied(reply: Reply) -> None:
            self._mailbox.submit(lambda: self._replied(driver, reply, again))

        send_to(self._system, actor_names.STORE, "inbox", driver.id, driver.inbox_seen, then=replied)

    def _replied(self, driver: ExecutionDriver, reply: Reply, again: Again) -> None:
        if driver.over:
            return
        if reply.error is not None:
            self._outage.failed(reply.error)
            again()
            return
        self._outage.recovered()
        if reply.value:
            self._received(driver, reply.value)


class CommitQueue:
    """Commits the operations of drivers: one commit under way at a time.

    Large values that the workflows' code has made are put into the store first, because the operations refer to them.

    Args:
        channel: the channel to the store.
        put: puts a large value into the store: its digest, its payload, and the callback for the reply.
        finish: receives the answers to a driver's operations.
        fenced: receives the error when another cluster writes the store.
    """

    def __init__(
        self,
        channel: Channel,
        put: Callable[[str, bytes, Callable[[Reply], None]], None],
        mailbox: Mailbox,
        *,
        finish: Callable[[ExecutionDriver, Sequence[Answer]], None],
        fenced: Callable[[WriterFenced], None],
    ) -> None:
        self._channel = channel
        self._put = put
        self._mailbox = mailbox
        self._finish = finish
        self._fenced = fenced
        self._outage = ThrottledWarning(log, "commits get no reply")
        self.under_way = False

    def send(self, members: Members) -> None:
        """Commit the operations of some drivers in one message."""
        self.under_way = True
        request = pack([operation for _, operations in members for operation in operations])
        values = {digest: data for driver, _ in members for digest, (_, data) in driver.values.take().items()}
        self._put_values(values, partial(self._send_request, request, members))

    def _put_values(self, values: dict[str, bytes], then: Callable[[], None]) -> None:
        """Put the values one after another, then continue with ``then``."""
        if values:
            self._mailbox.retry(partial(self._put_next, values, then), RETRY_FIRST, RETRY_MOST)
        else:
            then()

    def _put_next(self, values: dict[str, bytes], then: Callable[[], None], again: Again) -> None:
        digest = next(iter(values))

        def stored(reply: Reply) -> None:
            if isinstance(reply.error, WriterFenced):
                self._stop(reply.error)
            elif reply.error is not None:
                log.warning("cannot store a large value, retrying: %s", reply.error)
                again()
            else:
                del values[digest]
                self._put_values(values, then)

        self._put(digest, values[digest], lambda reply: self._mailbox.submit(lambda: stored(reply)))

    def _send_request(self, request: bytes, members: Members) -> None:
        def attempt(again: Again) -> None:
            def replied(reply: Reply) -> None:
                self._mailbox.submit(lambda: self._replied(members, reply, again))

            self._channel.send(request, replied, "commit")

        self._mailbox.retry(attempt, RETRY_FIRST, RETRY_MOST)

    def _replied(self, members: Members, reply: Reply, again: Again) -> None:
        if isinstance(reply.error, WriterFenced):
            self._stop(reply.error)
            return
        if reply.error is not None:
            self._outage.failed(reply.error)
            again()
            return
        self._outage.recovered()
        self.under_way = False
        answers: list[Answer] = unpack(reply.value)
        for driver, operations in members:
            mine, answers = answers[: len(operations)], answers[len(operations) :]
            self._finish(driver, mine)

    def _stop(self, error: WriterFenced) -> None:
        self.under_way = False
        self._fenced(error)
