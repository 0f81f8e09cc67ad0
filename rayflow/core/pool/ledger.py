"""The pool's ledger: every change that touches more than one record is made here, so that they always agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rayflow.core.pool.limits import Limits
from rayflow.core.pool.protocol import (
    Command,
    Demand,
    EnvironmentStats,
    Grant,
    Lease,
    LeaseRevoked,
    PoolStats,
    PoolTerms,
    Recall,
    RevokeReason,
    StopWorker,
    is_own_tasks,
    new_token,
    token_alone,
    token_keys,
)
from rayflow.core.pool.state import (
    CoordinatorState,
    Environment,
    LeaseState,
    NetDemand,
    OrphanedToken,
    Unseen,
    Worker,
    wishes,
)
from rayflow.definition.options import PoolConfig


class PoolLedger:
    """Workers, environments, coordinators, and the leases that tie them together.

    It decides nothing. A change that a plan depends on puts its environment into ``changed``, one that has a
    term sets the ``alarm``, and what must be told is put ``out``.

    Args:
        epoch: of the pool.
        config: the pool's settings.
        terms: the pool's durations.
        now: the time.
    """

    def __init__(self, epoch: int, config: PoolConfig, terms: PoolTerms, now: float) -> None:
        self.epoch = epoch
        self.config = config
        self.terms = terms
        self.limits = Limits(terms, now)
        self.environments: dict[str, Environment] = {}
        self.workers: dict[str, Worker] = {}
        self.parties: dict[str, CoordinatorState] = {}
        #: Workers that were given up and may still be heard of.
        self.stopped: set[str] = set()
        self.changed: set[str] = set()
        self.out: list[Command] = []
        self.alarm_at = math.inf
        self._tokens = 0

    def alarm(self, moment: float) -> None:
        """Something is due then, at the latest."""
        self.alarm_at = min(self.alarm_at, moment)

    # --- leases -------------------------------------------------------------------------------------------
    def grant(self, worker: Worker, wish: NetDemand, now: float) -> None:
        """Give a slot of this worker (or all of them) to a wish."""
        party = self.parties[wish.coordinator]
        self._tokens += 1
        party.last += 1
        keys = tuple(limit.name for limit in wish.limits if not limit.per)
        token = new_token(self.epoch, self._tokens, alone=wish.alone, keys=keys)
        lease = Lease(
            token, worker.name, party.name, worker.environment, wish.priority, wish.alone, party.last, now, keys,
            bool(wish.limits),
        )  # fmt: skip
        self._seat(LeaseState(lease, wish.limits))
        start_by = self.limits.take(token, wish.limits, now, waits=is_own_tasks(worker.name)) if wish.limits else None
        grant = Grant(
            party.name, party.last, token, worker.name, worker.environment, wish.priority, wish.alone, wish.limits,
            start_by,
        )  # fmt: skip
        party.outbox[party.last] = Unseen((grant,), now)
        self.out.append(grant)

    def claim(self, party: CoordinatorState, token: str, worker: str) -> None:
        """Remember a lease of an earlier epoch that cannot be judged yet."""
        party.claims[token] = worker
        self.limits.hold(_claim_of(token), token_keys(token))

    def unclaim(self, party: CoordinatorState, token: str) -> None:
        """A claim was judged, or is not made any more."""
        del party.claims[token]
        self._release(_claim_of(token), token_keys(token))

    def adopt(self, party: CoordinatorState, token: str, worker: Worker, now: float) -> None:
        """Take over a lease of an earlier epoch."""
        worker.ghosts.pop(token, None)
        keys = token_keys(token)
        lease = Lease(
            token, worker.name, party.name, worker.environment, None, token_alone(token), 0, now, keys, bool(keys)
        )
        self._seat(LeaseState(lease, received=True))
        self.limits.hold(token, keys)
        self.changed.add(worker.environment)

    def _seat(self, seat: LeaseState) -> None:
        lease = seat.lease
        self.workers[lease.worker].seats[lease.token] = seat
        self.parties[lease.coordinator].seats[lease.token] = seat

    def _release(self, holder: str, keys: Sequence[str]) -> None:
        if keys:
            self.limits.release(holder, keys)
            self.changed |= self.limits.waiting

    def ask_back(self, seat: LeaseState, now: float) -> None:
        """Recall a lease, or ask again. The first recall's deadline is the one that counts."""
        seat.asked_at = now
        if seat.deadline is None:
            seat.deadline = now + self.terms.recall_term
        self.out.append(Recall(seat.lease.coordinator, seat.lease.token, now + self.terms.recall_term))

    def remove(self, seat: LeaseState, now: float) -> None:
        """A lease was given back: its task has begun, or never will."""
        self._remove(seat, now)
        self.limits.over(seat.lease.token, now)

    def _remove(self, seat: LeaseState, now: float) -> None:
        lease = seat.lease
        party, worker = self.parties[lease.coordinator], self.workers[lease.worker]
        del party.seats[lease.token], worker.seats[lease.token]
        party.served[lease.environment, lease.limited] = worker.idle_since = now
        self._release(lease.token, lease.keys)
        self.changed.add(lease.environment)

    def void(self, seat: LeaseState, now: float, why: RevokeReason) -> None:
        """A lease is lost. Its holder is told, also if it never heard of the grant."""
        lease = seat.lease
        self._remove(seat, now)
        # Its holder may only have been silent: the task may be on its way.
        self.limits.over(lease.token, now + self.terms.start_within)
        void = LeaseRevoked(lease.coordinator, lease.token, lease.worker, why)
        unseen = self.parties[lease.coordinator].outbox.get(lease.number)
        if unseen is not None:
            # The grant may be lost: then its number must still arrive, or all later ones would wait for it.
            unseen.commands += (void,)
        self.out.append(void)

    def haunt(self, worker: Worker, token: str, revoke_at: float) -> None:
        """Let a token occupy its worker until the worker says that it does not."""
        worker.ghosts[token] = OrphanedToken(token_alone(token), revoke_at)
        self.limits.hold(token, token_keys(token))
        self.alarm(revoke_at)

    def lay(self, worker: Worker, token: str, now: float) -> None:
        """A token does not occupy its worker any more."""
        del worker.ghosts[token]
        worker.idle_since = now
        self._release(token, token_keys(token))
        self.changed.add(worker.environment)

    # --- coordinators -------------------------------------------------------------------------------------
    def demand(self, party: CoordinatorState, demand: Sequence[Demand]) -> None:
        """This is all that a coordinator wants now."""
        wanted: dict[str, list[Demand]] = {}
        for entry in demand:
            if entry.count > 0:
                wanted.setdefault(entry.environment, []).append(entry)
        for name in party.environments - wanted.keys():
            del self.environments[name].waiting[party.name]
            self.changed.add(name)
        for name, entries in wanted.items():
            environment = self.environment(name)
            environment.wanted = True
            entries.sort(key=lambda entry: (-entry.priority, entry.stamp))
            if environment.waiting.get(party.name) != tuple(entries):
                environment.waiting[party.name] = tuple(entries)
                self.changed.add(name)
        party.environments = frozenset(wanted)

    def drop(self, party: CoordinatorState, now: float) -> None:
        """Take everything from a coordinator that is dead or silent; its slots stay occupied for now."""
        for seat in list(party.seats.values()):
            worker = self.workers[seat.lease.worker]
            self.void(seat, now, RevokeReason.UNKNOWN)
            # A task of its own ends with its owner.
            if not self.environments[worker.environment].own:
                self.haunt(worker, seat.lease.token, now)
        for token in list(party.claims):
            self.unclaim(party, token)
        self.demand(party, ())
        del self.parties[party.name]

    # --- workers and environments -------------------------------------------------------------------------
    def environment(self, name: str) -> Environment:
        """The environment's record, made if it is new."""
        if name not in self.environments:
            environment = self.environments[name] = Environment(name)
            if environment.own:
                slots = Worker(name, name, self.config.max_ray_tasks, since=0.0, up=True)
                self.workers[name] = environment.workers[name] = slots
            self.changed.add(name)
        return self.environments[name]

    def worker(self, name: str) -> Worker | None:
        """The worker of that name, if there is one; what tasks of their own run on is there when it is needed."""
        return self.environment(name).workers[name] if is_own_tasks(name) else self.workers.get(name)

    def register(self, name: str, environment: str, now: float, *, found: bool = False) -> Worker:
        """A worker exists; it is not up yet."""
        worker = Worker(name, environment, self.config.concurrency, now, found=found)
        self.workers[name] = self.environment(environment).workers[name] = worker
        self.alarm(now + self.config.start_timeout)
        return worker

    def lose(self, worker: Worker, now: float, why: RevokeReason) -> None:
        """A worker is no more, and neither is what was leased or claimed on it."""
        for seat in list(worker.seats.values()):
            self.void(seat, now, why)
        for token in list(worker.ghosts):
            self.lay(worker, token, now)
        del self.workers[worker.name], self.environments[worker.environment].workers[worker.name]
        self.changed.add(worker.environment)
        for party in self.parties.values():
            for token in [token for token, name in party.claims.items() if name == worker.name]:
                self.unclaim(party, token)
                self.out.append(LeaseRevoked(party.name, token, worker.name, why))

    def leave(self, worker: Worker, now: float, *, surplus: bool = False) -> None:
        """Let a worker stop once its tasks are done."""
        worker.surplus = surplus
        if worker.leave_by is None:
            worker.leave_by = now + self.config.drain_timeout
        self.changed.add(worker.environment)

    def stop(self, worker: Worker, now: float, why: RevokeReason) -> None:
        """Give a worker up."""
        self.lose(worker, now, why)
        self.stopped.add(worker.name)
        self.out.append(StopWorker(worker.environment, worker.name, at_once=bool(worker.stuck)))

    def give_up(self, environment: Environment, now: float) -> None:
        """Nobody needs this environment: stop its workers and forget it."""
        for worker in list(environment.workers.values()):
            if environment.own:
                del self.workers[worker.name]
            else:
                self.stop(worker, now, RevokeReason.DRAINED)
        del self.environments[environment.name]
        self.changed.discard(environment.name)

    def start_failed(self, environment: Environment, now: float) -> None:
        """Wait longer with each failed round; workers that were started together fail as one."""
        if environment.retry_at is None:
            wait = self.terms.backoff * 2.0 ** min(environment.failures, 30)
            environment.retry_at = now + min(wait, self.terms.max_backoff)
            environment.failures += 1
            self.alarm(environment.retry_at)

    # --- looking ------------------------------------------------------------------------------------------
    def moments(self) -> list[float]:
        """Everything that is due by time alone, apart from the plans."""
        terms = self.terms
        moments = [party.heard + terms.lease_term for party in self.parties.values()]
        for worker in self.workers.values():
            moments += [ghost.revoke_at for ghost in worker.ghosts.values()]
            moments += [] if worker.up else [worker.since + self.config.start_timeout]
            moments += [] if worker.leave_by is None else [worker.leave_by]
        for environment in self.environments.values():
            moments += [] if environment.retry_at is None else [environment.retry_at]
            moments += (
                [] if environment.idle_since is None else [environment.idle_since + terms.environment_idle_timeout]
            )
        return moments

    def stats(self, now: float) -> PoolStats:
        """The figures of this moment."""
        waiting: dict[int, int] = {}
        oldest = now
        environments = []
        for _, environment in sorted(self.environments.items()):
            queue = wishes(environment, self.parties)
            for wish in queue:
                waiting[wish.priority] = waiting.get(wish.priority, 0) + wish.count
                oldest = min(oldest, wish.stamp)
            workers = [] if environment.own else list(environment.workers.values())
            starting = [worker.since for worker in workers if not worker.up]
            environments.append(
                EnvironmentStats(
                    environment.name,
                    up=len(workers) - len(starting),
                    wanted=environment.target,
                    leaving=sum(worker.leaving for worker in workers),
                    starting=len(starting),
                    starting_for=now - min(starting, default=now),
                    failures=environment.failures,
                    waiting=sum(wish.count for wish in queue),
                    tasks=sum(entry.tasks for demand in environment.waiting.values() for entry in demand),
                    draining=environment.drain,
                )
            )
        return PoolStats(
            waiting=dict(sorted(waiting.items(), reverse=True)),
            oldest_waiting=now - oldest,
            busy=sum(worker.used for worker in self.workers.values()),
            idle=sum(w.free for e in self.environments.values() if not e.own for w in e.workers.values()),
            environments=tuple(environments),
        )


def _claim_of(token: str) -> str:
    """A claim counts apart from its token: that may occupy its worker, and be known of, at the same time."""
    return "claim " + token
