"""A small world around the pool machine: workers that are the truth, coordinators, and a network that misbehaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rayflow.core.pool import (
    Command,
    Demand,
    Grant,
    LeaseRevoked,
    Limit,
    PoolMachine,
    PoolTerms,
    Recall,
    Revoke,
    StartWorkers,
    StopWorker,
    is_ray_task_environment,
    ray_task_environment,
)
from rayflow.core.pool.protocol import token_exclusive, token_keys
from rayflow.definition.options import PoolConfig
from tests.core.pool.pool_bench import Coordinator

TERMS = PoolTerms(
    lease_term=5.0,
    settle=0.5,
    start_within=2.0,
    environment_idle_timeout=30.0,
    quantum=0.25,
    recall_term=1.0,
    resend=1.0,
)
SLOTS = 2


def size(**changes: Any) -> PoolConfig:
    """A pool's settings: all sizes of these tests have the same slots and durations."""
    fixed = {"concurrency": SLOTS, "start_timeout": 8.0, "idle_timeout": 3.0, "drain_timeout": 2.0, "max_ray_tasks": 2}
    return PoolConfig(**{**fixed, **changes})


SIZES = (
    size(workers=2),
    size(workers=0),
    size(workers=1, drain_timeout=0.0),
    size(workers=3, max_ray_tasks=1),
    size(min_workers=0, max_workers=3),
    size(min_workers=1, max_workers=2),
)
ENVIRONMENTS = ("red", "blue", ray_task_environment("red"))
ONE, PAIR = Limit("one", 1), Limit("pair", 2)
RATE, SLOW = Limit("rate", 3, 1.0), Limit("slow", 1, 2.0)
LIMITS = ((), (ONE,), (PAIR, RATE), (RATE,), (ONE, SLOW))


@dataclass
class TrueWorker:
    """What a worker really does. It refuses what it was told to refuse, and what does not fit.

    Tasks of their own run beside each other, as many as there are.
    """

    environment: str
    up: bool = False
    own: bool = False
    running: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)

    def fits(self, token: str) -> bool:
        if self.own:
            return True
        if token_exclusive(token):
            return not self.running
        return len(self.running) < SLOTS and not any(token_exclusive(other) for other in self.running)


@dataclass(frozen=True, order=True)
class Task:
    """One task; the most urgent sorts first."""

    rank: int
    waiting_since: float
    exclusive: bool
    limits: tuple[Limit, ...]


class Actor(Coordinator):
    """A coordinator with tasks: each slot runs one after another, the most urgent first."""

    def __init__(self, name: str, environment: str) -> None:
        super().__init__(name)
        self.environment = environment
        self.tasks: list[Task] = []
        self.running: dict[str, Task] = {}
        self.grants: dict[str, Grant] = {}

    def receive(self, epoch: int, command: Grant | Recall | LeaseRevoked) -> bool:
        new = super().receive(epoch, command)
        if new and isinstance(command, Grant):
            self.grants[command.token] = command
        self._requeue(*[token for token in self.running if token not in self.held])
        return new

    def give_back(self, *tokens: str) -> None:
        super().give_back(*tokens)
        self._requeue(*[token for token in tokens if token in self.running])

    def _requeue(self, *tokens: str) -> None:
        """What ran there is lost: it waits again."""
        self.tasks += [self.running.pop(token) for token in tokens]

    def take(self, token: str) -> bool:
        """Take the most urgent task that fits the slot off the list; answers whether there is one."""
        grant = self.grants[token]
        fitting = [task for task in self.tasks if (task.exclusive, task.limits) == (grant.exclusive, grant.limits)]
        if fitting:
            self.running[token] = min(fitting)
            self.tasks.remove(self.running[token])
        return bool(fitting)

    def never_began(self, token: str) -> None:
        """Give back a slot on which nothing runs. Unless its task died with the worker, none ever began."""
        if token not in self.running and any(limit.per for limit in self.grants[token].limits):
            self.begun[token] = 0.0
        self.give_back(token)

    def demand(self) -> list[Demand]:
        groups: dict[tuple[int, bool, tuple[Limit, ...]], list[float]] = {}
        for task in self.tasks:
            groups.setdefault((-task.rank, task.exclusive, task.limits), []).append(task.waiting_since)
        return [
            Demand(self.environment, p, min(stamps), len(stamps), exclusive, limits, len(stamps))
            for (p, exclusive, limits), stamps in sorted(groups.items(), key=lambda group: (group[0][0], min(group[1])))
        ]


@dataclass(frozen=True)
class Update:
    """An update on its way to the pool, as it was when it was sent."""

    coordinator: str
    sequence: int
    epoch: int
    seen: int
    demand: list[Demand]
    holding: dict[str, str]
    begun: dict[str, float]


@dataclass(frozen=True)
class Told:
    """A command on its way from a pool of some epoch."""

    epoch: int
    command: Grant | Recall | LeaseRevoked | Revoke


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
        self.config = SIZES[0]
        self.machine = PoolMachine(self.config, epoch=1, now=0.0, terms=TERMS)
        self.workers: dict[str, TrueWorker] = {}
        #: What tasks of their own run on: nobody starts or stops it.
        self.own = {name: TrueWorker(name, up=True, own=True) for name in ENVIRONMENTS if is_ray_task_environment(name)}
        #: When tasks really began, by the name of the limit.
        self.starts: dict[str, list[float]] = {}
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
                case Grant() | Recall() | LeaseRevoked() | Revoke():
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
        self.machine = PoolMachine(self.config, epoch=self.epoch, now=self.now, terms=TERMS)
        for name, worker in self.workers.items():
            worker.up = False
            self.machine.worker_starting(name, worker.environment, self.now)

    def configure(self, config: PoolConfig) -> None:
        self.config = config
        self.machine.configure(config, self.now)

    # --- coordinators -------------------------------------------------------------------------------------
    def all_workers(self) -> dict[str, TrueWorker]:
        return {**self.workers, **self.own}

    def send_update(self, actor: Actor, *, tell: bool = True) -> None:
        """What it says of tasks that began is said once, now or later; if it is lost, never."""
        begun: dict[str, float] = {}
        if tell:
            begun, actor.begun = actor.begun, {}
        self._sequence += 1
        update = Update(actor.name, self._sequence, actor.epoch, actor.seen, actor.demand(), dict(actor.held), begun)
        self.network.append(update)

    def actor_dies(self, name: str) -> None:
        actor = self.actors.pop(name)
        for worker in self.own.values():
            worker.running -= actor.held.keys()
        self.machine.forget(name, self.now)

    def finish(self, name: str, token: str) -> None:
        """A task ends; its coordinator puts the next one on the slot, or gives it back if it should."""
        worker = self.all_workers()[name]
        worker.running.remove(token)
        if token in worker.revoked:
            self.network.append(Free(name, token))
        for actor in self.actors.values():
            if token in actor.held:
                del actor.running[token]
                if token in actor.recalled or actor.grants[token].limits:
                    actor.give_back(token)
                else:
                    self.use(actor, token)

    def use(self, actor: Actor, token: str) -> str:
        """Put a task on an idle slot; answers "busy" if the worker refuses it for want of room."""
        worker, grant = self.all_workers().get(actor.held[token]), actor.grants[token]
        if worker is None or token in worker.revoked:
            actor.give_back(token)
        elif not worker.fits(token):
            actor.give_back(token)
            return "busy"
        elif (grant.start_by is not None and self.now > grant.start_by) or not actor.take(token):
            if grant.limits:
                actor.never_began(token)
        else:
            worker.running.add(token)
            for limit in grant.limits:
                if limit.per:
                    self.starts.setdefault(limit.name, []).append(self.now)
                    actor.begun[token] = self.now
        return ""

    def idle(self, actor: Actor) -> list[str]:
        """Tokens of a coordinator on which nothing runs."""
        running = {token for worker in self.all_workers().values() for token in worker.running}
        return [token for token in actor.held if token not in running]

    def running_under(self, limit: Limit) -> int:
        """How many tasks really run under a limit on tasks at once.

        What runs as a task of its own counts while it has a lease: the pool cannot tell a dead owner from a silent one.
        """
        leases = {lease.token for lease in self.machine.leases()}
        tokens = [token for worker in self.workers.values() for token in worker.running]
        tokens += [token for worker in self.own.values() for token in worker.running if token in leases]
        return sum(limit.name in token_keys(token) for token in tokens)

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
                        begun=message.begun,
                    )
            case Free():
                self.machine.slot_free(message.worker, message.token, self.now)
            case Told(command=Revoke() as revoke):
                self._revoke(revoke)
            case Told(epoch=epoch, command=Grant() | Recall() | LeaseRevoked() as command):
                return self._tell(epoch, command)
        return ""

    def _revoke(self, revoke: Revoke) -> None:
        worker = self.workers.get(revoke.worker)
        if worker is not None:
            worker.revoked.add(revoke.token)
            if revoke.token not in worker.running:
                self.network.append(Free(revoke.worker, revoke.token))

    def _tell(self, epoch: int, command: Grant | Recall | LeaseRevoked) -> str:
        actor = self.actors.get(command.coordinator)
        if actor is None:
            return ""
        if actor.receive(epoch, command):
            return self.use(actor, command.token)
        if command.token in actor.recalled and command.token in self.idle(actor):
            actor.give_back(command.token)
        return ""
