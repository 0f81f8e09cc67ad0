"""The admission machine of a worker pool.

**The machine owns** who has which slot: demand and leases of all coordinators, which workers there are and what
occupies them, what was sent and not confirmed, and what is due when. It never sees a task's payload, and it
believes the worker: a slot is free only when its coordinator gave it back, or the worker said so.

**Its shell owns** the clock, the actors and the wires. It calls the methods as things happen, then
:meth:`~PoolMachine.decide`, carries out the commands in order, and calls again at
:meth:`~PoolMachine.next_wake`. It starts and stops workers under the names it is given, takes a census of each
(which tokens are busy there) before it reports it up, and tells when a worker or a coordinator died. Messages
may be late, lost or doubled: updates are whole states, and what is not confirmed is sent again.

How a coordinator takes part:

* It has a name that no other process ever has, and numbers its updates; each says everything: what it holds,
  what it wants beyond that, and which grants it has seen (:class:`~rayflow.core.pool.records.Receipts`). It
  sends one when something changed, and at least a few times in every lease term.
* Grants that it has not seen are in flight: they are not given back although they are missing from its
  holdings, and they are taken off its demand. A token that it has seen and no longer holds is given back.
* It may keep a lease over many tasks, and gives it back when it is recalled, or after a short idle time.
* A lease is never taken by force for being slow, only when its coordinator is dead or silent. Then the worker
  is told to revoke the token, and the slot stays occupied until the worker confirms.

Who gets what is decided in :mod:`rayflow.core.pool.plan`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from rayflow.core.pool.plan import Plan
from rayflow.core.pool.records import (
    NUMBERS_PER_EPOCH,
    Command,
    Demand,
    EnvironmentStats,
    Grant,
    Lease,
    PoolStats,
    PoolTerms,
    Recall,
    Revoke,
    StartWorkers,
    StopWorker,
    Void,
    new_token,
    token_alone,
    token_epoch,
)
from rayflow.core.pool.state import Environment, Ghost, Party, Seat, Unseen, Wish, Worker, wishes
from rayflow.definition.options import PoolConfig
from rayflow.errors import LeaseLost


class PoolMachine:
    """Grants slots of workers to coordinators, by priority, then first in, first out.

    Args:
        config: workers per environment, and slots per worker.
        epoch: of this pool, from 1, above that of every pool of this name before it.
        now: the time.
        terms: the durations by which it works.

    Example:
        >>> pool = PoolMachine(PoolConfig(workers=1, concurrency=2), epoch=1, now=0.0, terms=PoolTerms(settle=0.0))
        >>> wish = Demand("env", priority=5, stamp=0.0, count=1)
        >>> pool.update("c1", sequence=1, seen=0, demand=[wish], holding={}, now=0.0)
        >>> pool.decide(0.0)
        [StartWorkers(environment='env', workers=('env-1-1',))]
        >>> pool.worker_up("env-1-1", "env", 0.7)
        >>> [command.lease.token for command in pool.decide(0.7)]
        ['1.1']
    """

    def __init__(self, config: PoolConfig, *, epoch: int, now: float, terms: PoolTerms = PoolTerms()) -> None:
        self.epoch = epoch
        self._config = config
        self._terms = terms
        self._settled_at = now + terms.settle
        self._check_at = self._settled_at
        self._environments: dict[str, Environment] = {}
        self._workers: dict[str, Worker] = {}
        self._parties: dict[str, Party] = {}
        self._gone: dict[str, float] = {}
        self._stopped: set[str] = set()
        self._changed: set[str] = set()
        self._out: list[Command] = []
        self._tokens = 0
        self._names = 0

    # --- workers ------------------------------------------------------------------------------------------
    def worker_starting(self, worker: str, environment: str, now: float) -> None:
        """A worker exists and has not reported yet, for instance one found after the pool restarted.

        It gets no grants before :meth:`worker_up`. Workers of a StartWorkers command need not be announced.
        """
        if worker not in self._workers and worker not in self._stopped:
            self._register(worker, environment, now)

    def worker_up(self, worker: str, environment: str, now: float, busy_tokens: Collection[str] = ()) -> None:
        """A worker reported, with the tokens on which something runs there. May be repeated as a new census."""
        if worker in self._stopped:
            self._out.append(StopWorker(environment, worker))
            return
        record = self._workers.get(worker) or self._register(worker, environment, now)
        if not record.up:
            record.up, record.since = True, now
            self._environments[record.environment].failures = 0
        record.ghosts = {token: ghost for token, ghost in record.ghosts.items() if token in busy_tokens}
        for token in sorted(busy_tokens):
            if token not in record.seats and token not in record.ghosts:
                # One of an earlier epoch may still be claimed; one of ours was voided before.
                claimable = token_epoch(token) != self.epoch
                self._haunt(record, token, now + self._terms.lease if claimable else now)
        self._changed.add(record.environment)
        for party in self._parties.values():
            self._claim(party, {token: name for token, name in party.claims.items() if name == worker}, now)

    def worker_down(self, worker: str, now: float) -> None:
        """A worker died, or could not be started. Its leases are void, and another is started."""
        self._stopped.discard(worker)
        record = self._workers.get(worker)
        if record is not None:
            if not record.up:
                self._start_failed(self._environments[record.environment], now)
            self._lose(record, now)

    def slot_free(self, worker: str, token: str, now: float) -> None:
        """A worker confirms that nothing runs on a revoked token any more, and that it will refuse it."""
        record = self._workers.get(worker)
        if record is not None and record.ghosts.pop(token, None) is not None:
            self._changed.add(record.environment)

    def want(self, environment: str, now: float) -> None:
        """Have workers of this environment ready, although nothing waits for them yet."""
        record = self._environment(environment)
        record.wanted = True
        if record.idle_since is not None:
            record.idle_since = now

    # --- coordinators -------------------------------------------------------------------------------------
    def update(
        self,
        coordinator: str,
        *,
        sequence: int,
        seen: int,
        demand: Sequence[Demand],
        holding: Mapping[str, str],
        now: float,
    ) -> None:
        """Take a coordinator's whole state. An older one than the newest is ignored.

        Args:
            coordinator: its name.
            sequence: higher with each update.
            seen: ``Receipts.seen``: it has received all grants up to this number.
            demand: how many slots it could use beyond those that it holds.
            holding: the worker of each token that it holds.
            now: the time.

        Raises:
            LeaseLost: the coordinator has dealt with a later epoch of this pool: stop.
        """
        unknown = [token for token in holding if coordinator not in self._parties or token not in self._parties[coordinator].seats]
        newest = max([seen // NUMBERS_PER_EPOCH, *map(token_epoch, unknown)])
        if newest > self.epoch:
            raise LeaseLost(f"this pool has epoch {self.epoch}, but {coordinator!r} knows one of epoch {newest}: stop")
        if now < self._gone.get(coordinator, -math.inf):
            return
        party = self._parties.get(coordinator)
        if party is None:
            party = Party(coordinator, last=max(seen, self.epoch * NUMBERS_PER_EPOCH), heard=now)
            self._parties[coordinator] = party
        if party.sequence is not None and sequence <= party.sequence:
            return
        party.sequence, party.heard = sequence, now
        self._alarm(now + self._terms.lease)
        self._returned(party, seen, holding, now)
        party.claims = {}
        self._claim(party, {token: holding[token] for token in unknown}, now)
        self._demanded(party, demand)
        self._send_again(party, seen, holding, now)

    def forget(self, coordinator: str, now: float) -> None:
        """A coordinator died: its leases are void at once, and late updates of it are ignored for a lease term."""
        self._gone[coordinator] = now + self._terms.lease
        self._alarm(now + self._terms.lease)
        party = self._parties.get(coordinator)
        if party is not None:
            self._drop(party, now)

    # --- deciding -----------------------------------------------------------------------------------------
    def decide(self, now: float) -> list[Command]:
        """Everything that is to be done now, in order."""
        if now >= self._check_at:
            self._check(now)
        if now >= self._settled_at:
            woken = {e.name for e in self._environments.values() if e.wake is not None and now >= e.wake}
            for name in sorted(self._changed | woken):
                if name in self._environments:
                    self._plan(self._environments[name], now)
            self._changed.clear()
        commands, self._out = self._out, []
        return commands

    def next_wake(self, now: float) -> float | None:
        """When to call :meth:`decide` again if nothing happens before; None if only something new matters."""
        if self._out or (self._changed and now >= self._settled_at):
            return now
        moments = [e.wake for e in self._environments.values() if e.wake is not None]
        wake = min([self._check_at, *moments])
        return None if wake == math.inf else max(now, wake)

    # --- looking ------------------------------------------------------------------------------------------
    def leases(self) -> tuple[Lease, ...]:
        """All leases, in flight or held, by worker."""
        return tuple(seat.lease for worker in self._workers.values() for seat in worker.seats.values())

    def environments(self) -> tuple[str, ...]:
        """The environments that have workers, or should have."""
        return tuple(sorted(self._environments))

    def environment_idle_since(self, environment: str) -> float | None:
        """Since when an environment has neither demand nor leases; None if it has, or is not known."""
        record = self._environments.get(environment)
        return None if record is None else record.idle_since

    def stats(self, now: float) -> PoolStats:
        """The pool's figures at this moment."""
        waiting: dict[int, int] = {}
        oldest = now
        environments = []
        for _, environment in sorted(self._environments.items()):
            queue = wishes(environment, self._parties)
            for wish in queue:
                waiting[wish.priority] = waiting.get(wish.priority, 0) + wish.count
                oldest = min(oldest, wish.stamp)
            starting = [worker.since for worker in environment.workers.values() if not worker.up]
            environments.append(
                EnvironmentStats(
                    environment.name,
                    up=len(environment.workers) - len(starting),
                    starting=len(starting),
                    starting_for=now - min(starting, default=now),
                    failures=environment.failures,
                    waiting=sum(wish.count for wish in queue),
                    draining=environment.drain,
                )
            )
        return PoolStats(
            waiting=dict(sorted(waiting.items(), reverse=True)),
            oldest_wait=now - oldest,
            active=sum(worker.used for worker in self._workers.values()),
            idle=sum(worker.free for worker in self._workers.values()),
            environments=tuple(environments),
        )

    # --- parts of an update -------------------------------------------------------------------------------
    def _returned(self, party: Party, seen: int, holding: Mapping[str, str], now: float) -> None:
        """Find out which leases arrived, and which of those were given back."""
        for token, seat in list(party.seats.items()):
            if not seat.received and (seat.lease.number <= seen or token in holding):
                seat.received = True
                self._changed.add(seat.lease.environment)
                party.outbox.pop(seat.lease.number, None)
            if seat.received and token not in holding:
                self._remove(seat, now)

    def _claim(self, party: Party, claims: Mapping[str, str], now: float) -> None:
        """Take over leases of an earlier epoch, or say that they are void."""
        for token, name in claims.items():
            party.claims.pop(token, None)
            worker = self._workers.get(name)
            if token_epoch(token) == self.epoch or (worker is None and now >= self._settled_at):
                self._out.append(Void(party.name, token, name, 0))
            elif worker is None or not worker.up:
                party.claims[token] = name
            elif worker.admits(token):
                worker.ghosts.pop(token, None)
                lease = Lease(token, name, party.name, worker.environment, None, token_alone(token), 0, now)
                worker.seats[token] = party.seats[token] = Seat(lease, received=True)
                self._changed.add(worker.environment)
            else:
                self._out.append(Void(party.name, token, name, 0))

    def _demanded(self, party: Party, demand: Sequence[Demand]) -> None:
        wanted: dict[str, list[Demand]] = {}
        for entry in demand:
            if entry.count > 0:
                wanted.setdefault(entry.environment, []).append(entry)
        for name in party.environments - wanted.keys():
            self._environment(name).waiting.pop(party.name)
        for name, entries in wanted.items():
            environment = self._environment(name, changed=False)
            environment.wanted = True
            if environment.waiting.get(party.name) != tuple(entries):
                environment.waiting[party.name] = tuple(entries)
                self._changed.add(name)
        party.environments = frozenset(wanted)

    def _send_again(self, party: Party, seen: int, holding: Collection[str], now: float) -> None:
        """Repeat what this coordinator should have answered by now: it was lost, or is very late."""
        party.outbox = {number: unseen for number, unseen in party.outbox.items() if number > seen}
        for unseen in party.outbox.values():
            if now >= unseen.sent_at + self._terms.resend:
                unseen.sent_at = now
                self._out.append(unseen.command)
        for seat in party.seats.values():
            if seat.deadline is not None and now >= max(seat.deadline, seat.asked_at + self._terms.recall):
                self._ask_back(seat, now)

    # --- leases -------------------------------------------------------------------------------------------
    def _grant(self, worker: Worker, wish: Wish, now: float) -> None:
        party = self._parties[wish.coordinator]
        self._tokens += 1
        party.last += 1
        token = new_token(self.epoch, self._tokens, alone=wish.alone)
        lease = Lease(token, worker.name, party.name, worker.environment, wish.priority, wish.alone, party.last, now)
        worker.seats[token] = party.seats[token] = Seat(lease)
        command = Grant(party.name, party.last, lease)
        party.outbox[party.last] = Unseen(command, now)
        self._out.append(command)

    def _ask_back(self, seat: Seat, now: float) -> None:
        seat.asked_at = now
        if seat.deadline is None:
            seat.deadline = now + self._terms.recall
        self._out.append(Recall(seat.lease.coordinator, seat.lease.token, now + self._terms.recall))

    def _remove(self, seat: Seat, now: float) -> None:
        lease = seat.lease
        party = self._parties[lease.coordinator]
        del party.seats[lease.token], self._workers[lease.worker].seats[lease.token]
        party.served[lease.environment] = now
        self._changed.add(lease.environment)

    def _void(self, seat: Seat, now: float) -> None:
        lease = seat.lease
        self._remove(seat, now)
        command = Void(lease.coordinator, lease.token, lease.worker, lease.number)
        outbox = self._parties[lease.coordinator].outbox
        if lease.number in outbox:
            outbox[lease.number] = Unseen(command, now)
        self._out.append(command)

    def _haunt(self, worker: Worker, token: str, revoke_at: float) -> None:
        """Let a token occupy its worker until the worker says that it does not."""
        worker.ghosts[token] = Ghost(token_alone(token), revoke_at)
        self._alarm(revoke_at)

    def _drop(self, party: Party, now: float) -> None:
        """Take everything from a coordinator that is dead or silent."""
        for seat in list(party.seats.values()):
            worker = self._workers[seat.lease.worker]
            self._void(seat, now)
            self._haunt(worker, seat.lease.token, now)
        self._demanded(party, ())
        del self._parties[party.name]

    # --- workers and environments -------------------------------------------------------------------------
    def _environment(self, name: str, *, changed: bool = True) -> Environment:
        if name not in self._environments:
            self._environments[name] = Environment(name)
            changed = True
        if changed:
            self._changed.add(name)
        return self._environments[name]

    def _register(self, name: str, environment: str, now: float) -> Worker:
        worker = Worker(name, environment, self._config.concurrency, now)
        self._workers[name] = self._environment(environment).workers[name] = worker
        self._alarm(now + self._terms.start)
        return worker

    def _lose(self, worker: Worker, now: float) -> None:
        for seat in list(worker.seats.values()):
            self._void(seat, now)
        del self._workers[worker.name], self._environment(worker.environment).workers[worker.name]
        for party in self._parties.values():
            for token in [token for token, name in party.claims.items() if name == worker.name]:
                del party.claims[token]
                self._out.append(Void(party.name, token, worker.name, 0))

    def _stop(self, worker: Worker, now: float) -> None:
        self._lose(worker, now)
        self._stopped.add(worker.name)
        self._out.append(StopWorker(worker.environment, worker.name))

    def _start_failed(self, environment: Environment, now: float) -> None:
        """Wait longer with each failed round; workers that were started together fail as one."""
        if now >= environment.retry_at:
            wait = self._terms.backoff * 2.0 ** min(environment.failures, 30)
            environment.retry_at = now + min(wait, self._terms.max_backoff)
            environment.failures += 1
            self._alarm(environment.retry_at)

    # --- time ---------------------------------------------------------------------------------------------
    def _alarm(self, moment: float) -> None:
        self._check_at = min(self._check_at, moment)

    def _check(self, now: float) -> None:
        """Do what is due by time alone, outside the plans."""
        terms = self._terms
        self._gone = {name: until for name, until in self._gone.items() if now < until}
        for party in list(self._parties.values()):
            if now >= party.heard + terms.lease:
                self._drop(party, now)
        for worker in list(self._workers.values()):
            if not worker.up and now >= worker.since + terms.start:
                self._start_failed(self._environments[worker.environment], now)
                self._stop(worker, now)
            for token, ghost in worker.ghosts.items():
                if now >= ghost.revoke_at:
                    ghost.revoked, ghost.revoke_at = True, now + terms.resend
                    self._out.append(Revoke(worker.name, token))
        for environment in list(self._environments.values()):
            if environment.idle_since is not None and now >= environment.idle_since + terms.idle:
                self._give_up(environment, now)
            elif environment.failures and now >= environment.retry_at:
                self._changed.add(environment.name)
        self._check_at = min((moment for moment in self._moments() if moment > now), default=math.inf)

    def _moments(self) -> list[float]:
        terms = self._terms
        moments = [self._settled_at, *self._gone.values()]
        moments += [party.heard + terms.lease for party in self._parties.values()]
        for worker in self._workers.values():
            moments += [ghost.revoke_at for ghost in worker.ghosts.values()]
            moments += [] if worker.up else [worker.since + terms.start]
        for environment in self._environments.values():
            moments += [environment.retry_at]
            moments += [] if environment.idle_since is None else [environment.idle_since + terms.idle]
        return moments

    def _give_up(self, environment: Environment, now: float) -> None:
        for worker in list(environment.workers.values()):
            self._stop(worker, now)
        del self._environments[environment.name]
        self._changed.discard(environment.name)

    def _plan(self, environment: Environment, now: float) -> None:
        plan = Plan(
            environment,
            wishes(environment, self._parties),
            self._parties,
            now=now,
            terms=self._terms,
            grant=lambda worker, wish: self._grant(worker, wish, now),
            recall=lambda seat: self._ask_back(seat, now),
        )
        plan.run()
        missing = self._config.workers - len(environment.workers)
        if environment.wanted and missing > 0 and now >= environment.retry_at:
            self._start(environment, missing, now)
        if environment.waiting or any(w.seats or w.ghosts for w in environment.workers.values()):
            environment.idle_since = None
        elif environment.idle_since is None:
            environment.idle_since = now
            self._alarm(now + self._terms.idle)

    def _start(self, environment: Environment, count: int, now: float) -> None:
        names = []
        for _ in range(count):
            self._names += 1
            names.append(f"{environment.name}-{self.epoch}-{self._names}")
            self._register(names[-1], environment.name, now)
        self._changed.discard(environment.name)
        self._out.append(StartWorkers(environment.name, tuple(names)))
