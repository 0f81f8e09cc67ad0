"""Ledger of a pool: all changes that touch more than one record, so that the records always agree."""

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
    is_ray_task_environment,
    new_token,
    token_exclusive,
    token_keys,
)
from rayflow.core.pool.state import (
    CoordinatorState,
    Environment,
    LeaseState,
    NetDemand,
    OrphanedToken,
    UnconfirmedGrant,
    Worker,
    net_demand,
)
from rayflow.definition.options import PoolConfig


class PoolLedger:
    """Workers, environments, coordinators, and the leases between them.

    The ledger decides nothing. Changes that affect a plan add their environment to ``changed``, timed changes set the
    ``alarm``, and commands are appended to ``commands``.
    """

    def __init__(self, epoch: int, config: PoolConfig, terms: PoolTerms, now: float) -> None:
        self.epoch = epoch
        self.config = config
        self.terms = terms
        self.limits = Limits(terms, now)
        self.environments: dict[str, Environment] = {}
        self.workers: dict[str, Worker] = {}
        self.coordinators: dict[str, CoordinatorState] = {}
        #: Names of removed workers that may still send messages.
        self.stopped: set[str] = set()
        self.changed: set[str] = set()
        self.commands: list[Command] = []
        self.alarm_at = math.inf
        self._tokens = 0

    def alarm(self, moment: float) -> None:
        """Request a check at that time, or earlier."""
        self.alarm_at = min(self.alarm_at, moment)

    def grant(self, worker: Worker, demand: NetDemand, now: float) -> None:
        """Lease a slot of the worker, or all of them, to the demand's coordinator."""
        holder = self.coordinators[demand.coordinator]
        self._tokens += 1
        holder.last += 1
        keys = tuple(limit.name for limit in demand.limits if not limit.per)
        token = new_token(self.epoch, self._tokens, exclusive=demand.exclusive, keys=keys)
        lease = Lease(
            token, worker.name, holder.name, worker.environment, demand.priority, demand.exclusive, holder.last, now,
            keys, bool(demand.limits),
        )  # fmt: skip
        self._add_lease(LeaseState(lease, demand.limits))
        start_by = None
        if demand.limits:
            start_by = self.limits.take(token, demand.limits, now, waits=is_ray_task_environment(worker.name))
        grant = Grant(
            holder.name, holder.last, token, worker.name, worker.environment, demand.priority, demand.exclusive,
            demand.limits, start_by,
        )  # fmt: skip
        holder.unconfirmed[holder.last] = UnconfirmedGrant((grant,), now)
        self.commands.append(grant)

    def claim(self, holder: CoordinatorState, token: str, worker: str) -> None:
        """Keep a claim to a lease of an earlier epoch until its worker is known."""
        holder.claims[token] = worker
        self.limits.hold(_claim_of(token), token_keys(token))

    def unclaim(self, holder: CoordinatorState, token: str) -> None:
        """Remove a claim."""
        del holder.claims[token]
        self._release(_claim_of(token), token_keys(token))

    def adopt(self, holder: CoordinatorState, token: str, worker: Worker, now: float) -> None:
        """Turn a token of an earlier epoch into a lease."""
        worker.orphans.pop(token, None)
        keys = token_keys(token)
        lease = Lease(
            token, worker.name, holder.name, worker.environment, None, token_exclusive(token), 0, now, keys, bool(keys)
        )
        self._add_lease(LeaseState(lease, received=True))
        self.limits.hold(token, keys)
        self.changed.add(worker.environment)

    def _add_lease(self, held: LeaseState) -> None:
        lease = held.lease
        self.workers[lease.worker].leases[lease.token] = held
        self.coordinators[lease.coordinator].leases[lease.token] = held

    def _release(self, holder: str, keys: Sequence[str]) -> None:
        if keys:
            self.limits.release(holder, keys)
            self.changed |= self.limits.waiting

    def recall(self, held: LeaseState, now: float) -> None:
        """Recall a lease, or repeat the recall. The first recall's deadline counts."""
        held.asked_at = now
        if held.deadline is None:
            held.deadline = now + self.terms.recall_term
        self.commands.append(Recall(held.lease.coordinator, held.lease.token, now + self.terms.recall_term))

    def returned(self, held: LeaseState, now: float) -> None:
        """Remove a lease that was given back: its task has begun, or never will."""
        self._remove_lease(held, now)
        self.limits.lease_ended(held.lease.token, now)

    def _remove_lease(self, held: LeaseState, now: float) -> None:
        lease = held.lease
        holder, worker = self.coordinators[lease.coordinator], self.workers[lease.worker]
        del holder.leases[lease.token], worker.leases[lease.token]
        holder.served[lease.environment, lease.limited] = worker.idle_since = now
        self._release(lease.token, lease.keys)
        self.changed.add(lease.environment)

    def revoke(self, held: LeaseState, now: float, why: RevokeReason) -> None:
        """Remove a lost lease and tell its holder, even if the holder never received the grant."""
        lease = held.lease
        self._remove_lease(held, now)
        # The holder may only have been silent, with the task already on its way to the worker.
        self.limits.lease_ended(lease.token, now + self.terms.start_within)
        revoked = LeaseRevoked(lease.coordinator, lease.token, lease.worker, why)
        unconfirmed = self.coordinators[lease.coordinator].unconfirmed.get(lease.number)
        if unconfirmed is not None:
            # The grant may be lost. Its number must still arrive, or all later grants would wait for it.
            unconfirmed.commands += (revoked,)
        self.commands.append(revoked)

    def mark_orphaned(self, worker: Worker, token: str, revoke_at: float) -> None:
        """Let a token occupy its worker until the worker reports that the slot is free."""
        worker.orphans[token] = OrphanedToken(token_exclusive(token), revoke_at)
        self.limits.hold(token, token_keys(token))
        self.alarm(revoke_at)

    def clear_orphaned(self, worker: Worker, token: str, now: float) -> None:
        """Remove an orphaned token from its worker."""
        del worker.orphans[token]
        worker.idle_since = now
        self._release(token, token_keys(token))
        self.changed.add(worker.environment)

    def set_demand(self, coordinator: CoordinatorState, demands: Sequence[Demand]) -> None:
        """Replace a coordinator's demand."""
        wanted: dict[str, list[Demand]] = {}
        for demand in demands:
            if demand.count > 0:
                wanted.setdefault(demand.environment, []).append(demand)
        for name in coordinator.environments - wanted.keys():
            del self.environments[name].waiting[coordinator.name]
            self.changed.add(name)
        for name, entries in wanted.items():
            environment = self.environment(name)
            environment.wanted = True
            entries.sort(key=lambda entry: (-entry.priority, entry.waiting_since))
            if environment.waiting.get(coordinator.name) != tuple(entries):
                environment.waiting[coordinator.name] = tuple(entries)
                self.changed.add(name)
        coordinator.environments = frozenset(wanted)

    def remove_coordinator(self, coordinator: CoordinatorState, now: float) -> None:
        """Remove a dead or silent coordinator; the slots of its leases stay occupied for now."""
        for held in list(coordinator.leases.values()):
            worker = self.workers[held.lease.worker]
            self.revoke(held, now, RevokeReason.UNKNOWN)
            # A separate Ray task ends with its owner, the coordinator.
            if not self.environments[worker.environment].for_ray_tasks:
                self.mark_orphaned(worker, held.lease.token, now)
        for token in list(coordinator.claims):
            self.unclaim(coordinator, token)
        self.set_demand(coordinator, ())
        del self.coordinators[coordinator.name]

    def environment(self, name: str) -> Environment:
        """Return the environment's record, made on first use."""
        if name not in self.environments:
            environment = self.environments[name] = Environment(name)
            if environment.for_ray_tasks:
                slots = Worker(name, name, self.config.max_ray_tasks, since=0.0, up=True)
                self.workers[name] = environment.workers[name] = slots
            self.changed.add(name)
        return self.environments[name]

    def worker(self, name: str) -> Worker | None:
        """Return a worker by name; the one of a Ray task environment is made on first use."""
        return self.environment(name).workers[name] if is_ray_task_environment(name) else self.workers.get(name)

    def register(self, name: str, environment: str, now: float, *, found: bool = False) -> Worker:
        """Add a worker that is not up yet."""
        worker = Worker(name, environment, self.config.concurrency, now, found=found)
        self.workers[name] = self.environment(environment).workers[name] = worker
        self.alarm(now + self.config.start_timeout)
        return worker

    def remove_worker(self, worker: Worker, now: float, why: RevokeReason) -> None:
        """Remove a worker together with all leases, orphans and claims on it."""
        for held in list(worker.leases.values()):
            self.revoke(held, now, why)
        for token in list(worker.orphans):
            self.clear_orphaned(worker, token, now)
        del self.workers[worker.name], self.environments[worker.environment].workers[worker.name]
        self.changed.add(worker.environment)
        for coordinator in self.coordinators.values():
            for token in [token for token, name in coordinator.claims.items() if name == worker.name]:
                self.unclaim(coordinator, token)
                self.commands.append(LeaseRevoked(coordinator.name, token, worker.name, why))

    def leave(self, worker: Worker, now: float, *, surplus: bool = False) -> None:
        """Let a worker stop once its tasks are done."""
        worker.surplus = surplus
        if worker.leave_by is None:
            worker.leave_by = now + self.config.drain_timeout
        self.changed.add(worker.environment)

    def stop(self, worker: Worker, now: float, why: RevokeReason) -> None:
        """Remove a worker and stop its process."""
        self.remove_worker(worker, now, why)
        self.stopped.add(worker.name)
        self.commands.append(StopWorker(worker.environment, worker.name, at_once=bool(worker.stuck)))

    def remove_environment(self, environment: Environment, now: float) -> None:
        """Remove an idle environment and stop its workers."""
        for worker in list(environment.workers.values()):
            if environment.for_ray_tasks:
                del self.workers[worker.name]
            else:
                self.stop(worker, now, RevokeReason.DRAINED)
        del self.environments[environment.name]
        self.changed.discard(environment.name)

    def start_failed(self, environment: Environment, now: float) -> None:
        """Delay the next start; workers that were started together count as one failure."""
        if environment.retry_at is None:
            wait = self.terms.backoff * 2.0 ** min(environment.failures, 30)
            environment.retry_at = now + min(wait, self.terms.max_backoff)
            environment.failures += 1
            self.alarm(environment.retry_at)

    def moments(self) -> list[float]:
        """Return the times of all timed changes, apart from the plans."""
        idle_timeout = self.terms.environment_idle_timeout
        moments = [coordinator.heard + self.terms.lease_term for coordinator in self.coordinators.values()]
        for worker in self.workers.values():
            moments += [orphan.revoke_at for orphan in worker.orphans.values()]
            moments += [] if worker.up else [worker.since + self.config.start_timeout]
            moments += [] if worker.leave_by is None else [worker.leave_by]
        for environment in self.environments.values():
            moments += [] if environment.retry_at is None else [environment.retry_at]
            moments += [] if environment.idle_since is None else [environment.idle_since + idle_timeout]
        return moments

    def stats(self, now: float) -> PoolStats:
        """Return the pool's current statistics."""
        waiting: dict[int, int] = {}
        oldest = now
        environments = []
        for _, environment in sorted(self.environments.items()):
            queue = net_demand(environment, self.coordinators)
            for demand in queue:
                waiting[demand.priority] = waiting.get(demand.priority, 0) + demand.count
                oldest = min(oldest, demand.waiting_since)
            workers = [] if environment.for_ray_tasks else list(environment.workers.values())
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
                    waiting=sum(demand.count for demand in queue),
                    tasks=sum(entry.tasks for demands in environment.waiting.values() for entry in demands),
                    draining=environment.drain,
                )
            )
        return PoolStats(
            waiting=dict(sorted(waiting.items(), reverse=True)),
            oldest_waiting=now - oldest,
            busy=sum(worker.used for worker in self.workers.values()),
            idle=sum(w.free for e in self.environments.values() if not e.for_ray_tasks for w in e.workers.values()),
            environments=tuple(environments),
        )


def _claim_of(token: str) -> str:
    """Return a claim's own holder name, since the token may be counted as an orphan at the same time."""
    return "claim " + token
