"""Lists of what is stuck and of what runs which version; and what deletion leaves behind."""

from __future__ import annotations

from dataclasses import replace

from rayflow.core.execution.requests import WaitsFor
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.model import StepNote
from rayflow.storage.operations import LeaveLease, Park
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    answers,
    append,
    begun,
    claim,
    claims,
    delete,
    deliver,
    done,
    end,
    end_child,
    everything,
    fail,
    lease,
    note,
    park,
    rewind,
    row,
    schedule,
    send,
    start,
    start_child,
    take,
)

LOCK, CHILD = WaitsFor(locks=("l",)).to_text(), WaitsFor(children=("c",)).to_text()
SIGNAL = WaitsFor((("go", ""),), locks=("l",)).to_text()


def wait(name: str, waits: str | None, *, until: float | None = None) -> Park:
    return replace(park(name, until=until), waits=waits)


# --- what is stuck ----------------------------------------------------------------------------------------------
def test_who_waits_for_others_alone_is_listed_as_stuck(stores: Stores) -> None:
    async def write(store: Store) -> None:
        names = ("lock", "child", "signal", "nothing", "timer", "owned", "over", "woken")
        await begun(store, *names)
        await done(
            store,
            wait("lock", LOCK),
            wait("child", CHILD),
            wait("signal", SIGNAL),
            wait("nothing", ""),
            wait("timer", LOCK, until=NOW + 60),
            append("owned", waits=LOCK),
            append("over", waits=LOCK),
            end("over", first=2),
            wait("woken", LOCK),
            deliver("woken"),
        )

    async def read(store: Store) -> None:
        stuck = await store.executions(Filter(stuck=True))
        assert [(found.id, found.waits) for found in stuck] == [("child", CHILD), ("lock", LOCK)]
        assert [found.id for found in await store.executions(Filter(stuck=True, limit=1))] == ["child"]

    stores.run(write)
    stores.run(read)


def test_what_it_waits_for_is_said_anew_or_left(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(waits=SIGNAL), append(first=2))
        assert (await row(store)).waits == SIGNAL
        await done(store, wait("x", LOCK), claim(expected=1), append(first=3, epoch=2), park(epoch=2))
        assert (await row(store)).waits == LOCK
        await done(store, claim(expected=2), fail("x", 1, first=4, epoch=3))
        assert await store.executions(Filter(stuck=True)) == []
        await done(store, rewind(expected=3, last_seq=4))
        assert (await row(store)).waits == ""

    stores.run(body)


# --- versions ---------------------------------------------------------------------------------------------------
def test_versions_count_their_unfinished_executions(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await done(store, start("a", version="2"), start("b", version="10"), start("c", version="2"), start("d"))
        await done(store, start("v", workflow_id="v"), claim("d"), end("d"))
        await done(store, claim("c"), append("c", status=ExecutionStatus.PAUSED, asks=(start_child(parent="c"),)))

    async def read(store: Store) -> None:
        assert await store.versions() == [("child", "1", 1), ("v", "1", 1), ("w", "10", 1), ("w", "2", 2)]
        await done(store, *(claim(name, expected=name == "c") for name in ("a", "c", "x.1")))
        await done(store, end("a"), end("c", first=2, epoch=2), fail("x.1", 1), rewind("x.1"))
        assert await store.versions() == [("child", "1", 1), ("v", "1", 1), ("w", "10", 1)]

    stores.run(write)
    stores.run(read)


# --- deletion ---------------------------------------------------------------------------------------------------
async def live_through_everything(store: Store, name: str = "x") -> None:
    """An execution that leaves something in each part of the store, and then fails."""
    await done(store, start(name, singleton="one", schedule="nightly"), claim(name), deliver(name, "before"))
    asks = (take(1), take(2, "m"), start_child(f"{name}.3", parent=name, step=3), send("other", f"of {name}"))
    await done(store, append(name, asks=asks, inbox_done=1), note(name, StepNote(4, 1, NOW, "progress", b"half")))
    await done(store, lease("script"), deliver(name, "late"), fail(name, 4, first=2))


def test_deletion_leaves_nothing_behind(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "other")
        await store.save_schedule(schedule())
        await live_through_everything(store)
        assert await delete(store, "x") == 1
        assert (await store.execution("x"), await store.journal("x"), await store.inbox("x")) == (None, [], [])
        assert (await store.notes("x"), await store.dead_letters()) == ([], [])
        assert [found.id for found in await store.executions(Filter())] == ["x.3", "other"]
        assert await store.executions(Filter(schedule="nightly")) == []
        assert (await claims(store), await claims(store, "m")) == ([("script", 2)], [])
        assert [lock.name for lock in await store.locks()] == ["l"]

    stores.run(body)


def test_what_others_have_of_it_stays(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "other")
        await live_through_everything(store)
        await delete(store, "x")
        assert [r.key for r in await store.inbox("other")] == ["of x"]
        assert [found.id for found in await store.executions(Filter(parent="x"))] == ["x.3"]
        assert (await store.totals())["executions_started"] == 3
        await done(store, claim("x.3"), end_child("x.3"))  # it is told to nobody

    stores.run(body)


def test_a_deleted_id_lives_through_everything_once_more(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "other")
        await live_through_everything(store)
        first = await everything(store)
        await done(store, claim("x.3"), end("x.3"), LeaveLease("l", "script", NOW))
        assert await delete(store, "x", "x.3") == 1  # the run that called it might have needed it
        assert await delete(store, "x.3") == 1
        await live_through_everything(store)
        assert len(await everything(store)) == len(first)
        again = await row(store)
        assert (again.epoch, again.last_seq, again.inbox_last, again.inbox_done, again.claims) == (1, 2, 4, 1, 0)
        assert [found.step for found in await store.dead_letters()] == [4]
        assert [r.key for r in await store.inbox("x")] == ["lock/l/3", "lock/m/2", "late"]

    stores.run(body)


def test_a_claim_of_a_deleted_id_is_not_its_successors(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        await done(store, append("y", asks=(take(),)), append(asks=(take(),)), end(first=2))
        await delete(store, "x")
        await begun(store, "x")
        await done(store, end("y", first=2))
        assert (await claims(store), await answers(store), (await row(store)).claims) == ([], [], 0)

    stores.run(body)
