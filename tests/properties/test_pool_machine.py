"""The pool machine among workers that die, coordinators that fall silent, and messages that are late or lost."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rayflow.core.pool import Grant, Recall
from rayflow.core.pool.state import Environment, Seat, Worker
from tests.properties.pool_world import CONFIG, ENVIRONMENTS, TERMS, Actor, Told, World

picks = st.integers(0, 999)


@dataclass(frozen=True)
class Open:
    """Something that is still waited for after a decision."""

    coordinator: str
    priority: int
    stamp: float
    count: int
    alone: bool


class PoolWorld(RuleBasedStateMachine):
    """Rules move the world; invariants look into the machine after each decision."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.made = 0
        self.tokens: set[str] = set()
        self.ended: set[str] = set()
        self.restarted = False
        self.asked: dict[str, float] = {}

    @initialize(busy=st.booleans())
    def begin(self, *, busy: bool) -> None:
        """Often there are two coordinators and workers already."""
        self.world.now = 1.0
        if busy:
            self.actor_comes("red")
            self.actor_comes("red")
            self.world.machine.want("red", 1.0)
            self.decide()
            for name in list(self.world.workers):
                self.world.census(name)

    # --- rules: coordinators ------------------------------------------------------------------------------
    def pick_actor(self, pick: int) -> Actor:
        actors = list(self.world.actors.values())
        return actors[pick % len(actors)]

    @rule(environment=st.sampled_from(ENVIRONMENTS))
    def actor_comes(self, environment: str) -> None:
        if len(self.world.actors) < 5:
            self.made += 1
            self.world.actors[f"c{self.made}"] = Actor(f"c{self.made}", environment)

    @precondition(lambda self: self.world.actors)
    @rule(pick=picks, priority=st.sampled_from([1, 5, 9]), count=st.integers(1, 6), alone=st.integers(0, 4))
    def tasks_come(self, pick: int, priority: int, count: int, alone: int) -> None:
        actor = self.pick_actor(pick)
        actor.tasks += [(-priority, self.world.now, alone == 0)] * (min(count, 2) if alone == 0 else count)
        for token in self.world.idle(actor):
            self.check_refusal(self.world.use(actor, token), token)
        self.world.send_update(actor)

    @precondition(lambda self: self.world.actors)
    @rule(pick=picks)
    def actor_sends(self, pick: int) -> None:
        self.world.send_update(self.pick_actor(pick))

    @precondition(lambda self: self.world.actors)
    @rule(pick=picks)
    def idle_slots_are_given_back(self, pick: int) -> None:
        actor = self.pick_actor(pick)
        for token in self.world.idle(actor):
            actor.give_back(token)
        self.world.send_update(actor)

    @precondition(lambda self: self.world.actors)
    @rule(pick=picks)
    def actor_dies(self, pick: int) -> None:
        self.world.actor_dies(self.pick_actor(pick).name)
        self.decide()

    # --- rules: workers -----------------------------------------------------------------------------------
    @precondition(lambda self: any(not worker.up for worker in self.world.workers.values()))
    @rule(pick=picks)
    def worker_comes_up(self, pick: int) -> None:
        down = [name for name, worker in self.world.workers.items() if not worker.up]
        self.world.census(down[pick % len(down)])
        self.decide()

    @precondition(lambda self: self.world.workers)
    @rule(pick=picks)
    def worker_dies(self, pick: int) -> None:
        self.world.worker_dies(sorted(self.world.workers)[pick % len(self.world.workers)])
        self.decide()

    @precondition(lambda self: any(worker.running for worker in self.world.workers.values()))
    @rule(pick=picks)
    def task_ends(self, pick: int) -> None:
        running = [(name, token) for name, worker in self.world.workers.items() for token in sorted(worker.running)]
        self.world.finish(*running[pick % len(running)])

    @precondition(lambda self: any(worker.running for worker in self.world.workers.values()))
    @rule(pick=picks)
    def task_is_stuck(self, pick: int) -> None:
        running = [(name, token) for name, worker in self.world.workers.items() for token in sorted(worker.running)]
        self.world.machine.retire(*running[pick % len(running)], self.world.now)
        self.decide()

    # --- rules: network, time, pool -----------------------------------------------------------------------
    @precondition(lambda self: self.world.network)
    @rule(pick=picks, how=st.sampled_from(["first", "first", "first", "any", "twice", "lost"]))
    def message(self, pick: int, how: str) -> None:
        index = 0 if how == "first" else pick % len(self.world.network)
        message = self.world.network[index]
        if how != "twice":
            del self.world.network[index]
        if how != "lost":
            token = message.command.token if isinstance(message, Told) else ""
            self.check_refusal(self.world.deliver(message), token)
            self.decide()

    @rule()
    def all_messages(self) -> None:
        for _ in range(len(self.world.network)):
            self.message(0, "first")

    @rule(seconds=st.sampled_from([0.0625, 0.25, 0.5, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.decide()

    @rule()
    def pool_restarts(self) -> None:
        self.restarted = True
        self.ended.clear()
        self.tokens.clear()
        self.asked.clear()
        self.world.restart_pool()

    # --- what must hold of a decision ---------------------------------------------------------------------
    def decide(self) -> None:
        world = self.world
        before = {lease.token for lease in world.machine.leases()}
        commands = world.decide()
        grants = [command for command in commands if isinstance(command, Grant) and command.token not in before]
        fresh = [grant for grant in grants if grant.token not in self.tokens]
        self.tokens.update(grant.token for grant in fresh)
        settled = world.machine._settled_at <= world.now
        assert settled or not fresh
        for environment in world.machine._book.environments.values():
            waiting = self.open(environment)
            self.check_no_double_grants(environment, fresh)
            self.check_order(environment, [g for g in fresh if g.environment == environment.name], waiting)
            if settled:
                self.check_nothing_idle(environment, waiting)
            recalls = [c for c in commands if isinstance(c, Recall) and c.token not in self.asked]
            self.check_recalls(environment, recalls, waiting)
        self.asked.update(
            {c.token: c.deadline for c in commands if isinstance(c, Recall) and c.token not in self.asked}
        )
        wake = world.machine.next_wake(world.now)
        assert wake is None or wake > world.now, "a machine that has decided has nothing to do now"

    def open(self, environment: Environment) -> list[Open]:
        """What the machine was told and has not granted: demand less what is in flight, most urgent first."""
        found = []
        for name, demand in environment.waiting.items():
            seats = self.world.machine._book.parties[name].seats.values()
            for alone in (False, True):
                flying = sum(1 for seat in seats if not seat.received and seat.lease.alone == alone)
                for entry in sorted((d for d in demand if d.alone == alone), key=lambda d: -d.priority):
                    rest = max(0, entry.count - flying)
                    flying -= min(flying, entry.count)
                    if rest:
                        found.append(Open(name, entry.priority, entry.stamp, rest, alone))
        return found

    def check_no_double_grants(self, environment: Environment, grants: list[Grant]) -> None:
        """Nobody has more in flight than it wants."""
        for grant in grants:
            if grant.environment == environment.name:
                seats = self.world.machine._book.parties[grant.coordinator].seats.values()
                flying = sum(1 for seat in seats if not seat.received and seat.lease.alone == grant.alone)
                entries = environment.waiting[grant.coordinator]
                assert flying <= sum(entry.count for entry in entries if entry.alone == grant.alone)

    def check_order(self, environment: Environment, grants: list[Grant], waiting: list[Open]) -> None:
        """Every grant is the best demand that it could have served."""
        occupied = {name: worker.used for name, worker in environment.workers.items()}
        for grant in reversed(grants):
            occupied[grant.worker] -= CONFIG.concurrency if grant.alone else 1
            for other in waiting:
                if not other.alone or occupied[grant.worker] == 0:
                    assert grant.priority >= other.priority
                if other.alone == grant.alone and other.priority == grant.priority:
                    entries = environment.waiting[grant.coordinator]
                    stamp = next(e.stamp for e in entries if (e.priority, e.alone) == (grant.priority, grant.alone))
                    if other.stamp + TERMS.quantum > self.world.now and stamp + TERMS.quantum > self.world.now:
                        assert (stamp, grant.coordinator) <= (other.stamp, other.coordinator)
        plain = [grant.priority for grant in grants if not grant.alone]
        assert plain == sorted(plain, reverse=True)

    def check_nothing_idle(self, environment: Environment, waiting: list[Open]) -> None:
        """Nobody waits beside a slot that fits."""
        usable = [worker for worker in environment.workers.values() if worker.up and not worker.stuck]
        if any(wish.alone for wish in waiting):
            assert all(worker.used for worker in usable)
        if any(not wish.alone for wish in waiting):
            assert not [w.name for w in usable if w.free and w.name != environment.drain]

    def check_recalls(self, environment: Environment, recalls: list[Recall], waiting: list[Open]) -> None:
        """No more leases are asked back than are waited for, and only for somebody else."""

        def counts(seat: Seat) -> bool:
            worker = environment.workers[seat.lease.worker]
            return not seat.lease.alone and not worker.stuck and worker.name != environment.drain

        seats = {token: seat for worker in environment.workers.values() for token, seat in worker.seats.items()}
        asked = {recall.token for recall in recalls}
        new = [seats[token] for token in asked if token in seats and counts(seats[token])]
        underway = [
            s for t, s in seats.items() if t not in asked and counts(s) and s.deadline and s.deadline > self.world.now
        ]
        plain = sum(wish.count for wish in waiting if not wish.alone)
        assert len(new) <= max(0, plain - len(underway))
        for seat in new:
            assert any(wish.coordinator != seat.lease.coordinator for wish in waiting)

    def check_refusal(self, answer: str, token: str) -> None:
        """Without a restart, a worker never lacks room for a lease that is valid."""
        if answer == "busy" and not self.restarted:
            assert token not in {lease.token for lease in self.world.machine.leases()}

    # --- what must hold always ----------------------------------------------------------------------------
    @invariant()
    def workers_are_not_overfull(self) -> None:
        for worker in self.world.machine._book.workers.values():
            leases = [seat.lease for seat in worker.seats.values()]
            assert len(leases) + self.own_ghosts(worker) <= CONFIG.concurrency
            if any(lease.alone for lease in leases):
                assert len(leases) == 1

    def own_ghosts(self, worker: Worker) -> int:
        return sum(1 for token in worker.ghosts if token in self.tokens)

    @invariant()
    def tokens_are_conserved(self) -> None:
        leases = [lease.token for lease in self.world.machine.leases()]
        assert len(leases) == len(set(leases))
        own = {token for token in leases if token.startswith(f"{self.world.epoch}.")}
        assert own <= self.tokens
        assert not own & self.ended, "a lease that was over is back"
        self.ended |= self.tokens - own
        for party in self.world.machine._book.parties.values():
            assert all(seat.lease.coordinator == party.name for seat in party.seats.values())

    # --- what must come true in the end -------------------------------------------------------------------
    def teardown(self) -> None:
        """Once messages arrive and workers come up, everything that waits is served."""
        for _ in range(400):
            if not any(actor.tasks for actor in self.world.actors.values()):
                return
            self.world.now += 0.25
            for name in [name for name, worker in self.world.workers.items() if not worker.up]:
                self.world.census(name)
            for name, worker in list(self.world.workers.items()):
                for token in sorted(worker.running):
                    self.world.finish(name, token)
            for actor in self.world.actors.values():
                for token in self.world.idle(actor):
                    if token in actor.recalled or not actor.tasks:
                        actor.give_back(token)
                    else:
                        self.world.use(actor, token)
                self.world.send_update(actor)
            self.decide()
            self.all_messages()
        waiting = {actor.name: actor.tasks for actor in self.world.actors.values()}
        raise AssertionError(f"not served: {waiting}; {self.world.machine.stats(self.world.now)}")


TestPoolWorld = PoolWorld.TestCase
TestPoolWorld.settings = settings(max_examples=100, stateful_step_count=60)
