"""Locks and semaphores: who holds a permit, and who waits for one.

A lock is a semaphore of one. This owns the order of those who wait (first come, first served, by the number that each
claim gets when it is made), the fencing tokens, and what becomes of leases that were not renewed. It owns no clock and
no store: its shell reads a lock, asks, and writes the :class:`Change` that is answered in the same transaction; a
claim of a workflow among those granted is told to its execution by an inbox row in that transaction, too.

* A claim belongs to a step of an execution or to the lease of a script. Claims of executions never expire: they go
  with the execution (:func:`release_all`, in the transaction that ends it). Leases last as long as they are renewed.
* Every grant has a fencing token, a number that rises with every grant of that lock: the lock keeps the last one also
  while nobody holds it. Only who has had the last one, and never let go of it in its own eyes, gets it once more.
* A lease that expired can be taken by whoever asks next, and until then it goes on: it may still be renewed, and its
  token is still good, since nobody holds a newer one. Once it is taken, its token is refused for ever.
* All of them can be asked again: what is there already is answered, what is gone already stays gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rayflow.definition.checks import check_name
from rayflow.errors import DefinitionError, LockLost, LockPermitsMismatch, LockUnavailable


# --- records ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Claimant:
    """Who asks for a permit: a step of an execution, or the lease of a script.

    Args:
        execution_id: whose step it is; "" for a lease.
        step: the number of the step in its execution, from 1; 0 for a lease.
        lease: the lease's id; "" for a step.

    Raises:
        ValueError: it is neither of them, or both.
    """

    execution_id: str = ""
    step: int = 0
    lease: str = ""

    def __post_init__(self) -> None:
        kinds = {bool(self.execution_id), self.step > 0, not self.lease}
        if len(kinds) != 1:
            raise ValueError(
                "a claimant is a step of an execution, from 1, or a lease, not "
                f"{(self.execution_id, self.step, self.lease)}"
            )

    def __str__(self) -> str:
        return f"lease {self.lease!r}" if self.lease else f"execution {self.execution_id!r} (step {self.step})"


@dataclass(frozen=True, slots=True)
class Claim:
    """A permit that somebody holds or waits for.

    Args:
        name: of the lock.
        order: its place in the queue of that lock; lower first.
        execution_id: as in :class:`Claimant`.
        step: as in :class:`Claimant`.
        lease: as in :class:`Claimant`.
        token: its fencing token; 0 as long as it waits.
        expires_at: until when a lease lasts, in seconds since the epoch; None for an execution's step.
        at: when it was made, in seconds since the epoch.
        ttl: seconds that a lease lasts from each renewal; None for an execution's step.

    Raises:
        ValueError: it belongs to nobody or to two, or lasts as the other kind does.
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
            raise ValueError(f"a lease has an end and a ttl, a step has neither: {self}")

    @property
    def claimant(self) -> Claimant:
        """Whose it is."""
        return Claimant(self.execution_id, self.step, self.lease)

    def expired(self, now: float) -> bool:
        """Whether it is a lease that was not renewed in time."""
        return self.expires_at is not None and self.expires_at < now


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock as the store keeps it, with its claims.

    Args:
        name: the lock's name.
        limit: how many permits it has.
        last_order: the highest order number ever given.
        last_token: the highest fencing token ever given.
        claims: those that hold a permit or wait for one.
    """

    name: str
    limit: int
    last_order: int = 0
    last_token: int = 0
    claims: tuple[Claim, ...] = ()

    @property
    def holders(self) -> tuple[Claim, ...]:
        """Claims that have a permit, in the order in which they got it."""
        return tuple(sorted((claim for claim in self.claims if claim.token), key=lambda claim: claim.token))

    @property
    def waiting(self) -> tuple[Claim, ...]:
        """Claims that wait for one, the next one first."""
        return tuple(sorted((claim for claim in self.claims if not claim.token), key=lambda claim: claim.order))

    def claim_of(self, claimant: Claimant) -> Claim | None:
        """Its claim, or None if it has none."""
        return next((claim for claim in self.claims if claim.claimant == claimant), None)


@dataclass(frozen=True, slots=True)
class Change:
    """What a store has to write.

    Args:
        lock: what the lock is from now on.
        granted: claims that got a permit by this, in that order.
        removed: claims that are no more.
    """

    lock: Lock
    granted: tuple[Claim, ...] = ()
    removed: tuple[Claim, ...] = ()


# --- one lock -----------------------------------------------------------------------------------------------------
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
    """Claim a permit. Who has a claim already gets that one, unchanged; its lease is not renewed by that.

    A limit other than the lock's is taken over if nobody has a claim, apart from leases that expired; those are
    removed by it.

    Args:
        lock: as it was read, or None if there is none of that name.
        name: the lock's name.
        limit: how many permits it is to have.
        claimant: who asks.
        now: seconds since the epoch.
        ttl: seconds that a lease lasts without being renewed, also while it waits; None for an execution's step.
        wait: whether to wait for a permit if none is free. Otherwise the claim is not kept if it would have to wait.
        token: the token that this very claimant had until it was given back, without its code having let go of it; 0
            for none. If nobody got a permit since, it is granted again with it.

    Returns:
        The change; the claim is ``change.lock.claim_of(claimant)``, and waits if it is not in ``change.granted``.

    Raises:
        DefinitionError: name, limit or ttl cannot be meant like that.
        LockPermitsMismatch: the lock is in use with another limit.
        LockUnavailable: no permit is free, and it was not to wait.

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
        change = _as_before(change, token)
    return replace(change, removed=dropped + change.removed)


def _as_before(change: Change, token: int) -> Change:
    """The only grant of a change, made under a token that it had before."""
    [granted] = change.granted
    claim = replace(granted, token=token)
    claims = tuple(claim if known == granted else known for known in change.lock.claims)
    return replace(change, lock=replace(change.lock, last_token=token, claims=claims), granted=(claim,))


def _check_terms(name: str, limit: int, claimant: Claimant, ttl: float | None) -> None:
    check_name("lock name", name)
    if limit < 1:
        raise DefinitionError(f"the limit of lock {name!r} must be 1 (a lock) or more (a semaphore), not {limit}")
    if not claimant.lease:
        if ttl is not None:
            raise DefinitionError(
                f"lock {name!r} was asked for by {claimant} with a ttl of {ttl:g} s: what an execution holds has no "
                "ttl, it lasts until it is released or the execution ends"
            )
        return
    if ttl is None:
        raise DefinitionError(f"lock {name!r} was asked for by {claimant} without a ttl: a script may be gone any time")
    _check_ttl(name, ttl)


def _check_ttl(name: str, ttl: float) -> None:
    if not 0 < ttl < math.inf:
        raise DefinitionError(f"the ttl of a lease of lock {name!r} must be a number of seconds above 0, not {ttl}")


def _unavailable(lock: Lock) -> LockUnavailable:
    return LockUnavailable(lock.name, limit=lock.limit, holders=tuple(str(claim.claimant) for claim in lock.holders))


def release(lock: Lock, claimant: Claimant) -> Change:
    """Give a permit back, or stop waiting for one; nothing if there is no claim. The next in the queue gets it."""
    return _without(lock, [claim for claim in lock.claims if claim.claimant == claimant])


def release_all(locks: Iterable[Lock], execution_id: str) -> tuple[Change, ...]:
    """Let go of all that an execution holds or waits for, since it ends.

    Args:
        locks: those in which it may have claims.
        execution_id: the execution's id.

    Returns:
        A change for each lock in which it had a claim.
    """
    changes = [_without(lock, [c for c in lock.claims if c.execution_id == execution_id]) for lock in locks]
    return tuple(change for change in changes if change.removed)


def expire(lock: Lock, now: float) -> Change:
    """Give the permits of expired leases to those who wait, and forget the leases that expired while they waited.

    As many permits as are waited for, the one that expired first before the others. Expired leases that nobody waits
    for stay as they are, so a lock without waiting claims needs no look.
    """
    late = [claim for claim in lock.waiting if claim.expired(now)]
    wanted = len(lock.waiting) - len(late) - (lock.limit - len(lock.holders))
    lapsed = sorted(
        (claim for claim in lock.holders if claim.expired(now)), key=lambda claim: (claim.expires_at, claim.order)
    )
    return _without(lock, [*late, *lapsed[: max(0, wanted)]])


def _without(lock: Lock, gone: Sequence[Claim]) -> Change:
    """What a lock is without some of its claims: the permits that are free go to those who have waited longest."""
    orders = {claim.order for claim in gone}
    left = replace(lock, claims=tuple(claim for claim in lock.claims if claim.order not in orders))
    next_ones = left.waiting[: lock.limit - len(left.holders)]
    granted = {claim.order: replace(claim, token=lock.last_token + n) for n, claim in enumerate(next_ones, start=1)}
    claims = tuple(granted.get(claim.order, claim) for claim in left.claims)
    after = replace(left, last_token=lock.last_token + len(granted), claims=claims)
    return Change(after, tuple(granted.values()), tuple(gone))


def renew(lock: Lock, lease: str, now: float, ttl: float) -> Change:
    """Let a lease last ``ttl`` seconds from now, whether it holds a permit or waits for one.

    One that expired can be renewed as long as its permit was not given to another.

    Raises:
        DefinitionError: the ttl is not above 0.
        LockLost: it has no claim any more.
    """
    _check_ttl(lock.name, ttl)
    if lock.claim_of(Claimant(lease=lease)) is None:
        raise LockLost(lock.name, lease=lease)
    return _renewed(lock, now, {lease: ttl})


def renew_all(lock: Lock, now: float) -> Change:
    """Give every lease a full term from now: after a time in which the store had no writer and none could be renewed.

    Those that expired before that time get one as well: nobody can tell them apart.
    """
    return _renewed(lock, now, {claim.lease: claim.ttl for claim in lock.claims if claim.ttl is not None})


def _renewed(lock: Lock, now: float, terms: Mapping[str, float]) -> Change:
    claims = tuple(
        replace(claim, expires_at=now + terms[claim.lease], ttl=terms[claim.lease]) if claim.lease in terms else claim
        for claim in lock.claims
    )
    return Change(replace(lock, claims=claims))


def check(lock: Lock, token: int) -> bool:
    """Whether a fencing token is good: its permit was neither released nor given to another."""
    return any(claim.token == token for claim in lock.holders)
