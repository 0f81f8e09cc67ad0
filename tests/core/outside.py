"""What comes from outside to an execution, decided by what can be seen of it: the same after a crash as before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    Continued,
    Ended,
    Entry,
    Event,
    Forked,
    RequestCompleted,
    Rewound,
    SignalReceived,
    StepCompleted,
    StepFailed,
)
from rayflow.core.execution.actions import Request, RunAttempt
from rayflow.definition.context import LockCall
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus
from tests.core.fake import Reply, Shell

#: What an answer is that does not come now.
LATER = object()


class Run(NamedTuple):
    """One run of an execution.

    Args:
        shell: as it was at the run's end.
        ends: lengths that its journal had between two appends: only there it can end after a crash.
    """

    shell: Shell
    ends: set[int]

    @property
    def journal(self) -> list[Entry]:
        return self.shell.journal


class Outside:
    """Workers, other executions, senders of signals, and a person.

    Args:
        answer: what an attempt, what is asked of others, or a signal comes to; a Failure lets it fail, LATER lets it
            wait. A signal is its name, and how many of that name came before.
        during: what happens while a step is under way, by the step's first argument: the name of a signal that comes,
            or "cancel".
        resumes: whether it is resumed once when it has failed.

    Attributes:
        ran: attempts that came to their ends, by step.
        asked: what was asked of others and taken back, as text.
    """

    def __init__(self, answer: Reply, *, during: Mapping[object, str] | None = None, resumes: bool = False) -> None:
        self._answer = answer
        self._during = during or {}
        self._resumes = resumes
        self.ran: Counter[int] = Counter()
        self.asked: Counter[str] = Counter()

    def live(self, shell: Shell) -> list[Run]:
        """Let an execution live to its end; answers its runs."""
        runs = [Run(shell, {len(shell.journal)})]
        while True:
            while shell.execution.outcome is None:
                self.one_thing(shell)
                runs[-1].ends.add(len(shell.journal))
            self.asked.update(shell.others.log)
            if shell.next_run is not None:
                shell = shell.run_on()
                runs.append(Run(shell, {1, len(shell.journal)}))
            elif self._resumes and is_failed(shell) and not any(isinstance(e, Rewound) for e in shell.events):
                ends = {*runs[-1].ends, len(shell.journal) + 1}
                shell = shell.rewound()
                runs[-1] = Run(shell, {*ends, len(shell.journal)})
            else:
                return runs

    def one_thing(self, shell: Shell) -> None:
        """Let happen what is next: attempts end, others answer, signals come, time passes."""
        run = next(iter(shell.running.values()), None)
        if run is not None:
            self._end(shell, run)
            return
        for ask in [ask for ask in shell.others.open.values() if shell.others.free(ask)]:
            value = self._answer(ask)
            if value is not LATER:
                self._reply(shell, ask, value)
                return
        for name, _ in shell.execution.awaited_signals:
            before = sum(isinstance(event, SignalReceived) and event.name == name for event in shell.events)
            value = self._answer((name, before))
            if value is not LATER:
                shell.signal(name, value)
                return
        shell.wake()

    def _end(self, shell: Shell, run: RunAttempt) -> None:
        name, meanwhile = run.call.name, self._during.get(run.call.args[0])
        if meanwhile == "cancel" and not any(isinstance(event, CancelRequested) for event in shell.events):
            shell.cancel()
            return
        if meanwhile not in {None, "cancel"} and not any(isinstance(event, SignalReceived) for event in shell.events):
            shell.signal(meanwhile, 7)
            return
        self.ran[run.seq] += 1
        value = self._answer(run)
        if isinstance(value, Failure):
            shell.fail(name, value)
        else:
            shell.complete(name, value)

    def _reply(self, shell: Shell, ask: Request, value: Any) -> None:
        if isinstance(value, Failure):
            shell.answer(ask, failure=value)
        else:
            shell.answer(ask, shell.next_token() if isinstance(ask.call, LockCall) else value)


def is_failed(shell: Shell) -> bool:
    outcome = shell.execution.outcome
    return outcome is not None and outcome.status is ExecutionStatus.FAILED


def ends_of_attempts(runs: Sequence[Sequence[Entry]]) -> Counter[int]:
    """How many attempts came to their ends, by step; what a rewind has carried along came to its end once."""
    counts: Counter[int] = Counter()
    for entries in runs:
        events = [entry.event for entry in entries]
        ended = {(e.step, e.attempt) for e in events if isinstance(e, StepCompleted | StepFailed | AttemptFailed)}
        counts.update(step for step, _ in ended)
    return counts


def crash_everywhere(runs: Sequence[Run], outside: Outside, **outsides: Any) -> int:
    """Stop after each append of each run, take up, live on, and compare. Answers how often.

    Args:
        runs: a life.
        outside: what it came from; its answer is given again.
        outsides: how else it was made.
    """
    crashes = 0
    for number, run in enumerate(runs):
        for entries in sorted(run.ends):
            if entries == len(run.journal) or isinstance(run.journal[entries - 1].event, Ended):
                continue  # what has ended is taken up by nobody, until it is rewound
            again = Outside(outside._answer, **outsides)
            crash(runs[number:], entries, again)
            assert not again.asked - outside.asked, "nothing is asked that was not asked without the crash"
            crashes += 1
    return crashes


def crash(runs: Sequence[Run], entries: int, outside: Outside) -> None:
    """Stop a life's first run after so many entries, and live on."""
    kept = runs[0].journal[:entries]
    shell = runs[0].shell.restored(entries=entries, later=False)
    known: list[Event] = [entry.event for entry in kept]
    recorded = {event.step for event in known if isinstance(event, StepCompleted)}
    if not any(isinstance(event, Rewound) for event in known):
        recorded |= {event.step for event in known if isinstance(event, StepFailed | RequestCompleted)}
    assert recorded.isdisjoint(shell.running), f"after {entries} entries a recorded step begins again"
    if not isinstance(known[-1], Rewound | Forked | Continued):
        assert not shell.others.log, f"after {entries} entries something is asked again"
    lived = outside.live(shell)
    assert [run.journal for run in lived] == [run.journal for run in runs], f"after {entries} entries"
    assert [run.shell.next_run for run in lived] == [run.shell.next_run for run in runs]
    assert lived[-1].shell.execution.outcome == runs[-1].shell.execution.outcome
    after = [[entry for entry in run.journal if entry not in kept] for run in lived]
    assert not outside.ran - ends_of_attempts(after), f"after {entries} entries a step ran more often than is recorded"
