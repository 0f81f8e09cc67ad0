"""Records that a store keeps: executions, their journals and inboxes, schedules, pools, values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayflow.ids import ExecutionStatus

#: The value of an attribute by which executions are found.
Attribute = str | int | float | bool


@dataclass(frozen=True, slots=True)
class DefinitionRecord:
    """Saved workflow definition: enough to run the workflow by its id."""

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
    """Step that failed permanently, kept until a person requeues or discards it.

    Args:
        execution_id: the step's execution.
        step: the step's number in the execution.
        seq: position of the journal entry that records the failure; without such an entry (``checkpoints="off"``),
            the position of the next entry.
        workflow_id: the execution's workflow.
        name: the step's name.
        attempts: number of the last attempt.
        at: when the last attempt failed, in seconds since the epoch.
        began: when the last attempt began; 0.0 if that is not known.
        worker: the worker of the last attempt.
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
    """Newest report of a running step, kept outside the journal for display.

    Args:
        step: the step's number.
        attempt: the attempt that reported.
        at: when, in seconds since the epoch.
        kind: "progress" for what the step reported, or what the step waits for.
        body: the encoded report.
    """

    step: int
    attempt: int
    at: float
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """Configuration of a pool as it was last saved, encoded."""

    name: str
    config: bytes
    saved_at: float


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """Schedule as it was last saved.

    Args:
        name: the schedule's name.
        spec: the encoded plan: which workflow starts when.
        state: the encoded progress of the schedule.
        version: rises with every change of the spec or the state.
        wake: when the scheduler must check the schedule again, in seconds since the epoch; None for never.
        created_at: when the schedule was created.
    """

    name: str
    spec: bytes
    state: bytes
    version: int
    wake: float | None
    created_at: float


@dataclass(frozen=True, slots=True)
class KeyedRecord:
    """Record of a kind without a separate table: a question, a budget, an emitted value.

    A record of an execution is deleted with it.

    Args:
        kind: the kind of record, such as "question".
        key: unique within the kind; lists are ordered by it.
        body: the encoded content.
        at: when it was written, in seconds since the epoch.
        execution_id: the execution to which it belongs; "" for none.
        version: 1 for a new record, then one more with every write; the store sets it.
    """

    kind: str
    key: str
    body: bytes
    at: float = 0.0
    execution_id: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """Large value that is stored under its digest.

    Args:
        digest: SHA-256 of the payload, in hex.
        size: bytes of the payload.
        free_at: since when no record refers to the value; None while one does, and until a collection notices.
        place: the object that holds the payload, in stores that keep values apart from their records.
    """

    digest: str
    size: int
    free_at: float | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class ValueReference:
    """Reference from a record of an execution to a large value, which is not collected while the reference exists.

    Args:
        execution_id: the record's execution.
        place: the kind of record: "input", "journal", "inbox" or "letter".
        position: the number of the run, the position of the entry, of the inbox row, or of the step.
        digest: the value's digest.
    """

    execution_id: str
    place: str
    position: int
    digest: str


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """Row of one execution: all that a list shows and that fencing needs, without the journal.

    Args:
        id: the execution's id.
        workflow_id: the workflow's id.
        version: the workflow's version at the start.
        status: as of the committed journal.
        priority: 0 to 9; higher first.
        created_at: when the start was accepted, in seconds since the epoch.
        updated_at: when the last operation was applied.
        input: the encoded arguments.
        identity: digest of workflow id and canonical input; "" if inputs like this cannot be compared.
        start_nonce: the starting client's nonce, by which its own retries are recognised; of a child, the call that
            started it.
        code: encoded reference to the workflow's code.
        options: encoded execution options.
        environment: the code environment, as JSON.
        epoch: number of the newest owner; 0 before the first.
        owner: nonce of the newest owner; "" while the execution has no owner.
        coordinator: name of the owner's actor, for display.
        last_seq: position of the newest journal entry.
        last_digest: digest of the newest append.
        inbox_last: number of the newest inbox row ever accepted.
        inbox_done: inbox rows up to this number have been applied.
        runnable_at: when the execution needs an owner; None while it has one or needs none.
        deadline: when the execution times out.
        result: the encoded result, once completed.
        failure: the encoded failure, once failed; the encoded reason of a pause or a cancellation.
        parent: id of the execution that started this one as its child; "" for none.
        parent_step: number of the parent's call that waits for the result. Negative if the parent does not wait and
            the child is cancelled when its parent ends; 0 otherwise.
        run: 1, and one more each time the execution continues as new.
        singleton: no other unfinished execution has the same key; "" for none.
        schedule: name of the schedule that started the execution; "" for none.
        forked_from: id of the execution whose journal was taken over; "" if the execution is not a fork.
        waits: what the execution waits for, as text (:mod:`rayflow.core.execution.requests`); "" for nothing.
        claims: permits of locks that the execution holds or waits for.
        expires_at: when the execution may be deleted after its end; None for never.
        code_fingerprint: digest of the code that the workflow's start saw; "" if it is not known.
        environment_id: short id of the code environment, by which coordinators and workers are grouped; "" if it is
            not known.
        seed: seed of the execution's random numbers, 0 to 2**63 - 1; the same in every replay.
        trace: W3C ``traceparent`` of the caller that started the execution; "" without a trace.
        attributes: values by which lists find the execution, by name; set at the start.
        error_type: class of the recorded failure as ``module.Qualname``; "" without one.
        error_text: message of the recorded failure, shortened.
        number: position among all executions of the store, in the order of their starts; set by the store.
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
    error_type: str = ""
    error_text: str = ""
    number: int = field(default=0, compare=False, repr=False)

    @property
    def waited_for(self) -> bool:
        """Whether the parent waits for the result."""
        return self.parent_step > 0

    @property
    def waiting_call(self) -> int:
        """Number of the parent's call that waits for the result; 0 if none does."""
        return max(self.parent_step, 0)


#: Fields of an execution that only its start needs, and that stores keep apart from those that change.
START_FIELDS = (
    "input", "code", "options", "environment", "code_fingerprint", "environment_id", "seed", "trace", "attributes",
)  # fmt: skip
#: Other fields that never change after the start.
FIXED_FIELDS = (
    "id", "workflow_id", "version", "priority", "created_at", "identity", "start_nonce", "parent", "parent_step",
    "singleton", "schedule", "forked_from", "number",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JournalRow:
    """Journal entry as a store keeps it: the encoded entry at its position."""

    seq: int
    body: bytes


@dataclass(frozen=True, slots=True)
class InboxRow:
    """Message to an execution that is not applied yet: a cancellation, a pause, a signal, an answer.

    Args:
        key: unique in the execution's inbox, so that a repeated message is accepted once.
        kind: the kind of message.
        body: the encoded message.
        at: when it was accepted, in seconds since the epoch. A message that was accepted before a timer was due is
            older than the timer's event.
        number: position in the inbox, from 1, in the order of acceptance; set by the store.
    """

    key: str
    kind: str
    body: bytes
    at: float
    number: int = 0
