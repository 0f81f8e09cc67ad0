"""Gathers what a run left behind: the store's executions with their journals, the ledger, the acts, the blows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rayflow.core.events import Entry, StepCompleted, kind_and_name
from rayflow.core.execution.journal import effective
from rayflow.core.locks.machine import Lock
from rayflow.storage.codec.journal import decode_entry, decode_failure
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.model import ExecutionRecord, JournalRow
from tests.faults.chaos import acts, expected, ledger, plan, trouble
from tests.faults.chaos.cluster import Reading
from tests.faults.chaos.evidence import Act, Evidence, Outcome, Recorded, Struck, Unanswered
from tests.faults.chaos.expected import Expected
from tests.faults.chaos.settings import SLOTS, WORKERS, Settings

_CODEC = MsgpackCodec()

#: The files of what only the run knows, and of the blows.
KNOWN, BLOWS = "known.json", "blows.jsonl"
#: How Ray says that it failed a call because it was told to, with the time (the machine's own) and the process.
_FAILED_CALL = re.compile(r"^\[([-\d]+ [\d:,]+) I (\d+) \d+\].* Inject RPC (.+) for CoreWorkerService", re.MULTILINE)
_HOW = {
    "request failure": "request",
    "response failure": "response",
    "response failure while request in flight": "in flight",
}


def keep(settings: Settings, left: Sequence[str], gave_up: Sequence[str], callers: Mapping[str, int]) -> None:
    """Write down what only the run knew. All else that it is judged by is in its folder already.

    Args:
        settings: the run.
        left: processes and actors that are left and should not be.
        gave_up: what it waited for in vain.
        callers: the process of each coordinator that was seen.
    """
    known = {"left": list(left), "gave_up": list(gave_up), "callers": dict(callers)}
    Path(settings.folder, KNOWN).write_text(json.dumps(known, indent=1))


def evidence(settings: Settings) -> Evidence:
    """All that a run left behind, from its folder."""
    folder = Path(settings.folder)
    known = json.loads((folder / KNOWN).read_text())
    done = acts.read(settings.acts)
    reading = Reading(settings.store)
    try:
        outcomes = {record.id: _outcome(record, _journal(reading, record.id)) for record in reading.executions()}
        locks = [f"{lock.name} is claimed by {[str(c.claimant) for c in lock.claims]}" for lock in _locks(reading)]
    finally:
        reading.close()
    early = early_dues(settings, done)
    never = early - outcomes.keys()
    return Evidence(
        expected={name: one for name, one in accepted(settings, done).items() if name not in never},
        lines=ledger.read(settings.ledger),
        outcomes=outcomes,
        acts=done,
        struck=struck(folder / BLOWS, known["callers"]),
        slots=SLOTS * WORKERS,
        locks=locks,
        left=known["left"],
        dues={name: list(dues) for name, dues in settings.dues().items()},
        early=early,
        gave_up=known["gave_up"],
        unanswered=unanswered(folder),
        callers=known["callers"],
        troubles=trouble.counted(folder),
    )


def struck(place: Path, callers: Mapping[str, int]) -> list[Struck]:
    """The blows in a file, with when those went on that were stopped.

    Args:
        place: the file.
        callers: the process of each coordinator that was seen: one that has just been made is met with its node before
            anybody knows its name.
    """
    found: dict[int, Struck] = {}
    for line in place.read_text().splitlines() if place.exists() else []:
        fields = json.loads(line)
        if "went on" in fields:
            found[fields["number"]] = replace(found[fields["number"]], until=fields["went on"])
        else:
            found[fields["number"]] = Struck(**fields)
    return [_with_names(blow, callers) for blow in found.values()]


def _with_names(blow: Struck, callers: Mapping[str, int]) -> Struck:
    unnamed = (name for name, pid in callers.items() if pid in blow.on and name not in blow.coordinators)
    return replace(blow, coordinators=(*blow.coordinators, *unnamed))


def unanswered(folder: Path) -> list[Unanswered]:
    """The calls that Ray was told to fail, from the logs of its processes."""
    found = []
    for log in folder.glob("ray/session_*/logs/python-core-*"):
        for match in _FAILED_CALL.finditer(log.read_text(errors="replace")):
            at, pid, how = match.groups()
            found.append(Unanswered(_moment(at), int(pid), _HOW[how]))
    return sorted(found, key=lambda call: call.at)


def early_dues(settings: Settings, done: Sequence[Act]) -> set[str]:
    """The ids of what was due before the schedule was known to be made."""
    made = {act.execution: act.at for act in done if act.what == "schedule"}
    return {
        due
        for name, dues in settings.dues().items()
        for due, moment in dues.items()
        if moment < made.get(name, settings.begun)
    }


def _moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


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
