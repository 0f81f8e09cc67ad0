"""Rules of locks: claims, grants and leases; executions receive grants as inbox rows."""

from __future__ import annotations

from collections.abc import Sequence

from rayflow.core.events import RequestCompleted, label
from rayflow.core.locks import machine
from rayflow.core.locks.machine import Change, Claim, Claimant, Lock
from rayflow.errors import RayflowError
from rayflow.storage.codec.journal import decode_failure
from rayflow.storage.operations import ExpireLeases, FailLockWait, LeaveLease, TakeLease, TakeLock
from rayflow.storage.rules.protocols import Reads, TransactionView


class LockRules:
    """Rules of locks within one transaction."""

    def __init__(self, view: TransactionView, reads: Reads) -> None:
        self._view = view
        self._reads = reads
        self._before: dict[str, Lock | None] = {}
        self._now: dict[str, Lock] = {}

    @property
    def changed(self) -> dict[str, tuple[Lock | None, Lock]]:
        """Return the changed locks: each before and after."""
        return {name: (self._before[name], lock) for name, lock in self._now.items()}

    def take(self, execution_id: str, ask: TakeLock, at: float, key: str) -> RayflowError | None:
        """Claim a permit; return the reason if that is rejected. A holder that claims again is answered by ``key``."""
        claimant = Claimant(execution_id, ask.step)
        try:
            change = machine.acquire(self._lock(ask.name), ask.name, ask.limit, claimant, at, token=ask.token)
        except RayflowError as error:
            return error
        self._change(change, at)
        claim = change.lock.claim_of(claimant)
        if claim is not None and claim.token and claim not in change.granted:
            self._view.put_answer(execution_id, _granted(claim, at), key)
        return None

    def leave(self, name: str, claimant: Claimant, at: float) -> None:
        """Release a permit, or the claim to one."""
        lock = self._lock(name)
        if lock is not None:
            self._change(machine.release(lock, claimant), at)

    def leave_all(self, execution_id: str, at: float) -> None:
        """Release all permits and claims of a finished execution."""
        mine = {lock.name for lock in self._now.values() if any(c.execution_id == execution_id for c in lock.claims)}
        names = sorted(mine.union(self._reads.locks_of(execution_id)))
        held = [lock for name in names if (lock := self._lock(name)) is not None]
        for change in machine.release_all(held, execution_id):
            self._change(change, at)

    def apply(self, operation: TakeLease | LeaveLease | ExpireLeases | FailLockWait) -> int:
        """Decide an operation; return the token of a lease, 0 for none.

        Raises:
            LockUnavailable, LockPermitsMismatch, LockLost: the lease is rejected.
        """
        match operation:
            case TakeLease():
                return self._take_lease(operation)
            case LeaveLease():
                self.leave(operation.name, Claimant(lease=operation.lease), operation.at)
            case ExpireLeases():
                mine = {lock.name for lock in self._now.values() if any(claim.lease for claim in lock.claims)}
                for name in sorted(mine.union(self._reads.leased_locks())):
                    lock = self._lock(name)
                    if lock is not None:
                        change = machine.renew_all if operation.renew else machine.expire
                        self._change(change(lock, operation.at), operation.at)
            case FailLockWait():
                self._break(operation)
        return 0

    def _take_lease(self, operation: TakeLease) -> int:
        name, claimant, lock = operation.name, Claimant(lease=operation.lease), self._lock(operation.name)
        if operation.renew:
            known = Lock(name, operation.limit) if lock is None else lock
            change = machine.renew(known, operation.lease, operation.at, operation.ttl)
        else:
            ttl, wait = operation.ttl, operation.wait
            change = machine.acquire(lock, name, operation.limit, claimant, operation.at, ttl=ttl, wait=wait)
        self._change(change, operation.at)
        claim = change.lock.claim_of(claimant)
        return 0 if claim is None else claim.token

    def _break(self, operation: FailLockWait) -> None:
        claimant, lock = Claimant(operation.execution_id, operation.step), self._lock(operation.name)
        claim = None if lock is None else lock.claim_of(claimant)
        if lock is None or claim is None or claim.token:
            return  # it was granted, or its claimant no longer waits
        self._change(machine.release(lock, claimant), operation.at)
        failure = decode_failure(operation.failure, execution_id=operation.execution_id)
        answer = RequestCompleted(operation.at, operation.step, label("lock", operation.name), failure=failure)
        self._view.put_answer(operation.execution_id, answer, f"broken/{operation.name}/{claim.order}")

    def _lock(self, name: str) -> Lock | None:
        if name not in self._before:
            self._before[name] = self._reads.lock(name)
        return self._now.get(name) or self._before[name]

    def _change(self, change: Change, at: float) -> None:
        """Record the new state of a lock, and answer executions that were granted a permit."""
        before = self._lock(change.lock.name)
        self._now[change.lock.name] = change.lock
        self._count(() if before is None else before.claims, change.lock.claims)
        for claim in change.granted:
            if claim.execution_id:
                self._view.put_answer(claim.execution_id, _granted(claim, at), f"lock/{claim.name}/{claim.order}")

    def _count(self, before: Sequence[Claim], after: Sequence[Claim]) -> None:
        known, now = {c.order: c.execution_id for c in before}, {c.order: c.execution_id for c in after}
        gone = [(name, -1) for order, name in known.items() if name and order not in now]
        new = [(name, 1) for order, name in now.items() if name and order not in known]
        for name, change in gone + new:
            self._view.claims_changed(name, change)


def _granted(claim: Claim, at: float) -> RequestCompleted:
    return RequestCompleted(at, claim.step, label("lock", claim.name), claim.token)
