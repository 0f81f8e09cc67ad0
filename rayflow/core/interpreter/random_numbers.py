"""Random numbers of workflow code, the same in every replay and in forks up to the point where they differ."""

from __future__ import annotations

import random


class RandomNumbers:
    """The generator of one execution, whose seed changes with the run, and in a fork with the call done again."""

    def __init__(self, seed: int) -> None:
        self.generator = random.Random(seed)
        self._fork: tuple[int, int] | None = None

    def continued(self, seed: int) -> None:
        """Begin another run."""
        self.generator.seed(seed)

    def forked(self, before: int, seed: int) -> None:
        """Draw by another seed once the call of that number is issued."""
        self._fork = before, seed

    def issued(self, seq: int) -> None:
        """Reseed the generator when the first call of a fork is issued."""
        if self._fork is not None and seq >= self._fork[0]:
            self.generator.seed(self._fork[1])
            self._fork = None

    def next_seed(self) -> int:
        """Return the seed of the next run."""
        return self.generator.getrandbits(63) if self._fork is None else self._fork[1]
