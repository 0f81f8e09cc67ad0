"""The pool machine among workers that die, coordinators that fall silent, and messages that are late or lost."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rayflow.core.pool import Grant, Limit, Recall, is_ray_task_environment
from rayflow.core.pool.protocol import token_keys
from rayflow.core.pool.state import Environment, LeaseState, Worker
from tests.properties.pool_world import (
    ENVIRONMENTS,
    LIMITS,
    ONE,
    PAIR,
    RATE,
    SIZES,
    SLOTS,
    SLOW,
    TERMS,
    Actor,
    Task,
    Told,
    TrueWorker,
    World,
)

picks = st.integers(0, 999)


@dataclass(frozen=True)
class Open:
    """Something that is still waited for after a decision."""

    coordinator: str
    priority: int
    waiting_since: float
    count: int
    exclusive: bool
    limits: tuple[Limit, ...]


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
            self.world.machine.request_environment("red", 1.0)
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
    @rule(
        pick=picks,
        priority=st.sampled_from([1, 5, 9]),
        count=st.integers(1, 6),
        exclusive=st.integers(0, 4),
        limits=st.sampled_from(LIMITS),
    )
    def tasks_come(self, pick: int, priority: int, count: int, exclusive: int, limits: tuple[Limit, ...]) -> None:
        actor = self.pick_actor(pick)
        # One of its own has a process for itself anyway.
        lonely = exclusive == 0 and actor.environment not in self.world.own
        actor.tasks += [Task(-priority, self.world.now, lonely, limits)] * (min(count, 2) if lonely else count)
        for token in self.world.idle(actor):
            self.check_refusal(self.world.use(actor, token), token)
        self.world.send_update(actor)

    @precondition(lambda self: self.world.actors)
    @rule(pick=picks, tell=st.booleans())
    def actor_sends(self, pick: int, *, tell: bool) -> None:
        self.world.send_update(self.pick_actor(pick), tell=tell)

    @precondition(lambda self: self.world.actors)
    @rule(pick=picks)
    def idle_slots_are_given_back(self, pick: int) -> None:
        actor = self.pick_actor(pick)
        for token in self.world.idle(actor):
            actor.never_began(token)
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

    def pick_running(self, pick: int, workers: dict[str, TrueWorker]) -> tuple[str, str] | None:
        running = [(name, token) for name, worker in workers.items() for token in sorted(worker.running)]
        return running[pick % len(running)] if running else None

    @rule(pick=picks)
    def task_ends(self, pick: int) -> None:
        if found := self.pick_running(pick, self.world.all_workers()):
            self.world.finish(*found)

    @rule(pick=picks)
    def task_is_stuck(self, pick: int) -> None:
        if found := self.pick_running(pick, self.world.all_workers()):
            self.world.machine.worker_stuck(*found, self.world.now)
            self.decide()

    @precondition(lambda self: self.world.workers)
    @rule(pick=picks)
    def worker_is_worn(self, pick: int) -> None:
        self.world.machine.worker_worn_out(sorted(self.world.workers)[pick % len(self.world.workers)], self.world.now)
        self.decide()

    @rule(size=st.integers(0, len(SIZES) - 1))
    def pool_gets_another_size(self, size: int) -> None:
        self.world.configure(SIZES[size])
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
        for environment in world.machine._ledger.environments.values():
            waiting = self.open(environment)
            self.check_no_double_grants(environment, fresh)
            self.check_order(environment, [g for g in fresh if g.environment == environment.name], waiting)
            if settled:
                self.check_nothing_idle(environment, waiting)
                self.check_size(environment)
            recalls = [c for c in commands if isinstance(c, Recall) and c.token not in self.asked]
            elsewhere = [grant for grant in fresh if grant.environment != environment.name]
            self.check_recalls(environment, recalls, waiting, elsewhere)
        self.asked.update(
            {c.token: c.deadline for c in commands if isinstance(c, Recall) and c.token not in self.asked}
        )
        wake = world.machine.next_wake(world.now)
        assert wake is None or wake > world.now, "a machine that has decided has nothing to do now"

    def open(self, environment: Environment) -> list[Open]:
        """What the machine was told and has not granted: demand less what is in flight, most urgent first."""
        found = []
        for name, demand in environment.waiting.items():
            seats = self.world.machine._ledger.coordinators[name].leases.values()
            flying: dict[tuple[bool, tuple[Limit, ...]], int] = {}
            for seat in seats:
                if not seat.received:
                    kind = (seat.lease.exclusive, seat.limits)
                    flying[kind] = flying.get(kind, 0) + 1
            for entry in sorted(demand, key=lambda d: -d.priority):
                kind = (entry.exclusive, entry.limits)
                rest = max(0, entry.count - flying.get(kind, 0))
                flying[kind] = max(0, flying.get(kind, 0) - entry.count)
                if rest:
                    found.append(Open(name, entry.priority, entry.waiting_since, rest, *kind))
        return found

    def used(self) -> dict[Limit, int]:
        """Places that are taken; those of keys are counted here, by the tokens that there are."""
        book = self.world.machine._ledger
        tokens = [token for w in book.workers.values() for token in (*w.leases, *w.orphans)]
        tokens += [token for party in book.coordinators.values() for token in party.claims]
        used = {limit: sum(limit.name in token_keys(token) for token in tokens) for limit in (ONE, PAIR)}
        return used | {limit: book.limits.used(limit, self.world.now) for limit in (RATE, SLOW)}

    def check_no_double_grants(self, environment: Environment, grants: list[Grant]) -> None:
        """Nobody has more in flight than it wants."""
        for grant in grants:
            if grant.environment == environment.name:
                kind = (grant.exclusive, grant.limits)
                seats = self.world.machine._ledger.coordinators[grant.coordinator].leases.values()
                flying = sum(1 for seat in seats if not seat.received and (seat.lease.exclusive, seat.limits) == kind)
                entries = environment.waiting[grant.coordinator]
                assert flying <= sum(entry.count for entry in entries if (entry.exclusive, entry.limits) == kind)

    def check_order(self, environment: Environment, grants: list[Grant], waiting: list[Open]) -> None:
        """Every grant is the best demand that it could have served."""
        occupied = {name: worker.used for name, worker in environment.workers.items()}
        used = self.used()
        for grant in reversed(grants):
            occupied[grant.worker] -= SLOTS if grant.exclusive else 1
            for limit in grant.limits:
                assert used[limit] <= limit.count
                used[limit] -= 1
            for other in self.eligible(waiting, used):
                if not other.exclusive or occupied[grant.worker] == 0:
                    assert grant.priority >= other.priority
                if other.exclusive == grant.exclusive and other.priority == grant.priority:
                    entries = environment.waiting[grant.coordinator]
                    kind = (grant.priority, grant.exclusive, grant.limits)
                    waiting_since = next(
                        e.waiting_since for e in entries if (e.priority, e.exclusive, e.limits) == kind
                    )
                    if (
                        other.waiting_since + TERMS.quantum > self.world.now
                        and waiting_since + TERMS.quantum > self.world.now
                    ):
                        assert (waiting_since, grant.coordinator) <= (other.waiting_since, other.coordinator)
        plain = [grant.priority for grant in grants if not grant.exclusive]
        assert plain == sorted(plain, reverse=True)

    def check_nothing_idle(self, environment: Environment, waiting: list[Open]) -> None:
        """Nobody waits beside a slot that fits."""
        usable = [worker for worker in environment.workers.values() if worker.up and not worker.leaving]
        eligible = self.eligible(waiting, self.used())
        if any(wish.exclusive for wish in eligible):
            assert all(worker.used for worker in usable)
        if any(not wish.exclusive for wish in eligible):
            assert not [w.name for w in usable if w.free and w.name != environment.drain]

    def eligible(self, waiting: list[Open], used: dict[Limit, int]) -> list[Open]:
        """What has room in its limits, beside what is kept for more urgent tasks that lack a whole worker."""
        found, kept = [], dict(used)
        for wish in sorted(waiting, key=lambda w: (-w.priority, w.waiting_since, w.coordinator)):
            if all(kept[limit] < limit.count for limit in wish.limits):
                found.append(wish)
                for limit in wish.limits if wish.exclusive else ():
                    kept[limit] += wish.count
        return found

    def check_size(self, environment: Environment) -> None:
        """Never more workers than there may be, but those that leave, and those that nobody knows yet."""
        low, high = self.world.config.bounds
        if not environment.for_ray_tasks:
            staying = [worker for worker in environment.workers.values() if not worker.leaving]
            assert len(staying) <= max(high, sum(worker.found and not worker.up for worker in staying))
            if environment.waiting and environment.retry_at is None:
                assert len(staying) >= min(high, max(low, 1))

    def check_recalls(
        self, environment: Environment, recalls: list[Recall], waiting: list[Open], elsewhere: list[Grant]
    ) -> None:
        """No more leases are asked back than are waited for, and only for somebody else."""

        def counts(seat: LeaseState) -> bool:
            worker = environment.workers[seat.lease.worker]
            return not seat.lease.exclusive and not worker.leaving and worker.name != environment.drain

        seats = {token: seat for worker in environment.workers.values() for token, seat in worker.leases.items()}
        asked = {recall.token for recall in recalls}
        new = [seats[token] for token in asked if token in seats and counts(seats[token])]
        underway = [
            s for t, s in seats.items() if t not in asked and counts(s) and s.deadline and s.deadline > self.world.now
        ]
        used = self.used()
        for limit in (limit for grant in elsewhere for limit in grant.limits):
            used[limit] -= 1  # there may have been room before
        room = {wish: min([wish.count, *(limit.count - used[limit] for limit in wish.limits)]) for wish in waiting}
        plain = sum(max(0, count) for wish, count in room.items() if not wish.exclusive)
        assert len(new) <= max(0, plain - len(underway))
        for seat in new:
            assert not seat.lease.limited
            assert any(wish.coordinator != seat.lease.coordinator or wish.limits for wish in waiting)

    def check_refusal(self, answer: str, token: str) -> None:
        """Without a restart, a worker never lacks room for a lease that is valid."""
        if answer == "busy" and not self.restarted:
            assert token not in {lease.token for lease in self.world.machine.leases()}

    # --- what must hold always ----------------------------------------------------------------------------
    @invariant()
    def workers_are_not_overfull(self) -> None:
        for worker in self.world.machine._ledger.workers.values():
            leases = [seat.lease for seat in worker.leases.values()]
            if not is_ray_task_environment(worker.environment):
                assert len(leases) + self.own_ghosts(worker) <= SLOTS
            if any(lease.exclusive for lease in leases):
                assert len(leases) == 1

    def own_ghosts(self, worker: Worker) -> int:
        return sum(1 for token in worker.orphans if token in self.tokens)

    @invariant()
    def tokens_are_conserved(self) -> None:
        leases = [lease.token for lease in self.world.machine.leases()]
        assert len(leases) == len(set(leases))
        own = {token for token in leases if token.startswith(f"{self.world.epoch}.")}
        assert own <= self.tokens
        assert not own & self.ended, "a lease that was over is back"
        self.ended |= self.tokens - own
        for party in self.world.machine._ledger.coordinators.values():
            assert all(seat.lease.coordinator == party.name for seat in party.leases.values())

    @invariant()
    def leases_are_on_workers_that_live(self) -> None:
        assert {lease.worker for lease in self.world.machine.leases()} <= self.world.all_workers().keys()

    @invariant()
    def limits_are_kept(self) -> None:
        """What a restarted pool does not hear of in time may run once more than it should; nothing starts too often."""
        for limit in (ONE, PAIR):
            assert self.restarted or self.world.running_under(limit) <= limit.count
        for limit in (RATE, SLOW):
            starts = sorted(self.world.starts.get(limit.name, []))
            for first, beyond in zip(starts, starts[limit.count :], strict=False):
                assert beyond - first >= limit.per

    # --- what must come true in the end -------------------------------------------------------------------
    def teardown(self) -> None:
        """Once messages arrive and workers come up, everything that waits is served."""
        self.world.configure(SIZES[0])
        for _ in range(1500):
            if not any(actor.tasks or actor.running for actor in self.world.actors.values()):
                return
            self.world.now += 0.25
            for name in [name for name, worker in self.world.workers.items() if not worker.up]:
                self.world.census(name)
            for name, worker in self.world.all_workers().items():
                for token in sorted(worker.running):
                    self.world.finish(name, token)
            for actor in self.world.actors.values():
                for token in self.world.idle(actor):
                    if token in actor.recalled or not actor.tasks:
                        actor.never_began(token)
                    else:
                        self.world.use(actor, token)
                self.world.send_update(actor)
            self.decide()
            self.all_messages()
            self.limits_are_kept()
        waiting = {actor.name: (actor.tasks, actor.running) for actor in self.world.actors.values()}
        raise AssertionError(f"not served: {waiting}; {self.world.machine.stats(self.world.now)}")


TestPoolWorld = PoolWorld.TestCase
TestPoolWorld.settings = settings(max_examples=100, stateful_step_count=60)
