"""Drives programs through a schedule of outcomes, crashes and evictions, and checks what must hold at each of them.

Run as a program it reads cases from its standard input, runs them, and prints their journals: the same cases must
give the same bytes in a process with another hash seed.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence

from hypothesis import strategies as st

from rayflow.core.events import AttemptFailed, Entry, StepCompleted, StepFailed
from rayflow.core.interpreter.machine import Machine
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.storage.codec.journal import encode_entry
from tests.core.fake import Flow, Shell, Told
from tests.core.others import CODEC
from tests.properties.programs import Node, flow_of, programs

OPTIONS = ExecutionOptions(retry=RetryPolicy(max_retries=1, initial_delay=3), step_timeout=None)

#: What happens next, and to which of the attempts under way.
Move = Sequence[object]

OUTCOMES = ("complete", "complete", "complete", "fail", "lose", "wake", "wake", "cancel")
CRASHES = ("crash", "evict", "collect")
PAUSES = ("pause", "resume", "send")


def schedules(*kinds: str) -> st.SearchStrategy[list[tuple[str, int]]]:
    """Lists of moves of these kinds."""
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 5)), max_size=25)


cases = st.tuples(programs, schedules(*OUTCOMES))


def play(program: Node, schedule: Sequence[Move], *, paranoid: bool = False) -> Shell:
    """Run a program to its end, by the schedule and then in order.

    Args:
        program: the program.
        schedule: moves; one that is not possible is passed over.
        paranoid: crash and restore before each move.
    """
    shell = Shell(flow_of(program), options=OPTIONS).begin()
    cancelled = False
    for kind, which in schedule:
        if shell.execution.outcome is not None:
            break
        if paranoid:
            shell = crashed(shell)
        if kind == "cancel":
            if not cancelled:
                shell.cancel()
            cancelled = True
        else:
            shell = move(shell, str(kind), which)
    shell.resume()
    while shell.execution.outcome is None:
        if paranoid:
            shell = crashed(shell)
        if shell.running:
            move(shell, "complete", 0)
        else:
            shell.wake()
    check_end(shell)
    return shell


def move(shell: Shell, kind: str, which: object) -> Shell:
    """Let one thing happen; answers the shell that goes on, which is another one after a crash."""
    assert isinstance(which, int)
    attempts = sorted(shell.running.values(), key=lambda run: run.seq)
    if kind in {"complete", "fail", "lose", "send"}:
        if attempts:
            chosen = attempts[which % len(attempts)]
            shell.running = {chosen.seq: chosen, **shell.running}  # the oldest of its name
            getattr(shell, kind)(chosen.call.name, *([chosen.seq] if kind == "complete" else []))
    elif kind == "wake":
        if shell.execution.next_wake() is not None:
            shell.wake()
    elif kind == "collect":
        gc.collect()
    elif kind == "pause":
        shell.pause()
    elif kind == "resume":
        shell.resume()
    elif kind == "evict":
        return evicted(shell)
    else:
        return crashed(shell)
    return shell


def crashed(shell: Shell) -> Shell:
    """The same execution in a new machine, from what was recorded."""
    other = shell.restored()
    assert other.journal == shell.journal, "a restored execution records nothing by itself"
    answered = {e.step for e in shell.events if isinstance(e, StepCompleted | StepFailed)}
    assert answered.isdisjoint(other.running), "a recorded step is dispatched again"
    assert other.machine.issued == shell.machine.issued
    assert [other.machine.is_open(seq) for seq in range(other.machine.issued + 1)] == [
        shell.machine.is_open(seq) for seq in range(shell.machine.issued + 1)
    ]
    if not shell.execution.paused:
        commands = {seq: (run.call.name, run.payload) for seq, run in shell.running.items()}
        assert {seq: (run.call.name, run.payload) for seq, run in other.running.items()} == commands
        recorded = {e.step: e.attempt for e in shell.events if isinstance(e, AttemptFailed)}
        for seq, run in other.running.items():  # one that a pause took back has left no trace
            assert recorded.get(seq, 0) + 1 == run.attempt <= shell.running[seq].attempt
        assert other.execution.next_wake() == shell.execution.next_wake()
    shell.execution.evict()
    return other


def evicted(shell: Shell) -> Shell:
    """The same after an eviction, which issues nothing."""
    issued = shell.machine.issued
    shell.execution.evict()
    gc.collect()
    work = shell.execution.take()
    assert (work.entries, work.actions, work.deferred) == ([], [], [])
    assert shell.machine.issued == issued
    other = shell.restored()
    assert other.machine.issued == issued
    return other


def check_end(shell: Shell) -> None:
    """What must hold of a finished execution's journal."""
    answers = [e.step for e in shell.events if isinstance(e, StepCompleted | StepFailed)]
    assert len(answers) == len(set(answers)), "a step was recorded twice"
    assert [entry.seq for entry in shell.journal] == list(range(1, len(shell.journal) + 1))
    replayed, machine = replay(shell.flow, shell.journal)
    assert replayed == [(e.issued, e.dropped, e.state, e.stages) for e in shell.journal if seen_by_code(e)]
    assert machine.outcome == shell.execution.outcome


def seen_by_code(entry: Entry) -> bool:
    """Whether the entry's event is applied to the workflow's code."""
    return type(entry.event).__name__ not in {"AttemptFailed", "Paused", "Resumed", "Rewound", "Ended"}


def replay(flow: Flow, journal: Sequence[Entry]) -> tuple[list[object], Machine]:
    """What a new machine does when the journal's events are applied to it, state and all; and the machine."""
    machine = Machine(flow, execution_id="e", workflow_id="w", payloads=CODEC, on_unhandled=Told())
    seen: list[object] = []
    for entry in journal:
        if seen_by_code(entry):
            effects = machine.apply(entry.event)
            issued = tuple(dispatch.call.name for dispatch in effects.dispatches)
            seen.append((issued, tuple(effects.dropped), effects.state, tuple(effects.stages)))
    return seen, machine


def digest(shell: Shell) -> list[str]:
    """The journal as text."""
    return [encode_entry(entry).hex() for entry in shell.journal]


def attempts_failed(shell: Shell) -> int:
    """How many attempts failed before another."""
    return shell.count(AttemptFailed)


if __name__ == "__main__":
    print(json.dumps([digest(play(program, schedule)) for program, schedule in json.load(sys.stdin)]))
