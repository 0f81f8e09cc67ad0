"""Gathers what a run left behind: the store's executions with their journals, the ledger, the acts, the blows."""

from __future__ import annotations

from collections.abc import Sequence

from rayflow.core.events import Entry, StepCompleted, kind_and_name
from rayflow.core.journal import effective
from rayflow.core.locks import Lock
from rayflow.storage.codec import MsgpackCodec
from rayflow.storage.operations import ExecutionRecord, JournalRow
from rayflow.storage.records import decode_entry, decode_failure
from tests.chaos import acts, expected, ledger, plan
from tests.chaos.cluster import Reading
from tests.chaos.evidence import Act, Evidence, Outcome, Recorded, Struck
from tests.chaos.expected import Expected
from tests.chaos.settings import SLOTS, WORKERS, Settings

_CODEC = MsgpackCodec()


def evidence(
    settings: Settings, reading: Reading, struck: Sequence[Struck], left: Sequence[str], gave_up: Sequence[str]
) -> Evidence:
    """All that a run left behind."""
    done = acts.read(settings.acts)
    outcomes = {record.id: _outcome(record, _journal(reading, record.id)) for record in reading.executions()}
    return Evidence(
        expected=accepted(settings, done),
        lines=ledger.read(settings.ledger),
        outcomes=outcomes,
        acts=done,
        struck=struck,
        slots=SLOTS * WORKERS,
        locks=[f"{lock.name} is claimed by {[str(c.claimant) for c in lock.claims]}" for lock in _locks(reading)],
        left=left,
        dues=settings.dues(),
        gave_up=gave_up,
    )


def accepted(settings: Settings, done: Sequence[Act]) -> dict[str, Expected]:
    """What has to be there, since its start was accepted or an execution that was is to start it."""
    names = {act.execution for act in done if act.what in {"start", "fork"}}
    found: dict[str, Expected] = {}
    number = 0
    while (program := plan.program(settings.seed, number)).id in names:
        made = expected.expected(program)
        found.update((name, one) for name, one in made.items() if name != program.fork_id or name in names)
        number += 1
    jobs = {name: expected.job(seed) for name, (_, seed) in settings.schedules().items()}
    found.update((due, jobs[schedule]) for schedule, dues in settings.dues().items() for due in dues)
    return found


def _journal(reading: Reading, name: str) -> list[Entry]:
    none: list[JournalRow] = []
    return [decode_entry(name, row.seq, row.body) for row in reading.ask(lambda store: store.journal(name), none)]


def _locks(reading: Reading) -> list[Lock]:
    none: list[Lock] = []
    return reading.ask(lambda store: store.locks(), none)


def _outcome(record: ExecutionRecord, entries: Sequence[Entry]) -> Outcome:
    failure = None if record.failure is None else decode_failure(record.failure, execution_id=record.id)
    return Outcome(
        id=record.id,
        status=record.status.value,
        result=None if record.result is None else _CODEC.decode(record.result),
        failure="" if failure is None else f"{failure.type}: {failure.message}",
        schedule=record.schedule,
        origin=record.forked_from,
        recorded=recorded(entries),
    )


def recorded(entries: Sequence[Entry]) -> tuple[Recorded, ...]:
    """The steps' results in a journal."""
    found = []
    for entry in effective(entries):
        event = entry.event
        if isinstance(event, StepCompleted):
            nonce = str(_CODEC.decode(event.result)["by"])
            name = kind_and_name(event.name)[1]
            found.append(Recorded(entry.seq, event.at, event.step, name, event.attempt, nonce))
    return tuple(found)
