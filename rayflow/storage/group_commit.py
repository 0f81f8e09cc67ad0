"""Group commit: commits that arrive while another one is written become the next transaction.

A commit costs one wait for the disk, whatever its size; so commits that share a wait make many executions cheap. No
commit is delayed on purpose: if none is being written, a commit is written at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from rayflow.storage.base import Store
from rayflow.storage.operations import Answer, Operation

_Waiter = tuple[tuple[Operation, ...], "asyncio.Future[list[Answer]]"]


class GroupCommitter:
    """Queue of commits in front of a store. The group committer owns their order; the store owns their effect.

    Use it from one event loop, and write executions through nothing else.

    Args:
        store: a store that is open and claimed for writing.
        max_operations: maximum number of operations of one transaction; a larger commit is written alone.
    """

    def __init__(self, store: Store, *, max_operations: int = 1000) -> None:
        self._store = store
        self._max = max_operations
        self._waiting: deque[_Waiter] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        """Apply operations in one transaction with other waiting commits; return the answers once they are durable.

        Commits are applied in the order of the calls. A commit that is cancelled before its transaction begins is left
        out; the others are not affected.

        Args:
            operations: the operations, in order, all in one transaction.

        Raises:
            StorageUnavailable: the transaction failed for all its commits; the same operations may be sent again.
            WriterFenced: another writer has claimed the store.
        """
        if not operations:
            return []
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((tuple(operations), future))
        if self._writing is None:
            # A separate task, so that cancelling a caller never interrupts a transaction.
            self._writing = asyncio.create_task(self._write(), name="group-commit")
        return await future

    async def drain(self) -> None:
        """Wait until all commits are written or have failed."""
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
        except asyncio.CancelledError:  # the event loop is being closed: the outcome stays unknown
            for _, future in [*group, *self._waiting]:
                future.cancel()
            self._waiting.clear()
            raise
        except Exception as error:  # noqa: BLE001 - callers receive any error, and the next group follows
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        position = 0
        for operations, future in group:
            if not future.done():
                future.set_result(answers[position : position + len(operations)])
            position += len(operations)
