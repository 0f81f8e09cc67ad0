"""A stopped store actor: later calls fail, and the store is not opened again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rayflow.errors import StorageUnavailable
from rayflow.runtime.actors.thread_system import ThreadSystem
from rayflow.runtime.store.actor import StoreActor
from rayflow.storage.base import Filter


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flows.db"


def test_a_stopped_store_says_that_it_was_closed(url: str) -> None:
    store = StoreActor(ThreadSystem(), url)
    assert store.executions(Filter()) == []
    store.stop()
    with pytest.raises(StorageUnavailable, match="is closed"):
        store.executions(Filter())


def test_one_that_was_never_opened_is_not_opened_after_its_end(url: str, tmp_path: Path) -> None:
    store = StoreActor(ThreadSystem(), url)
    store.stop()
    with pytest.raises(StorageUnavailable, match="is closed"):
        store.ready()
    assert list(tmp_path.iterdir()) == []


def test_callers_on_other_threads_are_answered_or_told(url: str) -> None:
    store = StoreActor(ThreadSystem(), url)
    store.ready()
    ended: list[object] = []

    def ask() -> None:
        while True:
            try:
                store.totals()
            except StorageUnavailable as error:
                ended.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    store.stop()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(ended) == 8
