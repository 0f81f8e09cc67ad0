"""A coordinator's commits: one under way at a time, sent again until it is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rayflow.errors import Fenced
from rayflow.runtime.driver import Driver
from rayflow.runtime.messages import pack, unpack
from rayflow.runtime.outages import Outage
from rayflow.runtime.system import Line, Reply
from rayflow.storage.operations import Answer, Operation

log = logging.getLogger(__name__)

#: Seconds between two attempts to reach a store or a pool that does not answer.
RETRY_FIRST, RETRY_MOST = 0.05, 2.0

Members = list[tuple[Driver, list[Operation]]]


class Commits:
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
        line: Line,
        put: Callable[[str, bytes, Callable[[Reply], None]], None],
        post: Callable[[Callable[[], None]], None],
        later: Callable[[float, Callable[[], None]], None],
        *,
        finish: Callable[[Driver, Sequence[Answer]], None],
        fenced: Callable[[Fenced], None],
    ) -> None:
        self._line = line
        self._put = put
        self._post = post
        self._later = later
        self._finish = finish
        self._fenced = fenced
        self._outage = Outage(log, "commits are not answered")
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
            if isinstance(answer.error, Fenced):
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
        if isinstance(answer.error, Fenced):
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
