"""Dead letters: failed steps and signals that did not fit, to list, requeue and discard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rayflow.client.backend import Backend
from rayflow.client.views import decode_or_placeholder
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.events import AttemptFailed, Entry, StepFailed, kind_and_name
from rayflow.errors import CorruptRecord, DeadLetterNotFound, Failure, InvalidTransition
from rayflow.ids import ExecutionStatus
from rayflow.storage.codec.journal import decode_failure
from rayflow.storage.damage import damage_failure, failure_or_damage, readable
from rayflow.storage.model import DeadLetter, ExecutionRecord


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One attempt that failed.

    Args:
        attempt: its number, from 1.
        at: when that was recorded, in seconds since the epoch.
        began: when it began; None if that is unknown.
        worker: name of the worker that ran it; "" without a worker, or if that is unknown.
        error: how it failed.
        counts: whether it used up one of the step's attempts; False for one that was lost with its worker.
    """

    attempt: int
    at: float
    began: float | None
    worker: str
    error: Failure
    counts: bool


@dataclass(frozen=True, slots=True)
class DeadLetterInfo:
    """A step that used up its attempts, or a signal whose payload was not what the workflow waited for.

    Args:
        execution_id: whose step.
        step: its number in the execution; of a signal, a negative number.
        name: its name.
        workflow_id: the execution's workflow.
        attempts: number of its last attempt.
        at: when it failed permanently, in seconds since the epoch.
        began: when its last attempt began; None if that is unknown.
        worker: name of the worker that ran the last attempt.
        error: how that failed.
        args: arguments of the step, or the signal's payload; as plain data where the classes cannot be imported.
        kwargs: the same, by name.
        handled: the execution did not fail because of it: the workflow's code caught the failure, or the execution
            ended otherwise, or it has not finished. Such a letter can only be discarded.
        history: all failed attempts in their order; only where one letter was asked for.
        kind: "step", "undo" (a compensation) or "signal".
    """

    execution_id: str
    step: int
    name: str
    workflow_id: str
    attempts: int
    at: float
    began: float | None
    worker: str
    error: Failure
    args: Sequence[Any]
    kwargs: dict[str, Any]
    handled: bool
    history: tuple[FailedAttempt, ...] = ()
    kind: str = "step"

    @property
    def input(self) -> tuple[Sequence[Any], dict[str, Any]]:
        """What the step was called with: ``(args, kwargs)``."""
        return self.args, self.kwargs


@refused_in_workflows("engine.dead_letters")
class DeadLetters:
    """The dead letters of an engine's store: ``engine.dead_letters``.

    Args:
        backend: where dead letters are read and deleted.
        decode: decodes payloads.
        resume: resumes an execution, by its id.

    Example:
        >>> for letter in engine.dead_letters.list(workflow="analyse"):  # doctest: +SKIP
        ...     if not letter.handled:
        ...         engine.dead_letters.requeue(letter.execution_id, letter.step)
    """

    def __init__(self, backend: Backend, decode: Callable[[bytes], Any], resume: Callable[[str], None]) -> None:
        self._backend = backend
        self._decode = decode
        self._resume = resume

    def show(self, execution_id: str, step: int) -> DeadLetterInfo:
        """One dead letter with the history of its attempts. Raises DeadLetterNotFound."""
        letter, record = self._find(execution_id, step)
        rows = self._backend.journal(execution_id)
        return letter_info(letter, record, self._decode, readable(execution_id, rows, record.last_seq)[0])

    def requeue(self, execution_id: str, step: int) -> None:
        """Try the step again, with fresh attempts: the same as ``engine.resume`` of the execution that it failed.

        Raises:
            DeadLetterNotFound: the dead letter does not exist.
            InvalidTransition: the execution did not fail because of that step.
        """
        letter, record = self._find(execution_id, step)
        kind, name = kind_and_name(letter.name)
        if kind == "signal":
            hint = "Send it again with a payload that fits: the dead letter can only be discarded"
            raise InvalidTransition(execution_id, status=record.status, action=f"requeue signal {name} of", hint=hint)
        if is_handled(letter, record):
            hint = "It did not fail because of this step: the dead letter can only be discarded"
            if not record.status.terminal:
                hint = "It may fail because of this step yet, and can be requeued then; until then, only discarded"
            raise InvalidTransition(execution_id, status=record.status, action=f"requeue step {step} of", hint=hint)
        self._resume(execution_id)

    def discard(self, execution_id: str, step: int) -> None:
        """Delete a dead letter; its execution stays as it is. Raises DeadLetterNotFound."""
        if not self._backend.delete_dead_letter(execution_id, step):
            raise DeadLetterNotFound(execution_id, step)

    def list(
        self, *, workflow: str | None = None, execution: str | None = None, limit: int = 100
    ) -> list[DeadLetterInfo]:
        """Dead letters, newest first, without the histories of their attempts.

        Args:
            workflow: only those of that workflow id.
            execution: only those of that execution.
            limit: maximum number of returned dead letters.
        """
        letters = self._backend.dead_letters(execution, workflow, limit)
        ids = dict.fromkeys(letter.execution_id for letter in letters)
        return infos(letters, (self._backend.execution(name) for name in ids), self._decode)

    def _find(self, execution_id: str, step: int) -> tuple[DeadLetter, ExecutionRecord]:
        found = self._backend.dead_letters(execution_id, None, 1, step)
        record = self._backend.execution(execution_id)
        if not found or record is None:
            raise DeadLetterNotFound(execution_id, step)
        return found[0], record


# --- from records to what a person sees -------------------------------------------------------------------
def is_handled(letter: DeadLetter, record: ExecutionRecord) -> bool:
    """Whether the execution is anything but failed because of that step."""
    failure = failure_or_damage(record) if record.status is ExecutionStatus.FAILED else None
    return failure is None or failure.step != letter.step


def letter_info(
    letter: DeadLetter, record: ExecutionRecord, decode: Callable[[bytes], Any], entries: Iterable[Entry] | None = None
) -> DeadLetterInfo:
    """Return the public form of a dead letter.

    Args:
        letter: the letter.
        record: its execution's row.
        decode: reads payloads.
        entries: the execution's journal, as far as it can be read, for the history; None leaves that out.
    """
    kind, name = kind_and_name(letter.name)
    said = decode_or_placeholder(decode)(letter.input)
    args, kwargs = ((said,), {}) if kind == "signal" or isinstance(said, str) else said
    return DeadLetterInfo(
        execution_id=letter.execution_id,
        step=letter.step,
        name=name,
        workflow_id=letter.workflow_id,
        attempts=letter.attempts,
        at=letter.at,
        began=letter.began or None,
        worker=letter.worker,
        error=_error(letter),
        args=args,
        kwargs=kwargs,
        handled=is_handled(letter, record),
        history=() if entries is None else tuple(_history(letter, entries)),
        kind=kind,
    )


def infos(
    letters: Sequence[DeadLetter], records: Iterable[ExecutionRecord | None], decode: Callable[[bytes], Any]
) -> list[DeadLetterInfo]:
    """Return the public form of dead letters, except of those whose executions have been deleted.

    Args:
        letters: the letters.
        records: the rows of their executions.
        decode: reads payloads.
    """
    known = {record.id: record for record in records if record is not None}
    return [
        letter_info(letter, known[letter.execution_id], decode) for letter in letters if letter.execution_id in known
    ]


def _history(letter: DeadLetter, entries: Iterable[Entry]) -> Iterator[FailedAttempt]:
    # Also what a rewind superseded: those attempts were made. Another step may have had the number then.
    for entry in entries:
        event = entry.event
        if isinstance(event, AttemptFailed | StepFailed) and entry.seq <= letter.seq:
            counts = event.counts if isinstance(event, AttemptFailed) else True
            if (event.step, event.name) == (letter.step, letter.name) and event.attempt < letter.attempts:
                yield FailedAttempt(event.attempt, event.at, event.began or None, event.worker, event.failure, counts)
    # The last one from the letter: with checkpoints="off" the journal has none of them.
    yield FailedAttempt(letter.attempts, letter.at, letter.began or None, letter.worker, _error(letter), counts=True)


def _error(letter: DeadLetter) -> Failure:
    """Return the failure of the last attempt, or the damage of its record."""
    try:
        return decode_failure(letter.failure, execution_id=letter.execution_id)
    except CorruptRecord as error:
        return damage_failure(CorruptRecord(letter.execution_id, f"dead letter of step {letter.step}: {error.detail}"))
