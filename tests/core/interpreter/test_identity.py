"""What could be put into a set hashes by a number."""

from __future__ import annotations

from rayflow.core.interpreter.event_loop import DurableFuture, DurableLoop, DurableTimer
from tests.core.fake import Told


def loop() -> DurableLoop:
    return DurableLoop(execution=None, name="e", on_unhandled=Told())  # type: ignore[abstract]


def test_tasks_and_futures_hash_by_one_count() -> None:
    made = loop()

    async def nothing() -> None: ...

    future, task, other = made.create_future(), made.create_task(nothing()), made.create_future()
    assert isinstance(future, DurableFuture)
    assert [hash(future), hash(task), hash(other)] == [1, 2, 3]
    assert future != other
    made.drain()
    made.evict()


def test_timers_have_a_count_of_their_own() -> None:
    made = loop()
    first, second = made.call_later(2, print), made.call_at(1, print)
    assert isinstance(first, DurableTimer)
    assert isinstance(second, DurableTimer)
    assert (first.number, second.number) == (1, 2)
    assert made.next_timer() == (1, 2)
    second.cancel()
    assert made.next_timer() == (2, 1)
    made.evict()
