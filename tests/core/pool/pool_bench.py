"""A pool on a bench: the machine, its time, and coordinators that speak its protocol by the book."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rayflow.core.pool import (
    Command,
    Demand,
    EnvironmentStats,
    Grant,
    LeaseRevoked,
    Limit,
    PoolMachine,
    PoolTerms,
    Recall,
    RevokeReason,
    StartWorkers,
    StopWorker,
)
from rayflow.definition.options import PoolConfig

ENV = "env"


class Coordinator:
    """A coordinator as the machine's docstring describes it. ``wants`` and what it gives back are the test's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wants: list[Demand] = []
        self.held: dict[str, str] = {}
        self.exclusive: set[str] = set()
        self.recalled: list[str] = []
        self.void: list[str] = []
        self.why: list[RevokeReason] = []
        self.begun: dict[str, float] = {}
        self.epoch = 0
        self.seen = 0
        self._early: set[int] = set()
        self._sequence = 0

    def receive(self, epoch: int, command: Grant | Recall | LeaseRevoked) -> bool:
        """Take a message; answers whether it was a grant that is new."""
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            self.epoch, self.seen = epoch, 0
            self._early.clear()
        match command:
            case Grant() if command.number > self.seen and command.number not in self._early:
                self._early.add(command.number)
                while self.seen + 1 in self._early:
                    self.seen += 1
                    self._early.remove(self.seen)
                self.held[command.token] = command.worker
                if command.exclusive:
                    self.exclusive.add(command.token)
                return True
            case Recall() if command.token in self.held:
                self.recalled.append(command.token)
            case LeaseRevoked():
                self.held.pop(command.token, None)
                self.void.append(command.token)
                self.why.append(command.why)
        return False

    def give_back(self, *tokens: str) -> None:
        """Stop holding these tokens, or all; the next update says so."""
        for token in tokens or tuple(self.held):
            del self.held[token]

    def update(self, machine: PoolMachine, now: float) -> None:
        """Send the whole state, and what was not yet told of tasks that began."""
        self._sequence += 1
        machine.update(
            self.name,
            sequence=self._sequence,
            epoch=self.epoch,
            seen=self.seen,
            demand=list(self.wants),
            holding=dict(self.held),
            now=now,
            begun=self.begun,
        )
        self.begun = {}


def wish(
    priority: int = 5,
    count: int = 1,
    *limits: Limit,
    waiting_since: float = 0.0,
    exclusive: bool = False,
    env: str = ENV,
) -> Demand:
    """A demand of as many tasks as slots."""
    return Demand(env, priority, waiting_since, count, exclusive, limits, count)


class Bench:
    """A machine with its time.

    Args:
        workers: per environment; that many are up at the beginning, named a, b, c …
        slots: of each.
        config: other settings of the pool.
        terms: durations that differ from the defaults; the settling time is 0.
    """

    def __init__(
        self,
        workers: int = 1,
        slots: int = 4,
        *,
        epoch: int = 1,
        up: bool = True,
        config: Mapping[str, Any] = MappingProxyType({}),
        **terms: Any,
    ) -> None:
        self.now = 0.0
        self.epoch = epoch
        self.terms = PoolTerms(**{"settle": 0.0, **terms})
        self.config = PoolConfig(**{"workers": workers, "concurrency": slots, **config})
        self.machine = PoolMachine(self.config, epoch=epoch, now=0.0, terms=self.terms)
        self.coordinators: dict[str, Coordinator] = {}
        if up:
            self.up(*"abcdefgh"[:workers])

    def up(self, *workers: str, env: str = ENV, busy: Sequence[str] = ()) -> None:
        for worker in workers:
            self.machine.worker_up(worker, env, self.now, busy_tokens=busy)

    def decide(self) -> list[Command]:
        """Decide, and deliver what is for coordinators."""
        commands = self.machine.decide(self.now)
        for command in commands:
            if isinstance(command, (Grant, Recall, LeaseRevoked)) and command.coordinator in self.coordinators:
                self.coordinators[command.coordinator].receive(self.epoch, command)
        return commands

    def wants(self, name: str, *demand: Demand) -> list[Command]:
        """A coordinator (made if it is new) says what it wants, and the machine decides."""
        coordinator = self.coordinators.setdefault(name, Coordinator(name))
        coordinator.wants = list(demand)
        return self.says(name)

    def says(self, name: str) -> list[Command]:
        """A coordinator sends its state as it is, and the machine decides."""
        self.coordinators[name].update(self.machine, self.now)
        return self.decide()

    def configure(self, **changes: Any) -> list[Command]:
        """Other settings, and the machine decides."""
        self.config = self.config.replace(**changes)
        self.machine.configure(self.config, self.now)
        return self.decide()

    def reports(self, name: str, token: str, at: float) -> list[Command]:
        """A coordinator reports when the task of a token began, and the machine decides."""
        self.coordinators[name].begun[token] = at
        return self.says(name)

    def gives_back(self, name: str, *tokens: str) -> list[Command]:
        """A coordinator gives tokens back, or all, and says so."""
        self.coordinators[name].give_back(*tokens)
        return self.says(name)

    def at(self, now: float) -> list[Command]:
        """It is that late now. Coordinators have sent their updates meanwhile, so that none is silent."""
        self.now = now
        for coordinator in self.coordinators.values():
            coordinator.update(self.machine, now)
        return self.decide()

    def environment(self, name: str = ENV) -> EnvironmentStats:
        """The figures of one environment."""
        return next(e for e in self.machine.stats(self.now).environments if e.environment == name)

    def held(self, name: str) -> int:
        return len(self.coordinators[name].held)


def granted(commands: list[Command]) -> list[tuple[str, str]]:
    """(coordinator, worker) of each grant, in order."""
    return [(command.coordinator, command.worker) for command in commands if isinstance(command, Grant)]


def recalled(commands: list[Command]) -> list[str]:
    """The coordinator of each recall, in order."""
    return [command.coordinator for command in commands if isinstance(command, Recall)]


def started(commands: list[Command]) -> dict[str, int]:
    """How many workers are to be started, by environment."""
    return {command.environment: command.count for command in commands if isinstance(command, StartWorkers)}


def stopped(commands: list[Command]) -> list[str]:
    """The workers that are to be stopped, in order."""
    return [command.worker for command in commands if isinstance(command, StopWorker)]
