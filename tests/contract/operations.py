"""Operations as tests write them, with everything that a test does not care about filled in."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rayflow.core.events import RequestCompleted, label
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.codec.journal import append_digest, decode_entry, encode_failure
from rayflow.storage.model import (
    DeadLetter,
    DefinitionRecord,
    ExecutionRecord,
    InboxRow,
    JournalRow,
    PoolRecord,
    ScheduleRecord,
    StepNote,
)
from rayflow.storage.operations import (
    Append,
    Claim,
    Deliver,
    DeliverTo,
    Done,
    Note,
    Operation,
    Park,
    Rejected,
    ReleaseLock,
    Rewind,
    Start,
    StartChild,
    TakeLease,
    TakeLock,
)
from rayflow.storage.rules.retention import PurgeFilter

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


def park(name: str = "x", *, until: float | None = None, seen: int = 0, epoch: int = 1, at: float = NOW) -> Park:
    """Give an execution up, as an owner does that has seen its inbox up to a row."""
    return Park(name, epoch, until, at, seen)


async def delete(store: Store, *names: str) -> int:
    """Delete executions that are over; answers how many."""
    return len((await store.collect(PurgeFilter(ids=names))).ids)


def deliver(
    name: str = "x",
    key: str = "k",
    *,
    kind: str = "signal",
    at: float = NOW,
    epoch: int | None = None,
    body: bytes = b"",
) -> Deliver:
    return Deliver(name, InboxRow(key, kind, body, at), epoch)


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


def schedule(name: str = "nightly", version: int = 1, **changes: Any) -> ScheduleRecord:
    return replace(ScheduleRecord(name, b"plan", b"state %d" % version, version, NOW + 60, NOW), **changes)


def definition(workflow_id: str = "w", version: str = "1", saved_at: float = NOW) -> DefinitionRecord:
    return DefinitionRecord(workflow_id, version, "name", "description", b"code", "sha", saved_at, "env")


# --- what is asked of others --------------------------------------------------------------------------------
def start_child(
    name: str = "x.1", *, parent: str = "x", step: int = 1, waits: bool = True, **changes: Any
) -> StartChild:
    made = record(
        name,
        workflow_id="child",
        parent=parent,
        parent_step=step if waits else 0,
        start_nonce=f"nonce/1/{step}",
    )
    return StartChild(step, replace(made, **changes))


def end_child(name: str = "x.1", *, failure: Failure | None = None, **changes: Any) -> Append:
    """The last append of a child."""
    if failure is None:
        return end(name, result=b"result", **changes)
    return end(name, status=ExecutionStatus.FAILED, failure=encode_failure(failure), **changes)


def answered(
    step: int = 1,
    kind: str = "child",
    name: str = "child",
    value: int | str | None = None,
    *,
    at: float = NOW,
    **changes: Any,
) -> RequestCompleted:
    """An answer to what the first run of an execution has asked."""
    return replace(RequestCompleted(at, step, label(kind, name), value, run=1), **changes)


def send(
    to: str, key: str = "k", *, step: int = 0, kind: str = "signal", at: float = NOW, body: bytes = b""
) -> DeliverTo:
    return DeliverTo(step, to, InboxRow(key, kind, body, at), "go")


def take(step: int = 1, name: str = "l", limit: int = 1) -> TakeLock:
    return TakeLock(step, name, limit)


def leave(step: int = 1, name: str = "l") -> ReleaseLock:
    return ReleaseLock(step, name)


def lease(
    who: str = "s", *, name: str = "l", limit: int = 1, ttl: float = 30.0, at: float = NOW, **changes: Any
) -> TakeLease:
    return replace(TakeLease(name, limit, who, ttl, at), **changes)


async def answers(store: Store, name: str = "x", *, after: int = 0) -> list[RequestCompleted]:
    """What an execution was answered and has not applied."""
    events = [decode_entry(name, 0, row.body).event for row in await store.inbox(name, after=after)]
    assert all(isinstance(event, RequestCompleted) for event in events), events
    return [event for event in events if isinstance(event, RequestCompleted)]


async def claims(store: Store, name: str = "l") -> list[tuple[str, int]]:
    """Who holds a lock or waits for it, each with the token, in the order of asking."""
    return [(c.execution_id or c.lease, c.token) for lock in await store.locks([name]) for c in lock.claims]


async def everything(store: Store) -> list[object]:
    """All that operations can change, to see that they changed nothing."""
    found: list[object] = [await store.locks(), await store.schedules(), await store.totals(), await store.versions()]
    for execution in await store.executions(Filter()):
        found += [execution, await store.journal(execution.id), await store.inbox(execution.id)]
        found += [await store.notes(execution.id), await store.dead_letters(execution_id=execution.id)]
    return found


# --- committing ---------------------------------------------------------------------------------------------
async def begun(store: Store, *names: str) -> None:
    """Start these executions, and claim them."""
    await done(store, *(start(name) for name in names), *(claim(name) for name in names))


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
    before = await everything(store)
    [answer] = await store.commit([operation])
    assert isinstance(answer, Rejected), answer
    assert type(answer.error) is error, answer.error
    assert await everything(store) == before
    return answer.error


async def row(store: Store, name: str = "x") -> ExecutionRecord:
    found = await store.execution(name)
    assert found is not None
    return found
