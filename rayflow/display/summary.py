"""What is known of an execution beside its steps, fact by fact; shared by text and page."""

from __future__ import annotations

from rayflow.core.execution.snapshot import ExecutionSnapshot
from rayflow.display.formats import Style, duration_text, failure_text, lasted, time_text


def facts_of(snapshot: ExecutionSnapshot, style: Style) -> dict[str, str]:
    """Facts by their names, in the order in which they are shown; those that do not apply are empty.

    Args:
        snapshot: the execution.
        style: of which only the time zone and ``now`` count here. What the data hold is not escaped yet.
    """
    took = lasted(snapshot, style.now)
    return {
        "workflow": f"{snapshot.workflow_id} (version {snapshot.version})",
        "status": str(snapshot.status),
        "reason": "" if snapshot.error is None else failure_text(snapshot.error),
        "waits": waits_text(snapshot, style),
        "run": "" if snapshot.run == 1 else str(snapshot.run),
        "parent": snapshot.parent,
        "forked from": snapshot.forked_from,
        "attributes": ", ".join(f"{name} = {value!r}" for name, value in snapshot.attributes.items()),
        "created": time_text(snapshot.created_at, style),
        "changed": time_text(snapshot.updated_at, style),
        "duration": "" if took is None else duration_text(took),
        "deadline": "" if snapshot.deadline is None else time_text(snapshot.deadline, style),
        "priority": str(snapshot.priority),
        "unread": ", ".join(f"signal {name}" for name in snapshot.unconsumed_signals),
        "coordinator": f"{snapshot.coordinator} (epoch {snapshot.epoch})" if snapshot.coordinator else "",
    }


def waits_text(snapshot: ExecutionSnapshot, style: Style) -> str:
    """For what an execution waits, from outside or until a moment, and whether it is parked meanwhile; "" if not."""
    later = snapshot.wakes_at is not None and snapshot.wakes_at > snapshot.updated_at
    until = f"until {time_text(snapshot.wakes_at or 0.0, style)}" if later else ""
    words = "; ".join(filter(None, (", ".join(snapshot.waiting_for), until)))
    return words + (" (parked)" if words and snapshot.parked else "")


def why_text(snapshot: ExecutionSnapshot, style: Style) -> str:
    """Why an execution is where it is, in a few words: its failure or reason, or what it waits for."""
    if snapshot.error is not None:
        return failure_text(snapshot.error)
    waits = waits_text(snapshot, style).removesuffix(" (parked)")
    return waits if not waits or waits.startswith("until ") else f"waits: {waits}"
