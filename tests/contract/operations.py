"""Operations as tests write them, with everything that a test does not care about filled in."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Store
from rayflow.storage.kept import DeadLetter, DefinitionRecord, PoolRecord, StepNote
from rayflow.storage.operations import (
    Append,
    Claim,
    Deliver,
    Done,
    ExecutionRecord,
    InboxRow,
    JournalRow,
    Note,
    Operation,
    Refused,
    Release,
    Rewind,
    Start,
)
from rayflow.storage.records import append_digest

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

NOW = 1000.0


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def record(name: str = "x", **changes: Any) -> ExecutionRecord:
    made = ExecutionRecord(
        id=name,
        workflow_id="w",
        version="1",
        status=ExecutionStatus.PENDING,
        priority=5,
        created_at=NOW,
        updated_at=NOW,
        input=b"input",
        identity="identity",
        start_nonce="nonce",
        code=b"code",
        options=b"options",
        environment="env",
        runnable_at=NOW,
    )
    return replace(made, **changes)


def start(name: str = "x", **changes: Any) -> Start:
    return Start(record(name, **changes))


def claim(name: str = "x", *, expected: int = 0, nonce: str = "owner", at: float = NOW) -> Claim:
    return Claim(name, expected, nonce, f"coordinator of {nonce}", at)


def append(
    name: str = "x",
    *,
    first: int = 1,
    bodies: Sequence[bytes] = (b"entry",),
    epoch: int = 1,
    status: ExecutionStatus = ExecutionStatus.RUNNING,
    at: float = NOW,
    **changes: Any,
) -> Append:
    rows = tuple(JournalRow(first + i, body) for i, body in enumerate(bodies))
    made = Append(name, epoch, first, rows, append_digest(rows), at, status)
    return replace(made, **changes)


def end(name: str = "x", *, status: ExecutionStatus = ExecutionStatus.COMPLETED, **changes: Any) -> Append:
    return append(name, status=status, bodies=(b"ended",), **changes)


def park(name: str = "x", *, until: float | None = None, seen: int = 0, epoch: int = 1, at: float = NOW) -> Release:
    """Give an execution up, as an owner does that has seen its inbox up to a row."""
    return Release(name, epoch, until, at, seen)


def deliver(
    name: str = "x", key: str = "k", *, at: float = NOW, epoch: int | None = None, body: bytes = b""
) -> Deliver:
    return Deliver(name, InboxRow(key, "signal", body, at), epoch)


def rewind(name: str = "x", *, expected: int = 1, last_seq: int = 1, at: float = NOW, **changes: Any) -> Rewind:
    row = JournalRow(last_seq + 1, b"rewound")
    return replace(Rewind(name, expected, last_seq, row, append_digest([row]), (), None, at), **changes)


def letter(name: str = "x", step: int = 1, *, seq: int = 1, at: float = NOW, **changes: Any) -> DeadLetter:
    made = DeadLetter(name, step, seq, "w", f"step{step}", 4, at, at - 1, "worker", b"failure", b"input")
    return replace(made, **changes)


def fail(name: str = "x", *steps: int, first: int = 1, epoch: int = 1, at: float = NOW, **changes: Any) -> Append:
    """An append of one entry for each step, with its dead letter, after which the execution has failed."""
    letters = tuple(letter(name, step, seq=first + i, at=at) for i, step in enumerate(steps))
    bodies = [b"failed %d" % step for step in steps]
    return append(
        name,
        first=first,
        bodies=bodies,
        epoch=epoch,
        status=ExecutionStatus.FAILED,
        at=at,
        dead_letters=letters,
        **changes,
    )


def note(name: str = "x", *notes: StepNote, epoch: int = 1) -> Note:
    return Note(name, epoch, notes)


def pool(name: str = "gpu", config: bytes = b"config", saved_at: float = NOW) -> PoolRecord:
    return PoolRecord(name, config, saved_at)


def definition(workflow_id: str = "w", version: str = "1", saved_at: float = NOW) -> DefinitionRecord:
    return DefinitionRecord(workflow_id, version, "name", "description", b"code", "sha", saved_at, "env")


async def done(store: Store, *operations: Operation) -> Done:
    """Commit them in one transaction; all must be done. Answers the last."""
    answers = await store.commit(operations)
    for answer in answers:
        assert isinstance(answer, Done), answer
    assert len(answers) == len(operations)
    last = answers[-1]
    assert isinstance(last, Done)
    return last


async def refused(store: Store, operation: Operation, error: type[E]) -> E:
    """Commit it; it must be refused with that error, and change nothing."""
    before = await store.execution(operation.execution_id), await store.journal(operation.execution_id)
    [answer] = await store.commit([operation])
    assert isinstance(answer, Refused), answer
    assert type(answer.error) is error, answer.error
    assert (await store.execution(operation.execution_id), await store.journal(operation.execution_id)) == before
    return answer.error


async def row(store: Store, name: str = "x") -> ExecutionRecord:
    found = await store.execution(name)
    assert found is not None
    return found
