"""A store's actor that was stopped: whoever still calls it gets an error, and nothing is opened again."""

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
    persistence = StoreActor(ThreadSystem(), url)
    assert persistence.executions(Filter()) == []
    persistence.stop()
    with pytest.raises(StorageUnavailable, match="is closed"):
        persistence.executions(Filter())


def test_one_that_was_never_opened_is_not_opened_after_its_end(url: str, tmp_path: Path) -> None:
    persistence = StoreActor(ThreadSystem(), url)
    persistence.stop()
    with pytest.raises(StorageUnavailable, match="is closed"):
        persistence.ready()
    assert list(tmp_path.iterdir()) == []


def test_callers_on_other_threads_are_answered_or_told(url: str) -> None:
    persistence = StoreActor(ThreadSystem(), url)
    persistence.ready()
    ended: list[object] = []

    def ask() -> None:
        while True:
            try:
                persistence.totals()
            except StorageUnavailable as error:
                ended.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    persistence.stop()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(ended) == 8
