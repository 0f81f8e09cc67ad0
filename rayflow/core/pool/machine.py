"""The admission machine of a worker pool.

**The machine owns** who has which slot: demand and leases of all coordinators, which workers there are and what
occupies them, what was sent and not confirmed, and what is due when. It never sees a task's payload, and it
believes the worker: a slot is free only when its coordinator gave it back, or the worker said so.

**Its shell owns** the clock, the actors and the wires. It calls the methods as things happen, then
:meth:`~PoolMachine.decide`, carries out the commands in order, and calls again at
:meth:`~PoolMachine.next_wake`. It names workers, starts and stops them, takes a census of each that it finds
(which tokens are busy there) before it reports it up, and tells when a worker or a coordinator died. After a
restart it announces the workers that it finds before the settling time is over. Messages may be late, lost or
doubled: updates are whole states, and what is not confirmed is sent again.

How a coordinator takes part:

* It has a name that no other process ever has, and numbers its updates; each says everything: what it holds,
  what it wants beyond that, and up to which number it has received all grants of which epoch of the pool. It
  sends one when something changed, and a few times in every lease term.
* Grants that it has not seen are in flight: they are not given back although they are missing from its
  holdings, and they are taken off its demand. A token that it has seen and no longer holds is given back.
* A grant that it has had before, by its number, is dropped. When the pool's epoch rises, numbers begin anew.
* It may keep a lease over many tasks, and gives it back when it is recalled, or after a short idle time. One
  under limits is for one task that has these very limits, and is given back after it. If starts are limited, the
  coordinator reports when the task began, or that it never will, as soon as it knows.
* A lease is never taken by force for being slow, only when its coordinator is dead or silent. Then the worker
  is told to revoke the token, and the slot stays occupied until the worker confirms. A worker that is to stop
  waits for its tasks, but not for ever.
* Tasks that run as Ray tasks of their own are admitted in an environment of their own
  (:func:`~rayflow.core.pool.protocol.own_tasks`). Its one worker, named like it, is only a number of slots.

Who gets what is decided in :mod:`rayflow.core.pool.plan`, what limits allow in :mod:`rayflow.core.pool.limits`, and
how many workers there are in :mod:`rayflow.core.pool.autoscaler`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from rayflow.core.pool.autoscaler import PoolScaler
from rayflow.core.pool.ledger import PoolLedger
from rayflow.core.pool.plan import Plan
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
    is_own_tasks,
    token_epoch,
)
from rayflow.core.pool.state import CoordinatorState, Environment, NetDemand, Worker, wishes
from rayflow.definition.options import PoolConfig
from rayflow.errors import LeaseLost

_DEFAULT = PoolTerms()
_NOTHING: Mapping[str, float] = MappingProxyType({})


class PoolMachine:
    """Grants slots of workers to coordinators, by priority, then first in, first out.

    Args:
        config: the pool's settings.
        epoch: of this pool, from 1, above that of every pool of this name before it.
        now: the time.
        terms: the durations by which it works.

    Example:
        >>> pool = PoolMachine(PoolConfig(workers=1, concurrency=2), epoch=1, now=0.0, terms=PoolTerms(settle=0.0))
        >>> wish = Demand("env", priority=5, stamp=0.0, count=1)
        >>> pool.update("c1", sequence=1, epoch=1, seen=0, demand=[wish], holding={}, now=0.0)
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
        self._book = PoolLedger(epoch, config, terms, now)
        self._sizes = PoolScaler(self._book)
        self._gone: dict[str, float] = {}

    def configure(self, config: PoolConfig, now: float) -> None:
        """Go on with other settings. Another size takes effect at once, another ``concurrency`` in new workers.

        Too many workers leave: they get nothing new, and are stopped once their tasks are done.
        """
        book = self._book
        book.config = config
        for environment in book.environments.values():
            book.changed.add(environment.name)
            if environment.own:
                environment.workers[environment.name].slots = config.max_ray_tasks
        # Other durations, other moments.
        book.alarm(now)

    # --- workers ------------------------------------------------------------------------------------------
    def worker_starting(self, worker: str, environment: str, now: float) -> None:
        """A worker exists and has not reported yet: it was just started, or found after the pool restarted.

        It gets no grants before :meth:`worker_up`.
        """
        if worker not in self._book.workers and worker not in self._book.stopped:
            self._book.register(worker, environment, now, found=now < self._settled_at)

    def worker_up(self, worker: str, environment: str, now: float, busy_tokens: Collection[str] = ()) -> None:
        """A worker reported, with the tokens on which something runs there. May be repeated as a new census."""
        book = self._book
        if worker in book.stopped:
            book.out.append(StopWorker(environment, worker))
            return
        record = book.workers.get(worker) or book.register(worker, environment, now)
        if not record.up:
            record.up, record.idle_since = True, now
            book.environments[record.environment].failures = 0
        for token in record.ghosts.keys() - busy_tokens:
            book.lay(record, token, now)
        for token in sorted(set(busy_tokens) - record.seats.keys() - record.ghosts.keys()):
            # One of an earlier epoch may still be claimed; one of ours was void before.
            book.haunt(record, token, now if token_epoch(token) == self.epoch else now + self._terms.lease_term)
        book.changed.add(record.environment)
        for party in book.parties.values():
            self._claim(party, {token: name for token, name in party.claims.items() if name == worker}, now)

    def worker_down(self, worker: str, now: float) -> None:
        """A worker died, or could not be started. Its leases are void, and another is started."""
        self._book.stopped.discard(worker)
        record = self._book.workers.get(worker)
        if record is not None:
            if not record.up:
                self._book.start_failed(self._book.environments[record.environment], now)
            self._book.lose(record, now, RevokeReason.DIED)

    def slot_free(self, worker: str, token: str, now: float) -> None:
        """A worker confirms that nothing runs on a revoked token any more, and that it will refuse it."""
        record = self._book.workers.get(worker)
        if record is not None and token in record.ghosts:
            self._book.lay(record, token, now)

    def retire(self, worker: str, token: str, now: float) -> None:
        """The task on this token cannot be stopped: replace its worker once its other tasks are done.

        Nothing more is granted there, the other leases are recalled, and a replacement is started at once.
        """
        record = self._replaceable(worker)
        if record is not None and (token in record.seats or token in record.ghosts):
            record.stuck.add(token)
            self._book.leave(record, now)

    def worn(self, worker: str, now: float) -> None:
        """This worker has run as many tasks as it should: replace it once those that it has are done."""
        record = self._replaceable(worker)
        if record is not None:
            self._book.leave(record, now)

    def _replaceable(self, worker: str) -> Worker | None:
        record = self._book.workers.get(worker)
        return None if record is None or self._book.environments[record.environment].own else record

    def want(self, environment: str, now: float) -> None:
        """Have workers of this environment ready, although nothing waits for them yet: at least as many as it keeps."""
        record = self._book.environment(environment)
        record.wanted = True
        if not record.in_use:
            record.idle_since = now
            self._book.alarm(now + self._terms.environment_idle_timeout)
        self._book.changed.add(environment)

    # --- coordinators -------------------------------------------------------------------------------------
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
        """Take a coordinator's whole state. One that is not newer than the newest is ignored.

        Args:
            coordinator: its name.
            sequence: higher with each update.
            epoch: the highest epoch of this pool that it has heard of; 0 for none.
            seen: it has received all grants of that epoch up to this number.
            demand: how many slots it could use beyond those that it holds.
            holding: the worker of each token that it holds.
            now: the time.
            begun: when the tasks of leases under limits on starts began, by token, as far as it was not told
                before; 0.0 for one that never will.

        Raises:
            LeaseLost: the coordinator has dealt with a later epoch of this pool: this one must stop.
        """
        if epoch > self.epoch:
            raise LeaseLost(f"this pool has epoch {self.epoch}, but {coordinator} knows epoch {epoch}: stop this one")
        book = self._book
        for token, at in begun.items():
            # Facts do not age, so this counts also where the rest of the update is too late.
            if book.limits.began(token, at):
                book.changed |= book.limits.waiting
        seen = seen if epoch == self.epoch else 0
        party = book.parties.get(coordinator) or CoordinatorState(coordinator, last=seen)
        if now < self._gone.get(coordinator, -math.inf) or sequence <= party.sequence:
            return
        book.parties[coordinator] = party
        party.sequence, party.heard = sequence, now
        book.alarm(now + self._terms.lease_term)
        self._received(party, seen, holding, now)
        for token in party.claims.keys() - holding.keys():
            book.unclaim(party, token)
        self._claim(party, {token: name for token, name in holding.items() if token not in party.seats}, now)
        book.demand(party, demand)
        self._send_again(party, now)

    def forget(self, coordinator: str, now: float) -> None:
        """A coordinator died: its leases are void at once, and late updates of it are ignored for a lease term."""
        self._gone[coordinator] = now + self._terms.lease_term
        self._book.alarm(now + self._terms.lease_term)
        party = self._book.parties.get(coordinator)
        if party is not None:
            self._book.drop(party, now)

    def _received(self, party: CoordinatorState, seen: int, holding: Collection[str], now: float) -> None:
        """Find out which grants arrived, and which leases were given back."""
        party.outbox = {number: unseen for number, unseen in party.outbox.items() if number > seen}
        for token, seat in list(party.seats.items()):
            if not seat.received and (seat.lease.number <= seen or token in holding):
                seat.received = True
                self._book.changed.add(seat.lease.environment)
            if seat.received and token not in holding:
                self._book.remove(seat, now)

    def _claim(self, party: CoordinatorState, claims: Mapping[str, str], now: float) -> None:
        """Take over leases of an earlier epoch, or say that they are void."""
        book = self._book
        for token, name in claims.items():
            if token in party.claims:
                book.unclaim(party, token)
            worker = book.worker(name)
            old = token_epoch(token) != self.epoch
            if old and (now < self._settled_at if worker is None else not worker.up):
                book.claim(party, token, name)
            elif old and worker is not None and worker.admits(token):
                book.adopt(party, token, worker, now)
            else:
                book.out.append(LeaseRevoked(party.name, token, name, RevokeReason.UNKNOWN))

    def _send_again(self, party: CoordinatorState, now: float) -> None:
        """Repeat what this coordinator should have answered by now: it was lost, or is very late."""
        for unseen in party.outbox.values():
            if now >= unseen.sent_at + self._terms.resend:
                unseen.sent_at = now
                self._book.out += unseen.commands
        for seat in party.seats.values():
            if seat.deadline is not None and now >= seat.asked_at + self._terms.recall_term:
                self._book.ask_back(seat, now)

    # --- deciding -----------------------------------------------------------------------------------------
    def decide(self, now: float) -> list[Command]:
        """Everything that is to be done now, in order."""
        book = self._book
        if now >= book.alarm_at:
            self._check(now)
        if now >= self._settled_at:
            book.changed.update(e.name for e in book.environments.values() if e.wake is not None and now >= e.wake)
            for name in sorted(book.changed):
                self._sizes.shed(book.environments[name], now)
            queues = [(name, wishes(book.environments[name], book.parties)) for name in sorted(book.changed)]
            if len(queues) > 1:
                queues.sort(key=lambda named: _urgency(named[1]))
            for name, queue in queues:
                self._plan(book.environments[name], queue, now)
            book.changed.clear()
        commands, book.out = book.out, []
        return commands

    def next_wake(self, now: float) -> float | None:
        """When to call :meth:`decide` again if nothing happens before; None if only something new matters."""
        book = self._book
        moments = [book.alarm_at, *(e.wake for e in book.environments.values() if e.wake is not None)]
        if book.out:
            moments.append(now)
        if book.changed:
            moments.append(self._settled_at)
        wake = min(moments)
        return None if wake == math.inf else max(now, wake)

    def _check(self, now: float) -> None:
        """Do what is due by time alone, outside the plans."""
        book, terms = self._book, self._terms
        self._gone = {name: until for name, until in self._gone.items() if now < until}
        book.limits.forget_the_past(now)
        for party in list(book.parties.values()):
            if now >= party.heard + terms.lease_term:
                book.drop(party, now)
        for worker in list(book.workers.values()):
            self._check_worker(worker, now)
        for environment in list(book.environments.values()):
            idle_since = None if environment.in_use else environment.idle_since
            if idle_since is not None and now >= idle_since + terms.environment_idle_timeout:
                book.give_up(environment, now)
            elif environment.retry_at is not None and now >= environment.retry_at:
                environment.retry_at = None
                book.changed.add(environment.name)
        moments = [*book.moments(), *self._gone.values()]
        book.alarm_at = min((moment for moment in moments if moment > now), default=math.inf)

    def _check_worker(self, worker: Worker, now: float) -> None:
        book = self._book
        if not worker.up and now >= worker.since + book.config.start_timeout:
            book.start_failed(book.environments[worker.environment], now)
            book.stop(worker, now, RevokeReason.DIED)
        elif worker.leave_by is not None and now >= worker.leave_by:
            book.changed.add(worker.environment)
        for token, ghost in worker.ghosts.items():
            if now >= ghost.revoke_at:
                ghost.revoked, ghost.revoke_at = True, now + self._terms.resend
                book.out.append(Revoke(worker.name, token))

    def _plan(self, environment: Environment, queue: list[NetDemand], now: float) -> None:
        book = self._book
        held_back = book.limits.cut(environment.name, queue, self._sizes.slots(environment), now)
        resize_at = self._sizes.fit(environment, queue, now)
        plan = Plan(
            environment,
            queue,
            book.parties,
            now=now,
            terms=self._terms,
            grant=lambda worker, wish: book.grant(worker, wish, now),
            recall=lambda seat: book.ask_back(seat, now),
        )
        wake = min(plan.run(), resize_at, book.limits.next_place(held_back, now))
        environment.wake = None if wake == math.inf else wake
        if environment.in_use:
            environment.idle_since = None
        elif environment.idle_since is None:
            environment.idle_since = now
            book.alarm(now + self._terms.environment_idle_timeout)

    # --- looking ------------------------------------------------------------------------------------------
    def leases(self) -> tuple[Lease, ...]:
        """All leases, in flight or held, by worker."""
        return tuple(seat.lease for worker in self._book.workers.values() for seat in worker.seats.values())

    def workers(self) -> list[str]:
        """Names of the workers that are up."""
        return sorted(
            worker.name for worker in self._book.workers.values() if worker.up and not is_own_tasks(worker.name)
        )

    def environments(self) -> list[str]:
        """The environments that have workers, or should have."""
        return sorted(self._book.environments)

    def environment_idle_since(self, environment: str) -> float | None:
        """Since when an environment has neither demand nor leases; None if it has, or is not known."""
        record = self._book.environments.get(environment)
        return None if record is None else record.idle_since

    def stats(self, now: float) -> PoolStats:
        """The pool's figures at this moment."""
        return self._book.stats(now)


def _urgency(queue: list[NetDemand]) -> tuple[int, float]:
    """Where an environment comes in the order of planning: who shares a limit with others goes by what is under it."""
    return next(((-wish.priority, wish.stamp) for wish in queue if wish.limits), (1, 0.0))
