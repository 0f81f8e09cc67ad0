"""Writes an execution's journal: numbers the entries, keeps their time from going back, and gathers what goes along."""

from __future__ import annotations

from rayflow.core.actions import Letter, Work
from rayflow.core.effects import Effects
from rayflow.core.events import Asked, AttemptFailed, Continued, Ended, Entry, Event, Paused, Resumed, Started, label

#: What is recorded also where checkpoints are off.
_ALWAYS = (Continued, Started, Paused, Resumed, Asked, Ended)


class Recorder:
    """See the module's docstring.

    Args:
        all_events: whether every event is recorded; otherwise only how the execution begins, pauses and ends.

    Attributes:
        seq: position of the newest entry.
        work: what is gathered since :meth:`take`.
    """

    def __init__(self, *, all_events: bool) -> None:
        self.seq = 0
        self.work = Work()
        self._all = all_events
        self._at = 0.0

    def resume(self, last: Entry) -> None:
        """Go on after an entry."""
        self.seq, self._at = last.seq, last.event.at

    def take(self) -> Work:
        """What was gathered since the last call."""
        work, self.work = self.work, Work()
        return work

    def time(self, now: float) -> float:
        """The time of an event that happens now: never before the last one's."""
        self._at = max(self._at, now)
        return self._at

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to one of the store's totals."""
        self.work.counts[counter] += amount

    def record(self, event: Event, effects: Effects | None = None) -> bool:
        """Make an entry; answers whether there is one."""
        if not self._all and not isinstance(event, _ALWAYS):
            return False
        self.seq += 1
        if effects is None:
            self.work.entries.append(Entry(self.seq, event))
            return True
        self.work.entries.append(
            Entry(
                self.seq,
                event,
                tuple([dispatch.label for dispatch in effects.dispatches]),
                tuple(effects.dropped),
                effects.state,
                tuple(effects.stages),
                tuple(effects.patches),
                tuple(effects.undos),
            )
        )
        return True

    def step_failed(self, event: AttemptFailed, at: float, payload: bytes) -> None:
        """The next entry says that a step failed for good: keep what it was given."""
        self.work.letters.append(
            Letter(
                self.seq + 1,
                event.step,
                event.name,
                event.attempt,
                at,
                event.began,
                event.worker,
                event.failure,
                payload,
            )
        )

    def signals_rejected(self, effects: Effects, at: float) -> None:
        """The newest entry received signals that did not fit: keep them."""
        for signal, failure in effects.rejected:
            name = label("signal", signal.name)
            letter = Letter(self.seq, -signal.number, name, 1, at, signal.at, "", failure, signal.payload)
            self.work.letters.append(letter)
