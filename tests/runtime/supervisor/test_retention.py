"""The retention sweeper works in batches, visits all expired executions, and reclaims space at the end."""

from __future__ import annotations

import pytest

from rayflow.errors import StorageUnavailable
from rayflow.runtime.supervisor.maintenance import BATCH, RetentionSweeper
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter


class Store:
    """Returns scripted answers, and records the calls."""

    def __init__(self, *answers: PurgeBatch | Exception, spare: int = 0) -> None:
        self.answers = list(answers)
        self.spare = spare
        self.asked: list[object] = []

    def __call__(self, method: str, *args: object) -> object:
        self.asked.append(args[0] if args else method)
        if method == "reclaim":
            self.spare -= 1
            return self.spare > 0
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def over(after: tuple[float, str] | None = None, now: float = 9.0) -> PurgeFilter:
    return PurgeFilter(expired_by=now, after=after, limit=BATCH)


def test_where_nothing_has_expired_it_asks_once() -> None:
    store = Store(PurgeBatch(), PurgeBatch())
    collector = RetentionSweeper(store)
    assert not collector.sweep(9.0)
    assert not collector.sweep(10.0)
    assert store.asked == [over(), over(now=10.0)]


def test_it_goes_on_where_it_was_and_then_gives_space_back() -> None:
    store = Store(PurgeBatch(("a",), 5, (1.0, "a")), PurgeBatch((), 0, (2.0, "b")), *[PurgeBatch()] * 3, spare=3)
    collector = RetentionSweeper(store)
    assert [collector.sweep(9.0) for _ in range(5)] == [True, True, True, True, False]
    assert store.asked == [
        over(), over((1.0, "a")), over((2.0, "b")), "reclaim", over(), "reclaim", over(), "reclaim",
    ]  # fmt: skip


def test_a_store_that_cannot_be_asked_is_asked_the_same_again() -> None:
    store = Store(PurgeBatch(("a",), 5, (1.0, "a")), StorageUnavailable("gone"), PurgeBatch(("b",), 5), spare=1)
    collector = RetentionSweeper(store)
    assert collector.sweep(9.0)
    with pytest.raises(StorageUnavailable):
        collector.sweep(9.0)
    assert not collector.sweep(9.0)
    assert store.asked[1:] == [over((1.0, "a")), over((1.0, "a")), "reclaim"]
