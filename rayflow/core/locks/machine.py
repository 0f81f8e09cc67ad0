"""Locks and semaphores: holders of permits, waiting claims, fencing tokens and leases.

A lock is a semaphore with one permit. This module owns the order of waiting claims (first in, first out, by the number
that each claim gets), the fencing tokens, and the rules for expired leases. It owns no clock and no store: its shell
reads a lock, calls a function here, and writes the returned :class:`Change` in the same transaction, together with an
inbox row for each granted claim of an execution.

* A claim belongs to a step of an execution, or to the lease of a script. Claims of executions never expire: they are
  released in the transaction that ends the execution (:func:`release_all`). A lease lasts as long as it is renewed.
* Each grant has a fencing token, a number that rises with each grant of that lock; the lock keeps the last token even
  without holders. Only a claimant that had the last token, and never released it, is granted the same token again.
* An expired lease may be taken by the next claim. Until then it may still be renewed, and its token is valid, because
  no newer token exists. Once it is taken, its token is refused permanently.
* All functions are idempotent: an existing claim is returned as it is, and releasing a missing claim changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rayflow.definition.checks import check_name
from rayflow.errors import InvalidArgument, LockLost, LockPermitsMismatch, LockUnavailable


@dataclass(frozen=True, slots=True)
class Claimant:
    """Claimant of a permit: a step of an execution, or the lease of a script.

    Args:
        execution_id: id of the execution; "" for a lease.
        step: number of the step in its execution, from 1; 0 for a lease.
        lease: id of the lease; "" for a step.

    Raises:
        ValueError: neither a step nor a lease is given, or both are.
    """

    execution_id: str = ""
    step: int = 0
    lease: str = ""

    def __post_init__(self) -> None:
        kinds = {bool(self.execution_id), self.step > 0, not self.lease}
        if len(kinds) != 1:
            raise ValueError(
                "a claimant must be either a step of an execution, from 1, or a lease, not "
                f"{(self.execution_id, self.step, self.lease)}"
            )

    def __str__(self) -> str:
        return f"lease {self.lease!r}" if self.lease else f"execution {self.execution_id!r} (step {self.step})"


@dataclass(frozen=True, slots=True)
class Claim:
    """A held permit, or a waiting claim to one.

    Args:
        name: name of the lock.
        order: place in the lock's queue; lower first.
        execution_id: as in :class:`Claimant`.
        step: as in :class:`Claimant`.
        lease: as in :class:`Claimant`.
        token: fencing token; 0 while the claim waits.
        expires_at: end of a lease, in seconds since the epoch; None for a step.
        at: time of the claim, in seconds since the epoch.
        ttl: seconds that a lease lasts from each renewal; None for a step.

    Raises:
        ValueError: the claimant is not valid, a lease has no end, or a step has one.
    """

    name: str
    order: int
    execution_id: str
    step: int
    lease: str
    token: int
    expires_at: float | None
    at: float
    ttl: float | None = None

    def __post_init__(self) -> None:
        lasts = {self.expires_at is not None, self.ttl is not None}
        if lasts != {bool(self.claimant.lease)}:
            raise ValueError(f"a lease must have expires_at and ttl, a step must have neither: {self}")

    @property
    def claimant(self) -> Claimant:
        """Claimant of the permit."""
        return Claimant(self.execution_id, self.step, self.lease)

    def expired(self, now: float) -> bool:
        """Return whether it is a lease that was not renewed in time."""
        return self.expires_at is not None and self.expires_at < now


@dataclass(frozen=True, slots=True)
class Lock:
    """A stored lock with its claims.

    Args:
        name: name of the lock.
        limit: number of permits.
        last_order: highest order number given so far.
        last_token: highest fencing token given so far.
        claims: held and waiting claims.
    """

    name: str
    limit: int
    last_order: int = 0
    last_token: int = 0
    claims: tuple[Claim, ...] = ()

    @property
    def holders(self) -> tuple[Claim, ...]:
        """Claims that hold a permit, in the order of their grants."""
        return tuple(sorted((claim for claim in self.claims if claim.token), key=lambda claim: claim.token))

    @property
    def waiting(self) -> tuple[Claim, ...]:
        """Waiting claims, the next one first."""
        return tuple(sorted((claim for claim in self.claims if not claim.token), key=lambda claim: claim.order))

    def claim_of(self, claimant: Claimant) -> Claim | None:
        """Return the claimant's claim, or None."""
        return next((claim for claim in self.claims if claim.claimant == claimant), None)


@dataclass(frozen=True, slots=True)
class Change:
    """Change of a lock, to be written to the store.

    Args:
        lock: new state of the lock.
        granted: claims that this change granted, in order.
        removed: claims that this change removed.
    """

    lock: Lock
    granted: tuple[Claim, ...] = ()
    removed: tuple[Claim, ...] = ()


def acquire(
    lock: Lock | None,
    name: str,
    limit: int,
    claimant: Claimant,
    now: float,
    *,
    ttl: float | None = None,
    wait: bool = True,
    token: int = 0,
) -> Change:
    """Claim a permit. An existing claim of the claimant is returned unchanged, and its lease is not renewed.

    A new limit takes effect only if there are no claims apart from expired leases, which are then removed.

    Args:
        lock: the stored lock, or None for an unused name.
        name: name of the lock.
        limit: number of permits.
        claimant: claimant of the permit.
        now: seconds since the epoch.
        ttl: seconds that a lease lasts without renewal, also while it waits; None for a step.
        wait: whether to wait if no permit is free. Otherwise a claim that would have to wait is not kept.
        token: token that this claimant had before its permit was released by something other than its code, such as a
            rewind; 0 for none. If no permit was granted since, the claim is granted with that token again.

    Returns:
        The change; the claim is ``change.lock.claim_of(claimant)``, and waits if it has no token.

    Raises:
        InvalidArgument: the name, limit or ttl is not valid.
        LockPermitsMismatch: the lock is in use with another limit.
        LockUnavailable: no permit is free, and ``wait`` is False.

    Example:
        >>> first, second = Claimant("a", 1), Claimant("b", 4)
        >>> lock = acquire(None, "report", 1, first, now=10.0).lock
        >>> lock = acquire(lock, "report", 1, second, now=11.0).lock
        >>> [(claim.execution_id, claim.token) for claim in lock.claims]
        [('a', 1), ('b', 0)]
        >>> [(claim.execution_id, claim.token) for claim in release(lock, first).granted]
        [('b', 2)]
    """
    _check_terms(name, limit, claimant, ttl)
    lock = Lock(name, limit) if lock is None else lock
    assert lock.name == name
    dropped: tuple[Claim, ...] = ()
    known = lock.claim_of(claimant)
    if lock.limit != limit:
        if not all(claim.expired(now) for claim in lock.claims):
            raise LockPermitsMismatch(name, limit=lock.limit, asked=limit)
        known, dropped, lock = None, lock.claims, replace(lock, limit=limit, claims=())
    if known is not None:
        if not known.token and not wait:
            raise _unavailable(lock)
        return Change(lock)
    order = lock.last_order + 1
    expires_at = None if ttl is None else now + ttl
    mine = Claim(name, order, claimant.execution_id, claimant.step, claimant.lease, 0, expires_at, now, ttl)
    change = expire(replace(lock, last_order=order, claims=(*lock.claims, mine)), now)
    if not wait and all(claim.order != order for claim in change.granted):
        raise _unavailable(change.lock)
    if token and token == lock.last_token and [claim.order for claim in change.granted] == [order]:
        change = _restore_token(change, token)
    return replace(change, removed=dropped + change.removed)


def _restore_token(change: Change, token: int) -> Change:
    """Give the only grant of a change an earlier token."""
    [granted] = change.granted
    claim = replace(granted, token=token)
    claims = tuple(claim if known == granted else known for known in change.lock.claims)
    return replace(change, lock=replace(change.lock, last_token=token, claims=claims), granted=(claim,))


def _check_terms(name: str, limit: int, claimant: Claimant, ttl: float | None) -> None:
    check_name("lock name", name)
    if limit < 1:
        raise InvalidArgument(f"the limit of lock {name!r} must be 1 (a lock) or more (a semaphore), not {limit}")
    if not claimant.lease:
        if ttl is not None:
            raise InvalidArgument(
                f"claim of {claimant} to lock {name!r} has a ttl of {ttl:g} s, but a permit of an execution has none: "
                "it lasts until it is released or the execution ends"
            )
        return
    if ttl is None:
        raise InvalidArgument(f"claim of {claimant} to lock {name!r} needs a ttl, because a script may end at any time")
    _check_ttl(name, ttl)


def _check_ttl(name: str, ttl: float) -> None:
    if not 0 < ttl < math.inf:
        raise InvalidArgument(f"the ttl of a lease of lock {name!r} must be a number of seconds above 0, not {ttl}")


def _unavailable(lock: Lock) -> LockUnavailable:
    return LockUnavailable(lock.name, limit=lock.limit, holders=tuple(str(claim.claimant) for claim in lock.holders))


def release(lock: Lock, claimant: Claimant) -> Change:
    """Remove the claimant's claim, if there is one, and grant its permit to the next waiting claim."""
    return _without(lock, [claim for claim in lock.claims if claim.claimant == claimant])


def release_all(locks: Iterable[Lock], execution_id: str) -> tuple[Change, ...]:
    """Remove all claims of an execution that ends, and return a change for each lock in which it had one."""
    changes = [_without(lock, [c for c in lock.claims if c.execution_id == execution_id]) for lock in locks]
    return tuple(change for change in changes if change.removed)


def expire(lock: Lock, now: float) -> Change:
    """Remove leases that expired while they waited, and grant the permits of expired leases to waiting claims.

    Only as many expired leases lose their permits as claims wait, the earliest expired first. So a lock without waiting
    claims needs no check.
    """
    late = [claim for claim in lock.waiting if claim.expired(now)]
    wanted = len(lock.waiting) - len(late) - (lock.limit - len(lock.holders))
    lapsed = sorted(
        (claim for claim in lock.holders if claim.expired(now)), key=lambda claim: (claim.expires_at, claim.order)
    )
    return _without(lock, [*late, *lapsed[: max(0, wanted)]])


def _without(lock: Lock, gone: Sequence[Claim]) -> Change:
    """Remove claims, and grant the free permits to the claims that have waited longest."""
    orders = {claim.order for claim in gone}
    left = replace(lock, claims=tuple(claim for claim in lock.claims if claim.order not in orders))
    next_ones = left.waiting[: lock.limit - len(left.holders)]
    granted = {claim.order: replace(claim, token=lock.last_token + n) for n, claim in enumerate(next_ones, start=1)}
    claims = tuple(granted.get(claim.order, claim) for claim in left.claims)
    after = replace(left, last_token=lock.last_token + len(granted), claims=claims)
    return Change(after, tuple(granted.values()), tuple(gone))


def renew(lock: Lock, lease: str, now: float, ttl: float) -> Change:
    """Let a held or waiting lease last ``ttl`` seconds from now.

    An expired lease can be renewed until its permit is granted to another claim.

    Raises:
        InvalidArgument: the ttl is not above 0.
        LockLost: the lease no longer has a claim.
    """
    _check_ttl(lock.name, ttl)
    if lock.claim_of(Claimant(lease=lease)) is None:
        raise LockLost(lock.name, lease=lease)
    return _renewed(lock, now, {lease: ttl})


def renew_all(lock: Lock, now: float) -> Change:
    """Renew all leases after a time without a store writer, in which no lease could be renewed.

    Leases that expired before that time are renewed as well, because the two cases cannot be distinguished.
    """
    return _renewed(lock, now, {claim.lease: claim.ttl for claim in lock.claims if claim.ttl is not None})


def _renewed(lock: Lock, now: float, terms: Mapping[str, float]) -> Change:
    claims = tuple(
        replace(claim, expires_at=now + terms[claim.lease], ttl=terms[claim.lease]) if claim.lease in terms else claim
        for claim in lock.claims
    )
    return Change(replace(lock, claims=claims))


def check(lock: Lock, token: int) -> bool:
    """Return whether a fencing token is valid: its permit was neither released nor granted to another claim."""
    return any(claim.token == token for claim in lock.holders)
