"""Autoscaler of a pool: which workers are started, leave, or are kept after all.

A pool has a fixed size, or two bounds. Between the bounds it has as many workers as its running and grantable tasks
need. It grows at once; an unneeded worker is stopped after it has been idle for ``idle_timeout``.

A worker that is to stop *leaves*: it gets no new tasks, its leases are recalled, and it is stopped once nothing
occupies it, or after ``drain_timeout``. A worker leaves because it is surplus (then it may be kept after all), because
it has run its maximum number of tasks, or because a task on it cannot be stopped. Leaving workers do not count towards
the size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rayflow.core.pool.ledger import PoolLedger
from rayflow.core.pool.protocol import RevokeReason, StartWorkers
from rayflow.core.pool.state import Environment, NetDemand, Worker


class PoolScaler:
    """Keeps the number of workers of each environment."""

    def __init__(self, ledger: PoolLedger) -> None:
        self._ledger = ledger

    def scale_down(self, environment: Environment, now: float) -> None:
        """Let surplus workers leave, and stop leaving workers that are empty."""
        if environment.for_ray_tasks:
            return
        staying = _staying(environment)
        _, most = self._ledger.config.bounds
        if len(staying) > most:
            self._release_surplus(staying, len(staying) - most, now)
        for worker in [worker for worker in environment.workers.values() if worker.leaving]:
            self._stop_when_empty(worker, now)

    def _release_surplus(self, staying: Sequence[Worker], count: int, now: float) -> None:
        """Release starting workers first, then the least used, then the newest."""
        # A found worker that has not reported may be fully occupied.
        known = [worker for worker in staying if worker.up or not worker.found]
        for worker in sorted(known, key=lambda w: (w.up, w.used, -w.since, w.name))[:count]:
            if worker.up:
                self._ledger.leave(worker, now, surplus=True)
            else:
                self._ledger.stop(worker, now, RevokeReason.DRAINED)

    def _stop_when_empty(self, worker: Worker, now: float) -> None:
        assert worker.leave_by is not None
        occupied = (worker.leases.keys() | worker.orphans.keys()) - worker.stuck
        if now >= worker.leave_by or (worker.up and not occupied):
            self._ledger.stop(worker, now, RevokeReason.DRAINED)
            return
        self._ledger.alarm(worker.leave_by)
        for token, held in worker.leases.items():
            # A lease under limits is returned after its one task without a recall.
            if held.deadline is None and token not in worker.stuck and not held.lease.limited:
                self._ledger.recall(held, now)

    def slots(self, environment: Environment) -> int:
        """Return the number of slots that an environment has, or could have at its largest size."""
        config = self._ledger.config
        existing = sum(worker.slots for worker in environment.workers.values())
        return existing if environment.for_ray_tasks else max(existing, config.bounds[1] * config.concurrency)

    def resize(self, environment: Environment, queue: Sequence[NetDemand], now: float) -> float:
        """Start, keep or stop workers for a queue of grantable demand; return when time changes that, else infinity."""
        if environment.for_ray_tasks:
            return math.inf
        least, most = self._ledger.config.bounds
        staying = _staying(environment)
        needed = most if least == most else min(max(self._needed(environment, staying, queue), least), most)
        missing = needed - len(staying)
        if missing > 0:
            missing -= self._keep_surplus(environment, missing)
        if missing > 0 and environment.wanted and environment.retry_at is None:
            self._ledger.commands.append(StartWorkers(environment.name, missing))
        environment.target = needed if environment.wanted else len(staying)
        return self._stop_idle(staying, len(staying) - needed, now)

    def _needed(self, environment: Environment, staying: Sequence[Worker], queue: Sequence[NetDemand]) -> int:
        """Count the occupied workers, and those for the demand that does not fit there."""
        occupied = [worker for worker in staying if worker.used]
        exclusive = sum(demand.count for demand in queue if demand.exclusive)
        shared = sum(demand.count for demand in queue if not demand.exclusive) - sum(worker.free for worker in occupied)
        needed = len(occupied) + exclusive + max(0, math.ceil(shared / self._ledger.config.concurrency))
        # Demand that a limit holds back now may be grantable soon.
        return max(needed, 1) if environment.waiting else needed

    def _keep_surplus(self, environment: Environment, count: int) -> int:
        """Let surplus workers stay after all, the most used first; return how many."""
        surplus = [worker for worker in environment.workers.values() if worker.surplus]
        kept = sorted(surplus, key=lambda w: (-w.used, w.since, w.name))[:count]
        for worker in kept:
            worker.leave_by, worker.surplus = None, False
        return len(kept)

    def _stop_idle(self, staying: Sequence[Worker], spare: int, now: float) -> float:
        """Stop spare workers that have been idle for the idle timeout, the longest idle first."""
        if spare <= 0:
            return math.inf
        idle = sorted((worker for worker in staying if worker.up and not worker.used), key=lambda w: w.idle_since)
        for worker in idle[:spare]:
            until = worker.idle_since + self._ledger.config.idle_timeout
            if now < until:
                return until
            self._ledger.stop(worker, now, RevokeReason.DRAINED)
        return math.inf


def _staying(environment: Environment) -> list[Worker]:
    return [worker for worker in environment.workers.values() if worker.leave_by is None]
