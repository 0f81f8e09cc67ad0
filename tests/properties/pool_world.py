"""A small world around the pool machine: workers that are the truth, coordinators, and a network that misbehaves."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayflow.core.pool import (
    Command,
    Demand,
    Grant,
    PoolMachine,
    PoolTerms,
    Recall,
    Revoke,
    StartWorkers,
    StopWorker,
    Void,
)
from rayflow.definition.options import PoolConfig
from tests.core.pool_bench import Coordinator

TERMS = PoolTerms(
    lease_term=5.0, settle=0.5, start_timeout=8.0, environment_idle=30.0, quantum=0.25, recall_term=1.0, resend=1.0
)
CONFIG = PoolConfig(workers=2, concurrency=2)
ENVIRONMENTS = ("red", "blue")


@dataclass
class TrueWorker:
    """What a worker really does. It refuses what it was told to refuse, and what does not fit."""

    environment: str
    up: bool = False
    running: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)

    def fits(self, token: str) -> bool:
        if token.endswith(".alone"):
            return not self.running
        return len(self.running) < CONFIG.concurrency and not any(other.endswith(".alone") for other in self.running)


class Actor(Coordinator):
    """A coordinator with tasks: each slot runs one after another, the most urgent first."""

    def __init__(self, name: str, environment: str) -> None:
        super().__init__(name)
        self.environment = environment
        self.tasks: list[tuple[int, float, bool]] = []  # negative priority, stamp, alone

    def take(self, token: str) -> bool:
        """Take the most urgent task that fits the slot off the list; answers whether there is one."""
        fitting = [task for task in self.tasks if task[2] == (token in self.alone)]
        if fitting:
            self.tasks.remove(min(fitting))
        return bool(fitting)

    def demand(self) -> list[Demand]:
        groups: dict[tuple[int, bool], list[float]] = {}
        for rank, stamp, alone in self.tasks:
            groups.setdefault((-rank, alone), []).append(stamp)
        return [Demand(self.environment, p, min(s), len(s), alone) for (p, alone), s in sorted(groups.items())]


@dataclass(frozen=True)
class Update:
    """An update on its way to the pool, as it was when it was sent."""

    coordinator: str
    sequence: int
    epoch: int
    seen: int
    demand: list[Demand]
    holding: dict[str, str]


@dataclass(frozen=True)
class Told:
    """A command on its way from a pool of some epoch."""

    epoch: int
    command: Grant | Recall | Void | Revoke


@dataclass(frozen=True)
class Free:
    """A worker's confirmation on its way to the pool."""

    worker: str
    token: str


Message = Update | Told | Free


class World:
    """Everything around the machine. What is sent lies in ``network`` until it is delivered, or lost."""

    def __init__(self) -> None:
        self.now = 0.0
        self.epoch = 1
        self.machine = PoolMachine(CONFIG, epoch=1, now=0.0, terms=TERMS)
        self.workers: dict[str, TrueWorker] = {}
        self.actors: dict[str, Actor] = {}
        self.network: list[Message] = []
        self.commands: list[Command] = []
        self._sequence = 0
        self._names = 0

    # --- the shell ----------------------------------------------------------------------------------------
    def decide(self) -> list[Command]:
        """Let the machine decide, and do what a shell does."""
        self.commands = self.machine.decide(self.now)
        for command in self.commands:
            match command:
                case StartWorkers():
                    for _ in range(command.count):
                        self._names += 1
                        name = f"w{self._names:03}"
                        self.workers[name] = TrueWorker(command.environment)
                        self.machine.worker_starting(name, command.environment, self.now)
                case StopWorker():
                    self.workers.pop(command.worker, None)
                    self.machine.worker_down(command.worker, self.now)
                case Grant() | Recall() | Void() | Revoke():
                    self.network.append(Told(self.epoch, command))
        return self.commands

    def census(self, name: str) -> None:
        """A worker comes up, or is asked by a restarted pool."""
        worker = self.workers[name]
        worker.up = True
        self.machine.worker_up(name, worker.environment, self.now, busy_tokens=sorted(worker.running))

    def worker_dies(self, name: str) -> None:
        del self.workers[name]
        self.machine.worker_down(name, self.now)

    def restart_pool(self) -> None:
        self.epoch += 1
        self.machine = PoolMachine(CONFIG, epoch=self.epoch, now=self.now, terms=TERMS)
        for name, worker in self.workers.items():
            worker.up = False
            self.machine.worker_starting(name, worker.environment, self.now)

    # --- coordinators -------------------------------------------------------------------------------------
    def send_update(self, actor: Actor) -> None:
        self._sequence += 1
        update = Update(actor.name, self._sequence, actor.epoch, actor.seen, actor.demand(), dict(actor.held))
        self.network.append(update)

    def actor_dies(self, name: str) -> None:
        del self.actors[name]
        self.machine.forget(name, self.now)

    def finish(self, name: str, token: str) -> None:
        """A task on a worker ends; its coordinator puts the next one on the slot, or gives it back if asked."""
        self.workers[name].running.remove(token)
        if token in self.workers[name].revoked:
            self.network.append(Free(name, token))
        for actor in self.actors.values():
            if token in actor.held:
                if token in actor.recalled:
                    actor.give_back(token)
                else:
                    self.use(actor, token)

    def use(self, actor: Actor, token: str) -> str:
        """Put a task on an idle slot; answers "busy" if the worker refuses it for want of room."""
        worker = self.workers.get(actor.held[token])
        if worker is None or token in worker.revoked:
            actor.give_back(token)
        elif not worker.fits(token):
            actor.give_back(token)
            return "busy"
        elif actor.take(token):
            worker.running.add(token)
        return ""

    def idle(self, actor: Actor) -> list[str]:
        """Tokens of a coordinator on which nothing runs."""
        running = {token for worker in self.workers.values() for token in worker.running}
        return [token for token in actor.held if token not in running]

    # --- the network --------------------------------------------------------------------------------------
    def deliver(self, message: Message) -> str:
        """Deliver one message; answers "busy" if a worker refused a task for want of room."""
        match message:
            case Update():
                if message.coordinator in self.actors:
                    self.machine.update(
                        message.coordinator,
                        sequence=message.sequence,
                        epoch=message.epoch,
                        seen=message.seen,
                        demand=message.demand,
                        holding=message.holding,
                        now=self.now,
                    )
            case Free():
                self.machine.slot_free(message.worker, message.token, self.now)
            case Told(command=Revoke() as revoke):
                self._revoke(revoke)
            case Told(epoch=epoch, command=Grant() | Recall() | Void() as command):
                return self._tell(epoch, command)
        return ""

    def _revoke(self, revoke: Revoke) -> None:
        worker = self.workers.get(revoke.worker)
        if worker is not None:
            worker.revoked.add(revoke.token)
            if revoke.token not in worker.running:
                self.network.append(Free(revoke.worker, revoke.token))

    def _tell(self, epoch: int, command: Grant | Recall | Void) -> str:
        actor = self.actors.get(command.coordinator)
        if actor is None:
            return ""
        if actor.receive(epoch, command):
            return self.use(actor, command.token)
        if command.token in actor.recalled and command.token in self.idle(actor):
            actor.give_back(command.token)
        return ""
