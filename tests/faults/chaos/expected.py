"""What each execution of a program has to come to: a pure function of the program's seed.

The workflows are in ``flows.py``; each function here says without steps, time or failures what the one of the same
name says with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.faults.chaos.plan import CHILD_STEPS, JOB_STEPS, RUN_STEPS, RUNS, SENDERS, Program, mix


@dataclass(frozen=True, slots=True)
class Expected:
    """How one execution has to end.

    Args:
        kind: its workflow's id.
        value: its result's value; None if it fails.
        steps: steps with recorded results in the journal of its last run, those of a fork's origin included.
        ordered: whether no step of it begins before the one before it is recorded.
        failure: what it fails by; "" if it completes.
    """

    kind: str
    value: int | None
    steps: int
    ordered: bool = True
    failure: str = ""


def chain(seed: int, size: int) -> int:
    """What a chain of steps comes to."""
    value = seed
    for number in range(size):
        value = mix(seed, number, value)
    return value


def spread(seed: int, size: int) -> int:
    """What two rounds of steps side by side come to."""
    first = sum(mix(seed, number, 0) for number in range(size)) % 2**40
    return sum(mix(seed, size + number, first) for number in range(size)) % 2**40


def expected(program: Program) -> dict[str, Expected]:
    """What has to come of a program: its execution and those that follow from it, by id."""
    name, seed, size = program.id, program.seed, program.size
    value = chain(seed, size)
    match program.kind:
        case "fan":
            return {name: Expected("fan", spread(seed, size), 2 * size, ordered=False)}
        case "signals":
            received = SENDERS * size
            return {name: Expected("signals", chain(seed, received), received)}
        case "family":
            children = [mix(seed, "child", number) for number in range(size)]
            made = {
                f"{name}.{number + 1}": Expected("chain", chain(child, CHILD_STEPS), CHILD_STEPS)
                for number, child in enumerate(children)
            }
            return {name: Expected("family", sum(chain(c, CHILD_STEPS) for c in children) % 2**40, 0), **made}
        case "fork":
            whole = Expected("chain", value, size)
            return {name: whole, program.fork_id: whole}
        case "saga":
            return {name: Expected("saga", None, 2 * size, failure="as planned")}
        case "again":
            return {name: Expected("again", chain(seed, RUNS * RUN_STEPS), RUN_STEPS)}
        case kind:
            return {name: Expected(kind, value, size)}


def job(seed: int) -> Expected:
    """What has to come of an execution that a schedule starts."""
    return Expected("job", chain(seed, JOB_STEPS), JOB_STEPS)


def arguments(program: Program, place: str) -> tuple[Any, ...]:
    """The arguments of a program's workflow, after its ledger."""
    match program.kind:
        case "guard":
            return (place, program.seed, program.size, program.lock)
        case "signals":
            return (place, program.seed, SENDERS * program.size)
        case "again":
            return (place, program.seed, 0, program.seed)
        case _:
            return (place, program.seed, program.size)
