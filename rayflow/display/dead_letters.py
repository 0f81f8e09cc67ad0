"""Dead letters as text for terminals and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayflow.client.dead_letters import DeadLetterInfo, FailedAttempt
from rayflow.display.as_json import failure_json, jsonable
from rayflow.display.formats import PLAIN, Style, duration_text, failure_text, time_text
from rayflow.display.tables import Column, table, visible
from rayflow.display.text import facts_text, indented, value_text


def letters_text(letters: Sequence[DeadLetterInfo], style: Style = PLAIN) -> str:
    """Dead letters as a table, in the order given."""
    if not letters:
        return "no dead letters"
    columns = (
        Column("EXECUTION", least=12), Column("STEP", right=True), Column("NAME", least=8),
        Column("WORKFLOW", least=8), Column("ATTEMPTS", right=True), Column("FAILED"), Column("HANDLED"),
        Column("ERROR", least=12),
    )  # fmt: skip
    rows = [
        [
            visible(letter.execution_id),
            str(letter.step),
            visible(_label(letter)),
            visible(letter.workflow_id),
            str(letter.attempts),
            time_text(letter.at, style),
            "yes" if letter.handled else "no",
            failure_text(letter.error),
        ]
        for letter in letters
    ]
    return "\n".join(table(columns, rows, style.width))


def letter_text(letter: DeadLetterInfo, style: Style = PLAIN) -> str:
    """One dead letter: what the step was called with, and how each of its attempts failed."""
    facts = {
        "execution": visible(letter.execution_id),
        "step": f"{letter.step} {visible(_label(letter))}",
        "workflow": visible(letter.workflow_id),
        "failed": time_text(letter.at, style),
        "attempts": str(letter.attempts),
        "handled": "yes: the execution did not fail because of it" if letter.handled else "no: it failed the execution",
        "error": failure_text(letter.error),
    }
    parts = ["\n".join(facts_text(facts))]
    if letter.history:
        parts.append("\n".join(_history(letter.history, style)))
    parts.append(value_text("input", _input(letter), style))
    if letter.error.traceback:
        parts.append(indented("traceback", letter.error.traceback))
    return "\n\n".join(parts)


def _history(history: Sequence[FailedAttempt], style: Style) -> list[str]:
    columns = (
        Column("ATTEMPT", right=True), Column("FAILED"), Column("DURATION", right=True), Column("WORKER", least=8),
        Column("COUNTS"), Column("ERROR", least=12),
    )  # fmt: skip
    rows = [
        [
            str(one.attempt),
            time_text(one.at, style),
            "" if one.began is None else duration_text(one.at - one.began),
            visible(one.worker.removeprefix("rayflow:worker:")),
            "yes" if one.counts else "no",
            failure_text(one.error),
        ]
        for one in history
    ]
    return table(columns, rows, style.width)


def _label(letter: DeadLetterInfo) -> str:
    return letter.name if letter.kind == "step" else f"{letter.kind} {letter.name}"


def _input(letter: DeadLetterInfo) -> dict[str, Any]:
    return {"args": letter.args, "kwargs": letter.kwargs}


def letter_json(letter: DeadLetterInfo) -> dict[str, Any]:
    """A dead letter as plain JSON values. Times are seconds since the epoch."""
    return {
        "execution_id": letter.execution_id,
        "step": letter.step,
        "name": letter.name,
        "kind": letter.kind,
        "workflow_id": letter.workflow_id,
        "attempts": letter.attempts,
        "at": letter.at,
        "began": letter.began,
        "worker": letter.worker,
        "error": failure_json(letter.error),
        "input": jsonable(_input(letter)),
        "handled": letter.handled,
        "history": [
            {
                "attempt": one.attempt,
                "at": one.at,
                "began": one.began,
                "worker": one.worker,
                "error": failure_json(one.error),
                "counts": one.counts,
            }
            for one in letter.history
        ],
    }
