"""Records that a store keeps beside executions, their journals and their inboxes."""

from __future__ import annotations

from dataclasses import dataclass


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
class Mention:
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
