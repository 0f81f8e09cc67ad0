"""Records that a store keeps beside executions, their journals and their inboxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayflow.ids import ExecutionStatus

#: The value of an attribute by which executions are found.
Attribute = str | int | float | bool


@dataclass(frozen=True, slots=True)
class DefinitionRecord:
    """A saved workflow definition: enough to run it by id alone."""

    workflow_id: str
    version: str
    name: str
    description: str
    code: bytes
    source_sha256: str
    saved_at: float
    environment: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that used up its attempts, kept until it is requeued or discarded.

    Args:
        execution_id: whose task.
        step: the step's number in the execution.
        seq: position of the journal entry that records the failure; of the next entry, if none does
            (``checkpoints="off"``).
        workflow_id: the execution's workflow.
        name: the step's name.
        attempts: the number of its last attempt.
        at: when it failed for good.
        began: when the last attempt began; 0.0 if nobody knows.
        worker: who ran the last attempt.
        failure: the encoded failure of the last attempt.
        input: the encoded ``[args, kwargs]`` of the step.
    """

    execution_id: str
    step: int
    seq: int
    workflow_id: str
    name: str
    attempts: int
    at: float
    began: float
    worker: str
    failure: bytes
    input: bytes


@dataclass(frozen=True, slots=True)
class StepNote:
    """The newest thing that is known of a step under way, beside the journal, for those who look at it.

    Args:
        step: the step's number.
        attempt: of which attempt.
        at: when.
        kind: what it is: "progress" that the step reported, or what it waits for.
        body: it, encoded.
    """

    step: int
    attempt: int
    at: float
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """The configuration of a pool as it was last saved, encoded."""

    name: str
    config: bytes
    saved_at: float


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule as it was last saved.

    Args:
        name: its name.
        spec: when it starts what, encoded.
        state: where it is, encoded.
        version: rises with every change of the spec or the state.
        wake: when it is to be looked at again, in seconds since the epoch; None for never by itself.
        created_at: when it was made.
    """

    name: str
    spec: bytes
    state: bytes
    version: int
    wake: float | None
    created_at: float


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """What is known of a large value that is kept by its digest.

    Args:
        digest: SHA-256 of its payload, in hex.
        size: bytes of that.
        free_at: since when nothing is known to refer to it; None while something does, and until that is looked at.
        place: where it is, in stores that keep values apart from their records.
    """

    digest: str
    size: int
    free_at: float | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class ValueReference:
    """A record of an execution refers to a large value, which therefore is not collected.

    Args:
        execution_id: whose record.
        place: which kind of record: "input", "journal", "inbox" or "letter".
        position: which one: the number of the run, the position of the entry, of the inbox row, or of the step.
        digest: the value's.
    """

    execution_id: str
    place: str
    position: int
    digest: str


# --- records ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """The row of one execution: all that a list shows and that fencing needs, without its journal.

    Args:
        id: the execution's id.
        workflow_id: the workflow's id.
        version: the workflow's version at the start.
        status: as of the committed journal.
        priority: 0 to 9; higher first.
        created_at: when the start was accepted.
        updated_at: when the last operation was applied.
        input: the encoded arguments.
        identity: digest of workflow id and canonical input; empty if the input cannot be compared.
        start_nonce: the starting client's nonce, so that its own retries are recognised; of a child: which call it is.
        code: encoded reference to the workflow's code.
        options: encoded execution options.
        environment: id of the code environment.
        epoch: number of the newest owner; 0 before the first.
        owner: nonce of the newest owner; empty if nobody drives the execution.
        coordinator: name of the actor that drives it, for people.
        last_seq: position of the newest journal entry.
        last_digest: digest of the newest append.
        inbox_last: number of the newest inbox row ever accepted.
        inbox_done: inbox rows up to this number have been applied.
        runnable_at: when it needs an owner; None while it has one, or needs none.
        deadline: when the execution's own time is up.
        result: the encoded result, once completed.
        failure: the encoded failure, once failed, or why it is paused or was cancelled.
        parent: id of the execution that started it as its child; "" if none did.
        parent_step: number of the call by which it did, if that waits for the result; the same less than zero, if it
            does not, and the execution is to be cancelled when its parent ends; else 0.
        run: how often it has continued as new, and one.
        singleton: no other unfinished execution has the same; "" for any.
        schedule: name of the schedule that started it; "" if none did.
        forked_from: id of the execution whose journal it took over; "" if it is no fork.
        waits: what it waits for, as text (:mod:`rayflow.core.execution.requests`); "" for nothing that is kept here.
        claims: how many permits of locks it has or waits for.
        expires_at: when it may be deleted, once it is over; None for never by itself.
        code_fingerprint: digest of the code that the workflow's start saw; "" if it is not known.
        environment_id: short id of the code environment, by which coordinators and workers are grouped; "" if it is
            not known.
        seed: seed of the execution's random numbers, 0 to 2**63 - 1; the same in every replay.
        trace: W3C ``traceparent`` of the caller that started the execution; "" without a trace.
        attributes: values by which the execution is found in lists, by name; set at the start.
    """

    id: str
    workflow_id: str
    version: str
    status: ExecutionStatus
    priority: int
    created_at: float
    updated_at: float
    input: bytes
    identity: str
    start_nonce: str
    code: bytes
    options: bytes
    environment: str
    epoch: int = 0
    owner: str = ""
    coordinator: str = ""
    last_seq: int = 0
    last_digest: str = ""
    inbox_last: int = 0
    inbox_done: int = 0
    runnable_at: float | None = None
    deadline: float | None = None
    result: bytes | None = None
    failure: bytes | None = None
    parent: str = ""
    parent_step: int = 0
    run: int = 1
    singleton: str = ""
    schedule: str = ""
    forked_from: str = ""
    waits: str = ""
    claims: int = 0
    expires_at: float | None = None
    code_fingerprint: str = ""
    environment_id: str = ""
    seed: int = 0
    trace: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict, hash=False)

    @property
    def waited_for(self) -> bool:
        """Whether its parent waits for its result."""
        return self.parent_step > 0

    @property
    def waiting_call(self) -> int:
        """Number of the call that waits for its result; 0 if none does."""
        return max(self.parent_step, 0)


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One journal entry as a store keeps it: the encoded entry at its position."""

    seq: int
    body: bytes


@dataclass(frozen=True, slots=True)
class InboxRow:
    """Something from outside that waits to be applied: cancel, pause, resume, a carried result, a signal.

    ``number`` is given by the store, from 1, in the order of acceptance.
    """

    key: str
    kind: str
    body: bytes
    at: float
    number: int = 0
