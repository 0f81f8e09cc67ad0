"""Locks and semaphores: who gets a permit, what becomes of leases, and which requests are refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from rayflow.core.locks.machine import (
    Change,
    Claim,
    Claimant,
    Lock,
    acquire,
    check,
    expire,
    release,
    release_all,
    renew,
    renew_all,
)
from rayflow.errors import InvalidArgument, LockLost, LockPermitsMismatch, LockUnavailable

E1, E2, E3 = Claimant("e1", 1), Claimant("e2", 5), Claimant("e3", 2)
L1, L2, L3 = Claimant(lease="l1"), Claimant(lease="l2"), Claimant(lease="l3")


def made(*claimants: Claimant, limit: int = 1, at: float = 100.0, ttl: float = 10.0) -> Lock:
    """A lock after these asked for it one after the other, all at the same time."""
    lock = Lock("x", limit)
    for claimant in claimants:
        lock = acquire(lock, "x", limit, claimant, at, ttl=ttl if claimant.lease else None).lock
    return lock


def names(claims: tuple[Claim, ...]) -> list[str]:
    return [claim.execution_id or claim.lease for claim in claims]


def tokens(lock: Lock) -> dict[str, int]:
    return {claim.execution_id or claim.lease: claim.token for claim in lock.claims}


# --- getting a permit -----------------------------------------------------------------------------------------
def test_the_first_gets_the_lock_and_the_others_wait_in_their_order() -> None:
    lock = made(E1, E2, L1, E3)
    assert tokens(lock) == {"e1": 1, "e2": 0, "l1": 0, "e3": 0}
    assert (names(lock.holders), names(lock.waiting)) == (["e1"], ["e2", "l1", "e3"])
    assert (lock.last_order, lock.last_token) == (4, 1)


def test_a_claim_keeps_all_that_is_known_of_it() -> None:
    change = acquire(None, "x", 1, E1, 100.0)
    assert change.granted == (Claim("x", 1, "e1", 1, "", 1, None, 100.0),)
    assert change.lock.claims == change.granted
    change = acquire(change.lock, "x", 1, L1, 101.0, ttl=7.5)
    assert change.granted == ()
    assert change.lock.claim_of(L1) == Claim("x", 2, "", 0, "l1", 0, 108.5, 101.0, 7.5)


def test_a_semaphore_has_as_many_holders_as_permits() -> None:
    lock = made(E1, E2, E3, L1, limit=3)
    assert tokens(lock) == {"e1": 1, "e2": 2, "e3": 3, "l1": 0}


def test_two_steps_of_an_execution_have_a_claim_each() -> None:
    lock = made(E1, Claimant("e1", 2))
    assert [(claim.step, claim.token) for claim in lock.claims] == [(1, 1), (2, 0)]


@pytest.mark.parametrize("who", [E1, E2, L1])
def test_asking_again_changes_nothing(who: Claimant) -> None:
    lock = made(E1, E2, L1)
    assert acquire(lock, "x", 1, who, 105.0, ttl=99.0 if who.lease else None) == Change(lock)


def test_asking_again_for_an_expired_lease_that_nobody_took_does_not_renew_it() -> None:
    lock = made(L1)
    change = acquire(lock, "x", 1, L1, 200.0, ttl=10.0)
    assert change == Change(lock)
    assert change.lock.claims[0].expires_at == 110.0


def test_not_to_wait_gets_a_free_permit_and_nothing_else() -> None:
    lock = made(E1, L1, limit=2)
    with pytest.raises(LockUnavailable) as caught:
        acquire(lock, "x", 2, E2, 100.0, wait=False)
    assert caught.value.holders == ("execution 'e1' (step 1)", "lease 'l1'")
    assert str(caught.value) == (
        "lock 'x' is not free: all its 2 permits are held by execution 'e1' (step 1), lease 'l1'. Try again later, "
        "or wait for it"
    )
    change = acquire(release(lock, E1).lock, "x", 2, E2, 100.0, wait=False)
    assert (names(change.granted), change.granted[0].token) == (["e2"], 3)


def test_not_to_wait_again_is_answered_by_what_is_there() -> None:
    lock = made(E1, E2)
    assert acquire(lock, "x", 1, E1, 100.0, wait=False) == Change(lock)
    with pytest.raises(LockUnavailable, match=r"it is held by execution 'e1'"):
        acquire(lock, "x", 1, E2, 100.0, wait=False)


def test_whoever_does_not_wait_never_overtakes_those_who_do() -> None:
    lock = made(L1, E2, ttl=10.0)
    with pytest.raises(LockUnavailable) as caught:
        acquire(lock, "x", 1, E3, 111.0, wait=False)
    assert caught.value.holders == ("execution 'e2' (step 5)",)


# --- giving it back -------------------------------------------------------------------------------------------
def test_a_released_lock_goes_to_the_next_with_a_higher_token() -> None:
    lock = made(E1, E2, E3)
    change = release(lock, E1)
    assert (names(change.removed), names(change.granted)) == (["e1"], ["e2"])
    assert tokens(change.lock) == {"e2": 2, "e3": 0}
    change = release(change.lock, E2)
    assert tokens(change.lock) == {"e3": 3}


def test_one_that_stops_waiting_leaves_the_queue() -> None:
    change = release(made(E1, E2, E3), E2)
    assert (names(change.removed), names(change.granted)) == (["e2"], [])
    assert tokens(release(change.lock, E1).lock) == {"e3": 2}


def test_releasing_what_is_not_there_changes_nothing() -> None:
    lock = made(E1, E2)
    for stranger in (E3, L1, Claimant("e1", 2)):
        assert release(lock, stranger) == Change(lock)


def test_tokens_and_orders_go_on_rising_while_nobody_holds_the_lock() -> None:
    lock = release(made(E1), E1).lock
    assert lock == Lock("x", 1, last_order=1, last_token=1)
    assert acquire(lock, "x", 1, E1, 100.0).granted == (Claim("x", 2, "e1", 1, "", 2, None, 100.0),)


def test_the_queue_does_not_depend_on_the_order_in_which_rows_were_read() -> None:
    lock = made(E1, E2, E3, limit=2)
    mixed = Lock("x", 2, lock.last_order, lock.last_token, lock.claims[::-1])
    assert (names(mixed.holders), names(mixed.waiting)) == (["e1", "e2"], ["e3"])
    one = made(E1, E2, L1, E3)
    mixed = Lock("x", 1, one.last_order, one.last_token, one.claims[::-1])
    assert names(release(mixed, E1).granted) == ["e2"]


def test_an_execution_that_ends_lets_go_of_everything() -> None:
    held = made(E1, Claimant("e1", 4), E2)
    waited = made(E3, E1, limit=1)
    changes = release_all([held, waited, made(E2, L1)], "e1")
    assert [names(change.removed) for change in changes] == [["e1", "e1"], ["e1"]]
    assert [tokens(change.lock) for change in changes] == [{"e2": 2}, {"e3": 1}]
    assert release_all([change.lock for change in changes], "e1") == ()


# --- leases ---------------------------------------------------------------------------------------------------
def test_the_permit_of_an_expired_lease_goes_to_the_next() -> None:
    lock = made(L1, E1, L2)
    assert expire(lock, 110.0) == Change(lock)
    change = expire(lock, 110.1)
    assert (names(change.removed), names(change.granted)) == (["l2", "l1"], ["e1"])
    assert tokens(change.lock) == {"e1": 2}
    assert not check(change.lock, 1)
    with pytest.raises(LockLost):
        renew(change.lock, "l1", 110.2, 10.0)


def test_whoever_asks_takes_the_permit_of_an_expired_lease_also_without_waiting() -> None:
    change = acquire(made(L1, E1, limit=2), "x", 2, E2, 111.0, wait=False)
    assert (names(change.removed), names(change.granted)) == (["l1"], ["e2"])
    assert tokens(change.lock) == {"e1": 2, "e2": 3}


def test_an_expired_lease_that_nobody_took_may_be_renewed_and_its_token_is_good() -> None:
    lock = expire(made(L1), 200.0).lock
    assert tokens(lock) == {"l1": 1}
    assert check(lock, 1)
    lock = renew(lock, "l1", 200.0, 5.0).lock
    assert lock.claims == (Claim("x", 1, "", 0, "l1", 1, 205.0, 100.0, 5.0),)
    waited_for = acquire(lock, "x", 1, E1, 204.0).lock
    assert tokens(expire(waited_for, 205.0).lock) == {"l1": 1, "e1": 0}


def test_only_as_many_expired_leases_go_as_are_waited_for_the_longest_expired_first() -> None:
    lock = made(L1, L2, L3, E1, limit=3)
    lock = renew(lock, "l1", 105.0, 10.0).lock
    change = expire(lock, 150.0)
    assert (names(change.removed), names(change.granted)) == (["l2"], ["e1"])
    assert tokens(change.lock) == {"l1": 1, "l3": 3, "e1": 4}
    change = acquire(change.lock, "x", 3, E2, 150.0)
    assert tokens(change.lock) == {"l1": 1, "e1": 4, "e2": 5}


def test_of_leases_that_expired_together_the_one_that_asked_first_goes_first() -> None:
    change = expire(made(L2, L1, E1, limit=2), 150.0)
    assert (names(change.removed), tokens(change.lock)) == (["l2"], {"l1": 2, "e1": 3})


def test_a_lease_that_expires_while_it_waits_is_forgotten_and_may_be_renewed_before() -> None:
    lock = made(E1, L1, E2)
    assert tokens(expire(renew(lock, "l1", 109.0, 10.0).lock, 115.0).lock) == {"e1": 1, "l1": 0, "e2": 0}
    change = expire(lock, 115.0)
    assert (names(change.removed), tokens(change.lock)) == (["l1"], {"e1": 1, "e2": 0})
    with pytest.raises(LockLost) as caught:
        renew(change.lock, "l1", 115.0, 10.0)
    assert (caught.value.name, caught.value.lease) == ("x", "l1")


def test_an_expired_lease_does_not_leave_its_permit_to_one_that_expired_too() -> None:
    lock = made(L1, L2)
    change = expire(lock, 150.0)
    assert (names(change.removed), tokens(change.lock)) == (["l2"], {"l1": 1})


def test_claims_of_executions_never_expire() -> None:
    lock = made(E1, E2)
    assert expire(lock, 1e12) == Change(lock)


def test_a_released_lease_cannot_be_renewed() -> None:
    lock = release(made(L1, L2), L1).lock
    with pytest.raises(LockLost, match=r"lease 'l1' of lock 'x' has ended"):
        renew(lock, "l1", 101.0, 10.0)
    assert tokens(renew(lock, "l2", 101.0, 10.0).lock) == {"l2": 2}


def test_after_a_time_without_a_writer_every_lease_has_a_full_term() -> None:
    lock = made(L1, E1, L2, ttl=10.0)
    lock = renew(lock, "l2", 105.0, 60.0).lock
    lock = renew_all(lock, 500.0).lock
    assert [claim.expires_at for claim in lock.claims] == [510.0, None, 560.0]
    assert expire(lock, 510.0) == Change(lock)


# --- tokens ---------------------------------------------------------------------------------------------------
def test_a_token_is_good_as_long_as_its_permit_is_held() -> None:
    lock = made(E1, E2, L1, limit=2)
    assert [check(lock, token) for token in (0, 1, 2, 3)] == [False, True, True, False]
    lock = release(lock, E1).lock
    assert [check(lock, token) for token in (0, 1, 2, 3)] == [False, False, True, True]


# --- limits ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("who", [E1, E2, E3])
def test_another_limit_is_refused_while_there_are_claims(who: Claimant) -> None:
    lock = made(E1, E2)
    with pytest.raises(LockPermitsMismatch) as caught:
        acquire(lock, "x", 3, who, 100.0)
    assert (caught.value.limit, caught.value.asked) == (1, 3)
    assert "with the same limit everywhere" in str(caught.value)


def test_another_limit_is_taken_over_when_there_are_none() -> None:
    lock = release(made(E1), E1).lock
    change = acquire(lock, "x", 2, E2, 100.0)
    assert change.lock == Lock("x", 2, 2, 2, change.granted)
    assert acquire(change.lock, "x", 2, E3, 100.0).granted[0].token == 3


def test_expired_leases_do_not_hold_up_another_limit() -> None:
    lock = made(L1, L2, L3, limit=2)
    with pytest.raises(LockPermitsMismatch):
        acquire(lock, "x", 1, L2, 110.0, ttl=1.0)
    change = acquire(lock, "x", 1, L2, 110.1, ttl=1.0)
    assert (names(change.removed), names(change.granted)) == (["l1", "l2", "l3"], ["l2"])
    assert tokens(change.lock) == {"l2": 3}


# --- what cannot be meant -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: acquire(None, "", 1, E1, 0.0), "lock name must not be empty"),
        (lambda: acquire(None, "x", 0, E1, 0.0), "limit of lock 'x' must be 1"),
        (lambda: acquire(None, "x", 1, E1, 0.0, ttl=3.0), r"has a ttl of 3 s, but a permit of an execution has none"),
        (lambda: acquire(None, "x", 1, L1, 0.0), "claim of lease 'l1' to lock 'x' needs a ttl"),
        (lambda: acquire(None, "x", 1, L1, 0.0, ttl=0.0), "above 0, not 0.0"),
        (lambda: acquire(None, "x", 1, L1, 0.0, ttl=math.inf), "above 0, not inf"),
        (lambda: acquire(None, "x", 1, L1, 0.0, ttl=math.nan), "above 0, not nan"),
        (lambda: renew(made(L1), "l1", 0.0, -1.0), "above 0, not -1.0"),
    ],
)
def test_terms_that_cannot_be_meant_are_refused(ask: Callable[[], Change], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        ask()


@pytest.mark.parametrize(
    ("execution", "step", "lease"), [("", 0, ""), ("e", 0, ""), ("", 3, ""), ("e", 1, "l"), ("", 1, "l"), ("e", 0, "l")]
)
def test_a_claimant_is_a_step_or_a_lease(execution: str, step: int, lease: str) -> None:
    with pytest.raises(ValueError, match="a step of an execution, from 1, or a lease"):
        Claimant(execution, step, lease)
    with pytest.raises(ValueError, match="a step of an execution, from 1, or a lease"):
        Claim("x", 1, execution, step, lease, 0, None, 0.0)


@pytest.mark.parametrize(
    ("claimant", "expires_at", "ttl"), [(E1, 5.0, None), (E1, None, 5.0), (L1, None, 5.0), (L1, 5.0, None)]
)
def test_only_a_lease_has_an_end(claimant: Claimant, expires_at: float | None, ttl: float | None) -> None:
    with pytest.raises(ValueError, match="a lease must have expires_at and ttl, a step must have neither"):
        Claim("x", 1, claimant.execution_id, claimant.step, claimant.lease, 0, expires_at, 0.0, ttl)


# --- those that go on -----------------------------------------------------------------------------------------
def test_who_had_the_last_token_and_goes_on_has_it_again() -> None:
    lock = release(made(E1), E1).lock
    change = acquire(lock, "x", 1, E1, 200.0, token=1)
    assert change.granted == (Claim("x", 2, "e1", 1, "", 1, None, 200.0),)
    assert (change.lock.last_token, change.lock.claims) == (1, change.granted)
    assert tokens(acquire(release(change.lock, E1).lock, "x", 1, E2, 300.0).lock) == {"e2": 2}


def test_whoever_had_it_in_between_has_made_that_token_old() -> None:
    between = acquire(release(made(E1), E1).lock, "x", 1, E2, 150.0).lock
    waiting = acquire(between, "x", 1, E1, 200.0, token=1).lock
    assert tokens(waiting) == {"e2": 2, "e1": 0}
    assert tokens(release(waiting, E2).lock) == {"e1": 3}
    assert tokens(acquire(release(between, E2).lock, "x", 1, E1, 200.0, token=1).lock) == {"e1": 3}


def test_of_two_permits_that_go_on_none_is_taken_for_the_other() -> None:
    both = made(E1, E2, limit=2)
    lock = release(release(both, E1).lock, E2).lock
    lock = acquire(lock, "x", 2, E1, 200.0, token=1).lock
    assert tokens(acquire(lock, "x", 2, E2, 200.0, token=2).lock) == {"e1": 3, "e2": 4}
