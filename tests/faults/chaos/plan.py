"""What a run does, drawn from its seed: programs to execute, and blows to deal. Pure.

Each program and each blow follows from the seed and its number alone, so that a driver that was killed goes on with the
same plan, and a run is repeated by its seed. When things happen is not drawn: that is up to the machine.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

How = Literal["kill", "stop", "refuse", "doubt"]

#: Whom signals meet. A node is the raylet of one, and whatever runs there is lost with it.
VICTIMS = ("worker", "coordinator", "persistence", "pool", "supervisor", "driver", "node")
#: Every kind of blow. The head's GCS is killed and started again; the store refuses what is to be written, or writes it
#: and says that it has not.
KINDS = (
    *(f"kill {victim}" for victim in VICTIMS),
    "kill gcs",
    "refuse store",
    "doubt store",
    *(f"stop {victim}" for victim in VICTIMS),
)

#: What is executed, each as often as it stands here: most are short, and a few have most of the steps.
MENU = (
    *("chain",) * 5,
    *("fan",) * 4,
    *("signals",) * 2,
    *("rest",) * 3,
    *("family",) * 2,
    *("fork",) * 2,
    *("guard",) * 4,
    *("saga",) * 2,
    *("again",) * 2,
    *("flaky",) * 2,
)
#: Names of the locks that executions contend for.
LOCKS = 3
#: Who sends signals to an execution.
SENDERS = 3
#: Steps of a child.
CHILD_STEPS = 4
#: Runs of an execution that continues as new, and steps of each.
RUNS, RUN_STEPS = 3, 4
#: Steps of an execution that a schedule starts.
JOB_STEPS = 2
#: Seconds between two due times of a schedule.
EVERY = 2.0

#: Seconds that the store fails at most: meanwhile nothing goes on.
LONGEST_TROUBLE = 3.0

_SIZES = {
    "chain": (10, 30),
    "fan": (40, 160),
    "signals": (3, 8),
    "rest": (2, 3),
    "family": (2, 5),
    "fork": (6, 14),
    "guard": (2, 5),
    "saga": (3, 8),
    "again": (1, 1),
    "flaky": (3, 8),
}


def mix(*parts: object) -> int:
    """A number below 2**40 that follows from the parts: what steps compute, and what they are expected to."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=5).digest()
    return int.from_bytes(digest)


def pause(seed: int, number: int) -> float:
    """Seconds that a step takes: most a few milliseconds, some long enough to be met at work by a blow."""
    drawn = mix("pause", seed, number)
    return (0.05 + drawn % 150 / 1000) if drawn % 16 == 0 else drawn % 8 / 1000


@dataclass(frozen=True, slots=True)
class Program:
    """One execution to be started, and what comes of it: its children, or its fork.

    Args:
        number: its place in the plan, from 0.
        kind: which workflow.
        seed: what its values follow from.
        size: steps, width, signals of each sender, children or nights: whatever its kind has many of.
        lock: the lock that it contends for.
    """

    number: int
    kind: str
    seed: int
    size: int
    lock: str

    @property
    def id(self) -> str:
        """The execution's id."""
        return f"{self.kind}-{self.number:04}"

    @property
    def fork_id(self) -> str:
        """The id of its fork."""
        return f"{self.id}-again"

    @property
    def cut(self) -> int:
        """The number of the call before which it is forked."""
        return 2 + self.size // 2


def program(seed: int, number: int) -> Program:
    """The program of that number."""
    rng = random.Random(f"program/{seed}/{number}")
    # The first ones are one of each kind, so that a short run has all of them.
    kinds = tuple(_SIZES)
    kind = kinds[number] if number < len(kinds) else rng.choice(MENU)
    return Program(number, kind, rng.randrange(1 << 30), rng.randint(*_SIZES[kind]), f"lock-{rng.randrange(LOCKS)}")


@dataclass(frozen=True, slots=True)
class Blow:
    """One kill, one stop with the going on after it, or one time in which the store fails.

    Args:
        number: its place in the plan, from 0.
        kind: one of KINDS.
        seconds: how long it lasts; 0 for a kill. Some stops are noticed, some are over before.
        choice: which one of those that can be met, or which trouble, from 0 to 1.
    """

    number: int
    kind: str
    seconds: float
    choice: float

    @property
    def how(self) -> How:
        """Whether the victim is killed or stopped."""
        how: How = self.kind.partition(" ")[0]  # type: ignore[assignment]
        return how

    @property
    def victim(self) -> str:
        """Which kind of process it meets."""
        return self.kind.partition(" ")[2]


def blows(seed: int, *, noticed: float, node_noticed: float, kinds: Sequence[str] = KINDS) -> Iterator[Blow]:
    """The blows, in rounds of one of each kind, in an order that is drawn.

    Args:
        seed: of the run.
        noticed: seconds after which a stopped process counts as hung.
        node_noticed: the same of a node.
        kinds: which ones.
    """
    rng = random.Random(f"blows/{seed}")
    numbers = count()
    while True:
        for kind in rng.sample(kinds, len(kinds)):
            limit = node_noticed if kind == "stop node" else noticed
            short, long = rng.uniform(0.2, 0.6 * limit), rng.uniform(1.2 * limit, min(2.2 * limit, limit + 4.0))
            seconds = long if rng.random() < 0.5 else short
            yield Blow(next(numbers), kind, round(_lasting(kind, seconds), 2), rng.random())


def _lasting(kind: str, seconds: float) -> float:
    """How long a blow lasts, where a stop would last so long."""
    if kind.startswith("kill"):
        return 0.0
    return min(seconds, LONGEST_TROUBLE) if kind.endswith("store") else seconds
