"""The invariants: what has to be true of every run, whatever was killed. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.faults.chaos.evidence import Evidence, Outcome, Recorded
from tests.faults.chaos.expected import Expected
from tests.faults.chaos.ledger import Line
from tests.faults.chaos.repeats import repeats

#: Problems of one invariant that are shown.
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one invariant.

    Args:
        name: which.
        checked: what was looked at, in words and numbers.
        problems: what is wrong; none if it holds.
    """

    name: str
    checked: str
    problems: tuple[str, ...]


Problems = Iterator[str]


def verdicts(evidence: Evidence) -> list[Verdict]:
    """All invariants."""
    checks: tuple[tuple[str, Callable[[Evidence], str], Callable[[Evidence], Problems]], ...] = (
        ("1 what was accepted ended", _executions, ended),
        ("2 every result is right", _executions, right),
        ("3 what is recorded was done, and never begun again", _recorded, done_once),
        ("4 no fenced answer counts, repeats only where something was done", _repeats, fenced),
        ("5 every signal once, in order", _signals, signalled),
        ("6 no task in two places", _begins, apart),
        ("7 locks have one holder, due times one start", _locked, guarded),
        ("8 nothing is left", lambda e: f"{len(e.outcomes)} executions", clean),
    )
    return [Verdict(name, checked(evidence), tuple(check(evidence))) for name, checked, check in checks]


# --- what was looked at -------------------------------------------------------------------------------------
def _executions(evidence: Evidence) -> str:
    return f"{len(evidence.expected)} executions"


def _recorded(evidence: Evidence) -> str:
    return f"{sum(len(outcome.recorded) for outcome in evidence.outcomes.values())} recorded steps"


def _begins(evidence: Evidence) -> str:
    return f"{len(evidence.begins)} begins of {len(evidence.attempts)} steps"


def _repeats(evidence: Evidence) -> str:
    found = repeats(evidence)
    planned = sum(repeat.why == "failed" for repeat in found)
    stale = sum(repeat.line.nonce in evidence.stale for repeat in found)
    return f"{len(found) - planned} repeats, {stale} of them stale; {planned} planned ones"


def _signals(evidence: Evidence) -> str:
    return f"{sum(act.what == 'signal' for act in evidence.acts)} signals"


def _locked(evidence: Evidence) -> str:
    held = sum(bool(line.lock) for _, line in evidence.begins)
    return f"{held} begins under locks, {sum(map(len, evidence.dues.values()))} due times"


# --- 1, 2 ---------------------------------------------------------------------------------------------------
def ended(evidence: Evidence) -> Problems:
    """Every accepted start ended, and so did whatever else is in the store."""
    for name in evidence.expected.keys() - evidence.outcomes.keys():
        yield f"{name} was accepted and is not there"
    for outcome in evidence.outcomes.values():
        if outcome.status not in {"completed", "failed", "cancelled"}:
            yield f"{outcome.id} is {outcome.status}{': ' + outcome.failure if outcome.failure else ''}"


def right(evidence: Evidence) -> Problems:
    """Every execution came to what its program says."""
    for name, expected in evidence.expected.items():
        outcome = evidence.outcomes.get(name)
        if outcome is not None and outcome.status in {"completed", "failed", "cancelled"}:
            yield from _right(expected, outcome)


def _right(expected: Expected, outcome: Outcome) -> Problems:
    if expected.failure:
        if outcome.status != "failed" or expected.failure not in outcome.failure:
            yield f"{outcome.id} is {outcome.status} ({outcome.failure}) and was to fail: {expected.failure}"
    elif outcome.status != "completed":
        yield f"{outcome.id} is {outcome.status}: {outcome.failure}"
    else:
        result = outcome.result
        value = result["value"] if isinstance(result, dict) else result
        if value != expected.value:
            yield f"{outcome.id} came to {value}, not to {expected.value}"
        if isinstance(result, dict) and result.get("early"):
            yield f"{outcome.id} was woken too early"
    if len({step.seq for step in outcome.recorded}) != expected.steps or len(outcome.recorded) != expected.steps:
        yield f"{outcome.id} has {len(outcome.recorded)} recorded steps, not {expected.steps}"


# --- 3 ------------------------------------------------------------------------------------------------------
def done_once(evidence: Evidence) -> Problems:
    """What is recorded is in the ledger, and was not begun again; nor was what a later step relied on."""
    for outcome in evidence.outcomes.values():
        for step in outcome.recorded:
            begin = evidence.by_nonce.get(step.nonce)
            if begin is None or step.nonce not in evidence.ends:
                yield f"{_called(outcome, step)} is recorded, and its effect is not in the ledger"
            elif begin[1].execution != outcome.origin:
                yield from _done_once(evidence, outcome, step, begin[1])
    for name, begins in evidence.by_execution.items():
        expected = evidence.expected.get(name)
        if expected is not None and expected.ordered:
            yield from _in_order(evidence, begins)


def _done_once(evidence: Evidence, outcome: Outcome, step: Recorded, begin: Line) -> Problems:
    if (begin.execution, begin.seq, begin.attempt) != (outcome.id, step.seq, step.attempt):
        yield f"{_called(outcome, step)} is recorded with the answer of {begin}"
    for _, line in evidence.attempts[begin.key]:
        if line.at > step.at and line.nonce not in evidence.stale:
            yield f"{_called(outcome, step)} was begun again {line.at - step.at:.3f} s after it was recorded"


def _in_order(evidence: Evidence, begins: list[Line]) -> Problems:
    """Where one step follows another: none begins anew once the next has begun, which relied on its result."""
    order: dict[str, int] = {}
    newest = -1
    for line in begins:
        place = order.setdefault(line.key, len(order))
        if place < newest and line.nonce not in evidence.stale:
            yield f"step {line.seq} of {line.execution} began anew although a later one had begun"
        newest = max(newest, place)


def _called(outcome: Outcome, step: Recorded) -> str:
    return f"step {step.seq} ({step.name}) of {outcome.id}"


# --- 4, 6 ---------------------------------------------------------------------------------------------------
def fenced(evidence: Evidence) -> Problems:
    """No answer counts whose coordinator had a successor; what was begun again is explained by a blow."""
    for outcome in evidence.outcomes.values():
        yield from _answers(evidence, outcome, evidence.by_execution.get(outcome.id, []))
    for name, begins in evidence.by_execution.items():
        expected = evidence.expected.get(name)
        if expected is not None and expected.ordered:
            yield from _went_on(name, begins)
    found = [repeat for repeat in repeats(evidence) if repeat.why != "failed"]
    for repeat in found:
        if not repeat.why:
            yield f"step {repeat.line.seq} of {repeat.line.execution} was begun again although nothing was done to it"
    met = sum(struck.victim in {"worker", "coordinator", "node"} for struck in evidence.struck)
    met += len(evidence.unanswered)
    explained = sum(bool(repeat.why) for repeat in found)
    # What a stopped process had in flight is begun twice more: elsewhere, and by itself when it goes on.
    if explained > 2 * met * evidence.slots:
        yield f"{explained} repeats are more than {met} blows and failed calls explain, with {evidence.slots} slots"


def _answers(evidence: Evidence, outcome: Outcome, begins: list[Line]) -> Problems:
    highest = 0
    for step in outcome.recorded:
        begin = evidence.by_nonce.get(step.nonce)
        if begin is None or begin[1].execution == outcome.origin:
            continue
        epoch = begin[1].epoch
        if epoch < highest:
            yield f"{_called(outcome, step)} has an answer of epoch {epoch}, recorded after one of {highest}"
        elif any(line.epoch > epoch and line.at < step.at for line in begins):
            yield f"{_called(outcome, step)} has an answer of epoch {epoch}, recorded when a newer one was at work"
        highest = max(highest, epoch)


def _went_on(name: str, begins: list[Line]) -> Problems:
    """Where one step follows another: a coordinator has one step out, and without its commit none follows."""
    highest = 0
    late: dict[int, set[str]] = defaultdict(set)
    for line in begins:
        highest = max(highest, line.epoch)
        if line.epoch < highest:
            late[line.epoch].add(line.key)
    for epoch, keys in late.items():
        if len(keys) > 1:
            yield f"{name} was driven on at epoch {epoch} although it had a newer coordinator: {len(keys)} steps"


def apart(evidence: Evidence) -> Problems:
    """Two attempts at one step overlap only where one's worker or coordinator was met by a blow."""
    for repeat in repeats(evidence):
        if repeat.overlaps and not repeat.why:
            yield (
                f"step {repeat.line.seq} of {repeat.line.execution} ran twice at once: in {repeat.before.pid} at epoch "
                f"{repeat.before.epoch} and in {repeat.line.pid} at epoch {repeat.line.epoch}"
            )


# --- 5 ------------------------------------------------------------------------------------------------------
def signalled(evidence: Evidence) -> Problems:
    """Each execution received every signal that was accepted for it, once, and those of one sender in order."""
    accepted: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for act in evidence.acts:
        if act.what == "signal":
            accepted[act.execution].add((act.sender, act.number))
    for name, sent in accepted.items():
        outcome = evidence.outcomes.get(name)
        if outcome is None or not isinstance(outcome.result, dict):
            continue  # that it has not ended is said elsewhere
        received = [(sender, number) for sender, number in outcome.result["items"]]
        twice = [item for item, times in Counter(received).items() if times > 1]
        if twice:
            yield f"{name} received more than once: {twice}"
        if set(received) - sent or sent - set(received):
            yield f"{name} did not receive {sorted(sent - set(received))}, and did {sorted(set(received) - sent)}"
        for sender in {sender for sender, _ in received}:
            numbers = [number for by, number in received if by == sender]
            if numbers != sorted(numbers):
                yield f"{name} received those of sender {sender} in the order {numbers}"


# --- 7 ------------------------------------------------------------------------------------------------------
def guarded(evidence: Evidence) -> Problems:
    """Of each lock the attempts that count do not overlap, and their tokens rise; each due time has one start."""
    counted = {step.nonce for outcome in evidence.outcomes.values() for step in outcome.recorded}
    holders: dict[str, tuple[Line, int]] = {}
    for place, line in evidence.begins:
        if not line.lock or line.nonce not in counted:
            continue
        if line.lock in holders:
            before, end = holders[line.lock]
            if end > place:
                yield f"{line.lock} was held by {before.execution} and {line.execution} at once"
            if before.token >= line.token:
                yield f"{line.lock} was granted to {line.execution} with token {line.token} after {before.token}"
        holders[line.lock] = (
            line,
            evidence.ends[line.nonce][0] if line.nonce in evidence.ends else len(evidence.lines),
        )
    for schedule, dues in evidence.dues.items():
        started = sorted(outcome.id for outcome in evidence.outcomes.values() if outcome.schedule == schedule)
        missing = sorted(set(dues) - set(started) - set(evidence.early))
        unasked = sorted(set(started) - set(dues))
        if missing or unasked:
            yield f"{schedule}: missing {missing}, unasked {unasked}"


# --- 8 ------------------------------------------------------------------------------------------------------
def clean(evidence: Evidence) -> Problems:
    """Nobody holds a lock, no process or actor is left, and the run waited for nothing in vain."""
    yield from (f"lock {lock}" for lock in evidence.locks)
    yield from evidence.left
    yield from evidence.gave_up
