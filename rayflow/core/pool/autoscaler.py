"""How many workers each environment has: which are started, which leave, and which are taken back.

A pool has a size, or two bounds and scales itself between them: it then has as many workers as its tasks need, those
that run and those that wait and may run now. It grows at once; a worker that is not needed is stopped when it has
been idle for a while.

A worker that is to stop *leaves*: it gets nothing new, what is held there is asked back, and it is stopped once
nothing occupies it, or when its time is over. It leaves because there are too many (then it may be taken back),
because it has run as many tasks as it should, or because a task on it cannot be stopped. Who leaves is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rayflow.core.pool.ledger import PoolLedger
from rayflow.core.pool.protocol import RevokeReason, StartWorkers
from rayflow.core.pool.state import Environment, NetDemand, Worker


class PoolScaler:
    """Gives environments the workers that they should have.

    Args:
        book: the pool's books.
    """

    def __init__(self, book: PoolLedger) -> None:
        self._book = book

    # --- before anything is granted -----------------------------------------------------------------------
    def shed(self, environment: Environment, now: float) -> None:
        """Let surplus workers leave, and see off those that leave."""
        if environment.own:
            return
        staying = _staying(environment)
        _, most = self._book.config.bounds
        if len(staying) > most:
            self._let_go(staying, len(staying) - most, now)
        for worker in [worker for worker in environment.workers.values() if worker.leaving]:
            self._see_off(worker, now)

    def _let_go(self, staying: Sequence[Worker], count: int, now: float) -> None:
        """Those that still start go first, then the emptiest, then the youngest."""
        # What was found and has not reported may be full.
        known = [worker for worker in staying if worker.up or not worker.found]
        for worker in sorted(known, key=lambda w: (w.up, w.used, -w.since, w.name))[:count]:
            if worker.up:
                self._book.leave(worker, now, surplus=True)
            else:
                self._book.stop(worker, now, RevokeReason.DRAINED)

    def _see_off(self, worker: Worker, now: float) -> None:
        assert worker.leave_by is not None
        occupied = (worker.seats.keys() | worker.ghosts.keys()) - worker.stuck
        if now >= worker.leave_by or (worker.up and not occupied):
            self._book.stop(worker, now, RevokeReason.DRAINED)
            return
        self._book.alarm(worker.leave_by)
        for token, seat in worker.seats.items():
            # One under limits comes back by itself.
            if seat.deadline is None and token not in worker.stuck and not seat.lease.limited:
                self._book.ask_back(seat, now)

    def slots(self, environment: Environment) -> int:
        """Slots that an environment has, or could have."""
        config = self._book.config
        there = sum(worker.slots for worker in environment.workers.values())
        return there if environment.own else max(there, config.bounds[1] * config.concurrency)

    # --- for what waits -----------------------------------------------------------------------------------
    def fit(self, environment: Environment, queue: Sequence[NetDemand], now: float) -> float:
        """Start, take back, or stop workers as the work needs them.

        Args:
            environment: whose.
            queue: what waits and could be granted now.
            now: the time.

        Returns:
            When time alone changes what is to be done; infinity for never.
        """
        if environment.own:
            return math.inf
        least, most = self._book.config.bounds
        staying = _staying(environment)
        needed = most if least == most else min(max(self._needed(environment, staying, queue), least), most)
        missing = needed - len(staying)
        if missing > 0:
            missing -= self._take_back(environment, missing)
        if missing > 0 and environment.wanted and environment.retry_at is None:
            self._book.out.append(StartWorkers(environment.name, missing))
        environment.target = needed if environment.wanted else len(staying)
        return self._stop_idle(staying, len(staying) - needed, now)

    def _needed(self, environment: Environment, staying: Sequence[Worker], queue: Sequence[NetDemand]) -> int:
        """Who is occupied stays; what does not fit there needs others."""
        occupied = [worker for worker in staying if worker.used]
        alone = sum(wish.count for wish in queue if wish.alone)
        more = sum(wish.count for wish in queue if not wish.alone) - sum(worker.free for worker in occupied)
        needed = len(occupied) + alone + max(0, math.ceil(more / self._book.config.concurrency))
        # What a limit holds back now may run soon.
        return max(needed, 1) if environment.waiting else needed

    def _take_back(self, environment: Environment, count: int) -> int:
        """Let surplus workers stay after all, those first that have most to do; answers how many."""
        surplus = [worker for worker in environment.workers.values() if worker.surplus]
        back = sorted(surplus, key=lambda w: (-w.used, w.since, w.name))[:count]
        for worker in back:
            worker.leave_by, worker.surplus = None, False
        return len(back)

    def _stop_idle(self, staying: Sequence[Worker], spare: int, now: float) -> float:
        """Stop so many workers as soon as they have been idle for long enough, the longest idle first."""
        if spare <= 0:
            return math.inf
        idle = sorted((worker for worker in staying if worker.up and not worker.used), key=lambda w: w.idle_since)
        for worker in idle[:spare]:
            until = worker.idle_since + self._book.config.idle_timeout
            if now < until:
                return until
            self._book.stop(worker, now, RevokeReason.DRAINED)
        return math.inf


def _staying(environment: Environment) -> list[Worker]:
    return [worker for worker in environment.workers.values() if worker.leave_by is None]
