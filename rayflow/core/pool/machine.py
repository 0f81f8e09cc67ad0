"""Admission machine of a worker pool, sans I/O.

**The machine owns** the assignment of slots: demand and leases of all coordinators, the workers and their occupancy,
unconfirmed messages, and timed changes. It never sees a task's payload. A slot is free only when its coordinator
returned it, or its worker reported it.

**Its shell owns** the clock, the actors and the connections. The shell reports events, calls
:meth:`~PoolMachine.decide`, performs the commands in order, and calls again at :meth:`~PoolMachine.next_wake`. The
shell names, starts and stops workers, and reports dead workers and coordinators. Before it reports a found worker as
up, it takes a census: the tokens that are busy there. After a restart it reports the workers that it finds before the
settling time ends. Messages may be late, lost or doubled: updates are complete states, and unconfirmed commands are
sent again.

How a coordinator takes part:

* Its name is unique over time. It numbers its updates. Each update is complete: leases held, further demand, and the
  number up to which all grants of which epoch of the pool arrived. It sends one after each change, and a few times in
  every lease term.
* A grant that it has not confirmed is in flight: it does not count as returned, and is subtracted from the demand. A
  confirmed token that is missing from its leases counts as returned.
* It ignores a grant whose number it has seen. Numbers restart when the pool's epoch rises.
* It may use a lease for many tasks. It returns the lease when recalled, or after a short idle time. A lease under
  limits is for one task that has exactly these limits. Under a rate limit, the coordinator also reports when the task
  began, or that it never will.
* A lease is never taken by force because of slowness, only from a dead or silent coordinator. The worker is then told
  to revoke the token, and the slot stays occupied until the worker confirms. A leaving worker waits for its tasks up to
  a limit.
* Steps that run as separate Ray tasks are admitted in a separate environment
  (:func:`~rayflow.core.pool.protocol.ray_task_environment`), whose one worker, of the same name, is only a number of
  slots.

:mod:`rayflow.core.pool.plan` decides who gets a slot, :mod:`rayflow.core.pool.limits` what limits allow, and
:mod:`rayflow.core.pool.autoscaler` the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from rayflow.core.pool.autoscaler import PoolScaler
from rayflow.core.pool.ledger import PoolLedger
from rayflow.core.pool.plan import EnvironmentPlan
from rayflow.core.pool.protocol import (
    Command,
    Demand,
    Lease,
    LeaseRevoked,
    PoolStats,
    PoolTerms,
    Revoke,
    RevokeReason,
    StopWorker,
    is_ray_task_environment,
    token_epoch,
)
from rayflow.core.pool.state import CoordinatorState, Environment, NetDemand, Worker, net_demand
from rayflow.definition.options import PoolConfig
from rayflow.errors import LeaseLost

_DEFAULT = PoolTerms()
_NOTHING: Mapping[str, float] = MappingProxyType({})


class PoolMachine:
    """Grants slots of workers to coordinators, by priority, then first in, first out.

    Args:
        config: the pool's settings.
        epoch: epoch of this pool, from 1, above that of every earlier pool of this name.
        now: the time.
        terms: the pool's durations.

    Example:
        >>> pool = PoolMachine(PoolConfig(workers=1, concurrency=2), epoch=1, now=0.0, terms=PoolTerms(settle=0.0))
        >>> demand = Demand("env", priority=5, waiting_since=0.0, count=1)
        >>> pool.update("c1", sequence=1, epoch=1, seen=0, demand=[demand], holding={}, now=0.0)
        >>> pool.decide(0.0)
        [StartWorkers(environment='env', count=1)]
        >>> pool.worker_starting("w1", "env", 0.0)
        >>> pool.worker_up("w1", "env", 0.7)
        >>> [(grant.coordinator, grant.worker, grant.token) for grant in pool.decide(0.7)]
        [('c1', 'w1', '1.1')]
    """

    def __init__(self, config: PoolConfig, *, epoch: int, now: float, terms: PoolTerms = _DEFAULT) -> None:
        self.epoch = epoch
        self._terms = terms
        self._settled_at = now + terms.settle
        self._ledger = PoolLedger(epoch, config, terms, now)
        self._scaler = PoolScaler(self._ledger)
        #: Dead coordinators, and until when their late updates are ignored.
        self._dead: dict[str, float] = {}

    def configure(self, config: PoolConfig, now: float) -> None:
        """Replace the settings. A new size takes effect at once, a new ``concurrency`` in new workers.

        Surplus workers leave: they get no new tasks, and stop once their tasks are done.
        """
        ledger = self._ledger
        ledger.config = config
        for environment in ledger.environments.values():
            ledger.changed.add(environment.name)
            if environment.for_ray_tasks:
                environment.workers[environment.name].slots = config.max_ray_tasks
        ledger.alarm(now)  # the new durations may be over already

    def worker_starting(self, worker: str, environment: str, now: float) -> None:
        """Add a worker that has not reported yet: just started, or found after the pool restarted.

        The worker gets no grants before :meth:`worker_up`.
        """
        if worker not in self._ledger.workers and worker not in self._ledger.stopped:
            self._ledger.register(worker, environment, now, found=now < self._settled_at)

    def worker_up(self, worker: str, environment: str, now: float, busy_tokens: Collection[str] = ()) -> None:
        """Take a worker's census: the tokens under which tasks run there. May be repeated."""
        ledger = self._ledger
        if worker in ledger.stopped:
            ledger.commands.append(StopWorker(environment, worker))
            return
        record = ledger.workers.get(worker) or ledger.register(worker, environment, now)
        if not record.up:
            record.up, record.idle_since = True, now
            ledger.environments[record.environment].failures = 0
        for token in record.orphans.keys() - busy_tokens:
            ledger.clear_orphaned(record, token, now)
        for token in sorted(set(busy_tokens) - record.leases.keys() - record.orphans.keys()):
            # A token of an earlier epoch may still be claimed; one of this epoch was revoked before.
            own = token_epoch(token) == self.epoch
            ledger.mark_orphaned(record, token, now if own else now + self._terms.lease_term)
        ledger.changed.add(record.environment)
        for holder in ledger.coordinators.values():
            self._claim(holder, {token: name for token, name in holder.claims.items() if name == worker}, now)

    def worker_down(self, worker: str, now: float) -> None:
        """Remove a worker that died or could not be started. Its leases are revoked, and another is started."""
        self._ledger.stopped.discard(worker)
        record = self._ledger.workers.get(worker)
        if record is not None:
            if not record.up:
                self._ledger.start_failed(self._ledger.environments[record.environment], now)
            self._ledger.remove_worker(record, now, RevokeReason.DIED)

    def slot_free(self, worker: str, token: str, now: float) -> None:
        """Free the slot of a revoked token: the worker runs nothing under it, and will refuse it."""
        record = self._ledger.workers.get(worker)
        if record is not None and token in record.orphans:
            self._ledger.clear_orphaned(record, token, now)

    def worker_stuck(self, worker: str, token: str, now: float) -> None:
        """Replace a worker on which the task under this token cannot be stopped, once its other tasks are done.

        The worker gets no new tasks, its other leases are recalled, and a replacement is started at once.
        """
        record = self._replaceable(worker)
        if record is not None and (token in record.leases or token in record.orphans):
            record.stuck.add(token)
            self._ledger.leave(record, now)

    def worker_worn_out(self, worker: str, now: float) -> None:
        """Replace a worker that has run its maximum number of tasks, once its running tasks are done."""
        record = self._replaceable(worker)
        if record is not None:
            self._ledger.leave(record, now)

    def _replaceable(self, worker: str) -> Worker | None:
        record = self._ledger.workers.get(worker)
        if record is None or self._ledger.environments[record.environment].for_ray_tasks:
            return None
        return record

    def request_environment(self, environment: str, now: float) -> None:
        """Start the environment's minimum number of workers before any demand."""
        record = self._ledger.environment(environment)
        record.wanted = True
        if not record.in_use:
            record.idle_since = now
            self._ledger.alarm(now + self._terms.environment_idle_timeout)
        self._ledger.changed.add(environment)

    def update(
        self,
        coordinator: str,
        *,
        sequence: int,
        epoch: int,
        seen: int,
        demand: Sequence[Demand],
        holding: Mapping[str, str],
        now: float,
        begun: Mapping[str, float] = _NOTHING,
    ) -> None:
        """Take a coordinator's complete state. An update that is not newer than the last one is ignored.

        Args:
            coordinator: its name.
            sequence: number of the update; rises with each one.
            epoch: highest epoch of this pool that the coordinator knows; 0 for none.
            seen: all grants of that epoch up to this number have arrived.
            demand: slots that it needs in addition to its leases.
            holding: worker of each token that it holds.
            now: the time.
            begun: start times of tasks under rate limits, by token, until a report of them is confirmed; 0.0 for a
                task that will never begin.

        Raises:
            LeaseLost: the coordinator knows a later epoch of this pool; this pool must stop.
        """
        if epoch > self.epoch:
            raise LeaseLost(
                f"the pool's epoch {self.epoch} is outdated: coordinator {coordinator} knows epoch {epoch}. This pool "
                "must stop"
            )
        ledger = self._ledger
        for token, at in begun.items():
            # Start times never become outdated, so they count even if the update does not.
            if ledger.limits.began(token, at):
                ledger.changed |= ledger.limits.waiting
        seen = seen if epoch == self.epoch else 0
        record = ledger.coordinators.get(coordinator) or CoordinatorState(coordinator, last=seen)
        if now < self._dead.get(coordinator, -math.inf) or sequence <= record.sequence:
            return
        ledger.coordinators[coordinator] = record
        record.sequence, record.heard = sequence, now
        ledger.alarm(now + self._terms.lease_term)
        self._confirm(record, seen, holding, now)
        for token in record.claims.keys() - holding.keys():
            ledger.unclaim(record, token)
        self._claim(record, {token: name for token, name in holding.items() if token not in record.leases}, now)
        ledger.set_demand(record, demand)
        self._resend(record, now)

    def forget(self, coordinator: str, now: float) -> None:
        """Remove a dead coordinator. Its leases are revoked at once; its late updates are ignored for a lease term."""
        self._dead[coordinator] = now + self._terms.lease_term
        self._ledger.alarm(now + self._terms.lease_term)
        record = self._ledger.coordinators.get(coordinator)
        if record is not None:
            self._ledger.remove_coordinator(record, now)

    def _confirm(self, holder: CoordinatorState, seen: int, holding: Collection[str], now: float) -> None:
        """Note which grants arrived, and which leases were returned."""
        holder.unconfirmed = {number: grant for number, grant in holder.unconfirmed.items() if number > seen}
        for token, held in list(holder.leases.items()):
            if not held.received and (held.lease.number <= seen or token in holding):
                held.received = True
                self._ledger.changed.add(held.lease.environment)
            if held.received and token not in holding:
                self._ledger.returned(held, now)

    def _claim(self, holder: CoordinatorState, claims: Mapping[str, str], now: float) -> None:
        """Adopt leases of an earlier epoch, or revoke them."""
        ledger = self._ledger
        for token, name in claims.items():
            if token in holder.claims:
                ledger.unclaim(holder, token)
            worker = ledger.worker(name)
            earlier = token_epoch(token) != self.epoch
            if earlier and (now < self._settled_at if worker is None else not worker.up):
                ledger.claim(holder, token, name)
            elif earlier and worker is not None and worker.admits(token):
                ledger.adopt(holder, token, worker, now)
            else:
                ledger.commands.append(LeaseRevoked(holder.name, token, name, RevokeReason.UNKNOWN))

    def _resend(self, holder: CoordinatorState, now: float) -> None:
        """Send again what this coordinator has not confirmed in time."""
        for grant in holder.unconfirmed.values():
            if now >= grant.sent_at + self._terms.resend:
                grant.sent_at = now
                self._ledger.commands += grant.commands
        for held in holder.leases.values():
            if held.deadline is not None and now >= held.asked_at + self._terms.recall_term:
                self._ledger.recall(held, now)

    def decide(self, now: float) -> list[Command]:
        """Return the commands to perform now, in order."""
        ledger = self._ledger
        if now >= ledger.alarm_at:
            self._check(now)
        if now >= self._settled_at:
            ledger.changed.update(e.name for e in ledger.environments.values() if e.wake is not None and now >= e.wake)
            for name in sorted(ledger.changed):
                self._scaler.scale_down(ledger.environments[name], now)
            queues = [
                (name, net_demand(ledger.environments[name], ledger.coordinators)) for name in sorted(ledger.changed)
            ]
            if len(queues) > 1:
                queues.sort(key=lambda named: _limited_urgency(named[1]))
            for name, queue in queues:
                self._plan(ledger.environments[name], queue, now)
            ledger.changed.clear()
        commands, ledger.commands = ledger.commands, []
        return commands

    def next_wake(self, now: float) -> float | None:
        """Return when to call :meth:`decide` again if no event comes before; None if only an event matters."""
        ledger = self._ledger
        moments = [ledger.alarm_at, *(e.wake for e in ledger.environments.values() if e.wake is not None)]
        if ledger.commands:
            moments.append(now)
        if ledger.changed:
            moments.append(self._settled_at)
        wake = min(moments)
        return None if wake == math.inf else max(now, wake)

    def _check(self, now: float) -> None:
        """Make the timed changes that are due, apart from the plans."""
        ledger, terms = self._ledger, self._terms
        self._dead = {name: until for name, until in self._dead.items() if now < until}
        ledger.limits.prune(now)
        for coordinator in list(ledger.coordinators.values()):
            if now >= coordinator.heard + terms.lease_term:
                ledger.remove_coordinator(coordinator, now)
        for worker in list(ledger.workers.values()):
            self._check_worker(worker, now)
        for environment in list(ledger.environments.values()):
            idle_since = None if environment.in_use else environment.idle_since
            if idle_since is not None and now >= idle_since + terms.environment_idle_timeout:
                ledger.remove_environment(environment, now)
            elif environment.retry_at is not None and now >= environment.retry_at:
                environment.retry_at = None
                ledger.changed.add(environment.name)
        moments = [*ledger.moments(), *self._dead.values()]
        ledger.alarm_at = min((moment for moment in moments if moment > now), default=math.inf)

    def _check_worker(self, worker: Worker, now: float) -> None:
        ledger = self._ledger
        if not worker.up and now >= worker.since + ledger.config.start_timeout:
            ledger.start_failed(ledger.environments[worker.environment], now)
            ledger.stop(worker, now, RevokeReason.DIED)
        elif worker.leave_by is not None and now >= worker.leave_by:
            ledger.changed.add(worker.environment)
        for token, orphan in worker.orphans.items():
            if now >= orphan.revoke_at:
                orphan.revoked, orphan.revoke_at = True, now + self._terms.resend
                ledger.commands.append(Revoke(worker.name, token))

    def _plan(self, environment: Environment, queue: list[NetDemand], now: float) -> None:
        ledger = self._ledger
        exhausted = ledger.limits.cut(environment.name, queue, self._scaler.slots(environment), now)
        resize_at = self._scaler.resize(environment, queue, now)
        plan = EnvironmentPlan(
            environment,
            queue,
            ledger.coordinators,
            now=now,
            terms=self._terms,
            grant=lambda worker, demand: ledger.grant(worker, demand, now),
            recall=lambda held: ledger.recall(held, now),
        )
        wake = min(plan.run(), resize_at, ledger.limits.next_place(exhausted, now))
        environment.wake = None if wake == math.inf else wake
        if environment.in_use:
            environment.idle_since = None
        elif environment.idle_since is None:
            environment.idle_since = now
            ledger.alarm(now + self._terms.environment_idle_timeout)

    def leases(self) -> tuple[Lease, ...]:
        """Return all leases, in flight or held, by worker."""
        return tuple(held.lease for worker in self._ledger.workers.values() for held in worker.leases.values())

    def workers(self) -> list[str]:
        """Return the names of the workers that are up."""
        workers = self._ledger.workers.values()
        return sorted(worker.name for worker in workers if worker.up and not is_ray_task_environment(worker.name))

    def environments(self) -> list[str]:
        """Return the environments that have workers, or should have."""
        return sorted(self._ledger.environments)

    def environment_idle_since(self, environment: str) -> float | None:
        """Return since when an environment has neither demand nor leases; None if it has, or is unknown."""
        record = self._ledger.environments.get(environment)
        return None if record is None else record.idle_since

    def stats(self, now: float) -> PoolStats:
        """Return the pool's current statistics."""
        return self._ledger.stats(now)


def _limited_urgency(queue: list[NetDemand]) -> tuple[int, float]:
    """Return the planning rank of an environment: that of its most urgent limited demand, since limits are shared."""
    return next(((-demand.priority, demand.waiting_since) for demand in queue if demand.limits), (1, 0.0))
