"""Leases of scripts: the same locks as the executions', for as long as they are renewed."""

from __future__ import annotations

import pytest

from rayflow.core.locks.machine import Claim, Lock
from rayflow.errors import InvalidArgument, LockLost, LockPermitsMismatch, LockUnavailable, RayflowError
from rayflow.storage.base import Store
from rayflow.storage.operations import Done, ExpireLeases, LeaveLease, Rejected, TakeLease
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    answers,
    append,
    begun,
    claims,
    done,
    end,
    everything,
    lease,
    leave,
    park,
    refused,
    row,
    take,
)


def renewal(who: str = "s", *, at: float = NOW, ttl: float = 30.0) -> TakeLease:
    return lease(who, at=at, ttl=ttl, renew=True)


async def ends(store: Store) -> list[float | None]:
    return [claim.expires_at for lock in await store.locks(["l"]) for claim in lock.claims]


def test_a_free_lock_is_leased_for_its_term(stores: Stores) -> None:
    async def write(store: Store) -> None:
        assert await done(store, lease()) == Done(0, 0, 0, token=1)

    async def read(store: Store) -> None:
        assert await store.locks() == [Lock("l", 1, 1, 1, (Claim("l", 1, "", 0, "s", 1, NOW + 30, NOW, 30.0),))]

    stores.run(write)
    stores.run(read)


def test_one_that_waits_has_no_token_until_the_other_leaves(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, lease("s"))
        assert (await done(store, lease("t"))).token == 0
        assert (await done(store, renewal("t"))).token == 0
        assert await done(store, LeaveLease("l", "s", NOW + 1)) == Done(0, 0, 0)
        assert (await done(store, renewal("t"))).token == 2
        assert (await done(store, lease("t"))).token == 2  # its answer was lost

    stores.run(body)


def test_one_that_is_not_to_wait_is_refused_and_leaves_nothing(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, lease("s"))
        error = await refused(store, lease("t", wait=False), LockUnavailable)
        assert (error.name, error.limit, error.holders) == ("l", 1, ("lease 's'",))
        assert await claims(store) == [("s", 1)]
        await done(store, LeaveLease("l", "s", NOW))
        assert (await done(store, lease("t", wait=False))).token == 2

    stores.run(body)


def test_a_renewal_counts_from_its_own_moment(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, lease("s"), lease("t", ttl=5))
        assert (await done(store, renewal(at=NOW + 20, ttl=40))).token == 1
        assert await ends(store) == [NOW + 60, NOW + 5]
        await done(store, lease("s", at=NOW + 50))  # asking again is no renewal
        assert await ends(store) == [NOW + 60, NOW + 5]

    stores.run(body)


def test_what_was_left_or_lost_cannot_be_renewed(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await refused(store, renewal(), LockLost)
        await done(store, lease(), LeaveLease("l", "s", NOW), LeaveLease("l", "s", NOW))
        await refused(store, renewal(), LockLost)
        await done(store, lease("t"), lease("u"), ExpireLeases(NOW + 31))  # both expired, the one that waits is gone
        await refused(store, renewal("u", at=NOW + 31), LockLost)

    stores.run(body)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (lease("t", limit=2), LockPermitsMismatch),
        (lease("t", ttl=0), InvalidArgument),
        (lease("t", limit=0), InvalidArgument),
        (lease("t", name=""), InvalidArgument),
    ],
    ids=["limit", "ttl", "no permits", "name"],
)
def test_what_cannot_be_leased_is_refused_and_its_neighbours_are_not(
    stores: Stores, asked: TakeLease, error: type[RayflowError]
) -> None:
    async def body(store: Store) -> None:
        first, wrong, second = await store.commit([lease("s"), asked, lease("u")])
        assert isinstance(wrong, Rejected)
        assert type(wrong.error) is error
        assert isinstance(first, Done)
        assert isinstance(second, Done)
        assert await claims(store) == [("s", 1), ("u", 0)]

    stores.run(body)


# --- with executions --------------------------------------------------------------------------------------------
def test_a_script_waits_for_an_execution_and_an_execution_for_a_script(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append(asks=(take(),)), lease("s"), append("y", asks=(take(),)), park("y"))
        assert await claims(store) == [("x", 1), ("s", 0), ("y", 0)]
        assert (await done(store, append(first=2, asks=(leave(),)))).touched == ()
        assert (await done(store, renewal())).token == 2
        assert (await done(store, LeaveLease("l", "s", NOW + 3))).touched == ("y",)
        assert [(told.value, told.at) for told in await answers(store, "y")] == [(3, NOW + 3)]
        assert ((await row(store, "y")).claims, (await row(store, "y")).runnable_at) == (1, NOW + 3)

    stores.run(body)


def test_an_executions_end_passes_a_lock_on_to_a_script(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(asks=(take(),)), lease("s"), end(first=2))
        assert await claims(store) == [("s", 2)]

    stores.run(body)


# --- expiring ---------------------------------------------------------------------------------------------------
def test_an_expired_lease_goes_to_who_waits_and_the_execution_is_told(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, lease("s"), append(asks=(take(),)), park())
        before = await everything(store)
        assert (await done(store, ExpireLeases(NOW + 30))).touched == ()  # it is not over yet
        assert await everything(store) == before
        assert await done(store, ExpireLeases(NOW + 31)) == Done(0, 0, 0, touched=("x",))
        assert [(told.value, told.at) for told in await answers(store)] == [(2, NOW + 31)]
        assert (await claims(store), (await row(store)).runnable_at) == ([("x", 2)], NOW + 31)
        await refused(store, renewal(at=NOW + 32), LockLost)
        assert (await done(store, ExpireLeases(NOW + 99))).touched == ()  # an execution's never expires

    stores.run(body)


def test_an_expired_lease_that_nobody_waits_for_goes_on_and_can_be_renewed(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, lease("s"), ExpireLeases(NOW + 99))
        assert (await done(store, renewal(at=NOW + 100))).token == 1
        assert await ends(store) == [NOW + 130]

    stores.run(body)


def test_whoever_asks_takes_an_expired_lease_at_once(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, lease("s"), append(at=NOW + 31, asks=(take(),)))
        assert (await claims(store), [told.value for told in await answers(store)]) == ([("x", 2)], [2])

    stores.run(body)


def test_leases_of_several_locks_expire_at_once(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, lease("s", name="l"), lease("s", name="m", ttl=90), lease("s", name="n"))
        await done(store, append(asks=(take(1, "l"), take(2, "m"))), append("y", asks=(take(1, "n"),)))
        assert (await done(store, ExpireLeases(NOW + 31))).touched == ("x", "y")
        assert [await claims(store, name) for name in "lmn"] == [[("x", 2)], [("s", 1), ("x", 0)], [("y", 2)]]

    stores.run(body)


def test_a_new_writer_gives_every_lease_a_full_term(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, lease("s"), lease("t", ttl=5), append(asks=(take(),)))
        assert (await done(store, ExpireLeases(NOW + 500, renew=True))).touched == ()
        assert await ends(store) == [NOW + 530, NOW + 505, None]
        assert await claims(store) == [("s", 1), ("t", 0), ("x", 0)]
        assert (await done(store, ExpireLeases(NOW + 531))).touched == ("x",)
        assert await claims(store) == [("x", 2)]

    stores.run(body)
