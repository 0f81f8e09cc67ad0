"""What the ownership test's coordinators believe, and what its network carries."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from rayflow.ids import ExecutionStatus
from rayflow.storage.operations import Answer, Append, Claim, Done, Operation, Park

STATUSES = (
    *[ExecutionStatus.RUNNING] * 6,
    *[ExecutionStatus.PAUSED] * 2,
    *[ExecutionStatus.FAILED] * 3,
    ExecutionStatus.COMPLETED,
)
who = st.integers(0, 1)
#: What becomes of a message. "twice": answered, and a copy arrives later.
fates = st.sampled_from(["answered", "answered", "delayed", "twice", "reply lost", "lost"])


@dataclass
class Coordinator:
    """What a coordinator believes. It may be wrong: it hears answers late, twice or never."""

    name: str
    #: The epoch it was told it holds; None while it drives nothing.
    epoch: int | None = None
    #: The last entry that it sent.
    last_seq: int = 0
    #: Inbox rows that it has put into an entry.
    inbox_done: int = 0
    claims: int = 0
    #: The claim it waits for.
    claiming: Claim | None = None
    #: What it sent and has no answer for.
    unanswered: list[Operation] = field(default_factory=list)


@dataclass
class Message:
    """An operation on its way from a coordinator (None: from outside) to a writer."""

    sender: Coordinator | None
    operation: Operation


def stops(operation: Operation, answer: Answer) -> bool:
    """Whether an answer tells a coordinator to stop: it is fenced, its journal has a hole, or it gave up."""
    if not isinstance(answer, Done):
        return True
    if isinstance(operation, Park):
        return answer.parked
    return isinstance(operation, Append) and (answer.parked or operation.status.terminal)
