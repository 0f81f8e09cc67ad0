"""Group commit: the commits that arrive while one is being written become the next transaction.

A commit costs one wait for the disk, whatever is in it; so waiting for one another is what makes many
executions cheap. Nothing is delayed on purpose: when nothing is being written, a commit is written at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from rayflow.storage.base import Store
from rayflow.storage.operations import Answer, Operation

_Waiter = tuple[tuple[Operation, ...], "asyncio.Future[list[Answer]]"]


class GroupCommitter:
    """Gathers commits into transactions. It owns the order of commits; the store owns what they do.

    Use it from one event loop, and write executions through nothing else.

    Args:
        store: open, and claimed for writing.
        max_operations: operations in one transaction at most; a single commit may be larger, and goes alone.
    """

    def __init__(self, store: Store, *, max_operations: int = 1000) -> None:
        self._store = store
        self._max = max_operations
        self._waiting: deque[_Waiter] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        """Apply the operations, in one transaction with whatever else waits, and answer once they are durable.

        Commits are applied in the order of these calls. One that is cancelled while it waits is left out if it
        is not being written yet; the others go on either way.

        Args:
            operations: all of them in one transaction, in this order.

        Raises:
            StorageUnavailable: the transaction failed, for everybody in it; the same may be sent again.
            Fenced: somebody else writes this store now.
        """
        if not operations:
            return []
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((tuple(operations), future))
        if self._writing is None:
            # A task of its own, so that cancelling a caller never interrupts a transaction.
            self._writing = asyncio.create_task(self._write(), name="group-commit")
        return await future

    async def drain(self) -> None:
        """Wait until all that was asked for is written, or has failed."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._write_group(self._next_group())
        finally:
            self._writing = None

    def _next_group(self) -> list[_Waiter]:
        group: list[_Waiter] = []
        size = 0
        while self._waiting and (not group or size + len(self._waiting[0][0]) <= self._max):
            waiter = self._waiting.popleft()
            if not waiter[1].done():  # cancelled while it waited
                group.append(waiter)
                size += len(waiter[0])
        return group

    async def _write_group(self, group: list[_Waiter]) -> None:
        if not group:
            return
        try:
            answers = await self._store.commit([operation for operations, _ in group for operation in operations])
        except asyncio.CancelledError:  # the event loop is being closed: nobody learns what became of it
            for _, future in [*group, *self._waiting]:
                future.cancel()
            self._waiting.clear()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers' to know, and the next group's turn
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        position = 0
        for operations, future in group:
            if not future.done():
                future.set_result(answers[position : position + len(operations)])
            position += len(operations)
