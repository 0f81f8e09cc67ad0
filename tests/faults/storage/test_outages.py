"""The store fails for a while: executions wait and go on, callers are told, nothing that was acknowledged is lost."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from rayflow.client.engine import watcher_of
from rayflow.errors import StorageUnavailable
from rayflow.runtime.store import actor
from rayflow.storage.base import Store
from rayflow.storage.objects.buckets import FolderBucket
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.sqlite.store import SqliteStore
from tests.faults.storage.flows import chain, due_soon, gated
from tests.faults.storage.waiting import wait_for


class _Statements:
    """SQLite's statements fail as a class of errors does."""

    def __init__(self, what: str, prefixes: tuple[str, ...]) -> None:
        self.what = what
        self._prefixes = prefixes
        self.failing = False
        self.share = 1.0

    def on(self) -> None:
        self.failing = True

    def off(self) -> None:
        self.failing = False

    def check(self, statement: str) -> None:
        if self.failing and statement.startswith(self._prefixes):
            raise sqlite3.OperationalError(self.what)


def _sqlite(switch: _Statements) -> Callable[[str], Store]:
    class Connection(sqlite3.Connection):
        def execute(self, statement: str, parameters: Any = (), /) -> sqlite3.Cursor:
            switch.check(statement)
            return super().execute(statement, parameters)

    class Failing(SqliteStore):
        connection_class = Connection
        busy_timeout = 0.2

    return Failing


class _Folder(FolderBucket):
    """A bucket that fails."""

    def __init__(self, url: str, switch: _Requests) -> None:
        super().__init__(url, sync=False)
        self._switch = switch

    async def _run(self, doing: str, key: str, body: Callable[[], Any]) -> Any:
        self._switch.check(key)

        def checked() -> Any:
            self._switch.check(key)
            return body()

        return await super()._run(doing, key, checked)


class _Requests:
    """Requests of object storage fail: all of them, or one in five."""

    def __init__(self, what: str, share: float) -> None:
        self.what = what
        self.share = share
        self._rng = random.Random(5)
        self.failing = False

    def on(self) -> None:
        self.failing = True

    def off(self) -> None:
        self.failing = False

    def check(self, key: str) -> None:
        if self.failing and self._rng.random() < self.share:
            raise StorageUnavailable(f"cannot write {key}: {self.what}")


KINDS = ("full", "readonly", "io", "locked", "commit", "gone", "one in five")


@pytest.fixture
def trouble(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, Any]]:
    """A store's URL, and the switch of its trouble."""
    kind = request.param
    opened: Callable[[str], Store]
    if kind in ("gone", "one in five"):
        requests = _Requests(os.strerror(errno.ENOSPC), 1.0 if kind == "gone" else 0.2)
        url = f"file://{tmp_path}/store"
        opened = lambda url: ObjectStore(url, bucket=_Folder(url, requests))  # noqa: E731
        switch: Any = requests
    else:
        what = {
            "full": "database or disk is full",
            "readonly": "attempt to write a readonly database",
            "io": "disk I/O error",
            "locked": "database is locked",
            "commit": "database or disk is full",
        }[kind]
        switch = _Statements(what, ("COMMIT",) if kind == "commit" else ("BEGIN", "UPDATE writer"))
        url = f"sqlite:///{tmp_path}/flows.db"
        opened = _sqlite(switch)
    monkeypatch.setattr(actor, "open_store", opened)
    yield url, switch
    switch.off()


def _tried(engine: rf.LocalEngine, seconds: float) -> tuple[list[str], list[str]]:
    """Start and signal for a while; answers the starts that were accepted, and why the others were refused."""
    accepted: list[str] = []
    refused: list[str] = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        name = f"during-{len(refused) + len(accepted)}"
        asked = time.monotonic()
        try:
            engine.start(gated.options(id=name))
        except StorageUnavailable as error:
            refused.append(str(error))
        else:
            accepted.append(name)
        assert time.monotonic() - asked < 10, "it is not refused in time"
        with contextlib.suppress(StorageUnavailable):
            engine.signal("gated", "go", 10, key="once")
        time.sleep(0.05)
    return accepted, refused


@pytest.mark.parametrize("trouble", KINDS, indirect=True)
def test_executions_wait_and_go_on(trouble: tuple[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url, switch = trouble
    ledger = tmp_path / "ledger"
    gone = switch.share == 1.0
    with rf.LocalEngine(url, park_idle_after=0.1) as engine:
        engine.start(gated.options(id="gated"))
        wait_for(lambda: engine.status("gated").parked, "it is parked")
        long = engine.start(chain.options(id="long"), str(ledger), 60)
        timer = engine.start(due_soon.options(id="timer"), 0.6)
        wait_for(lambda: ledger.exists() and len(ledger.read_text().splitlines()) > 5, "it is under way")
        with caplog.at_level(logging.WARNING):
            switch.on()
            accepted, refused = _tried(engine, seconds=2.0)
            at = len(ledger.read_text().splitlines())
            if gone:
                assert len(refused) > 3
                assert not accepted
                time.sleep(0.5)
                assert len(ledger.read_text().splitlines()) == at, "steps begin although nothing can be recorded"
            switch.off()
        assert all(switch.what in told for told in refused)
        lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(lines) < 40, "a flood of lines"
        assert long.result(timeout=30) == 60
        assert timer.result(timeout=30) == "woke 2"
        engine.signal("gated", "go", 10, key="once")
        assert engine.handle("gated").result(timeout=30) == 13
        for name in accepted:
            engine.signal(name, "go", 1)
            assert engine.handle(name).result(timeout=30) == 4
        numbers = [int(line) for line in ledger.read_text().splitlines()]
        assert numbers == list(range(60)), "what was done is done once, in order"


def test_cancel_and_pause_are_refused_and_can_be_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = _Statements("database or disk is full", ("BEGIN",))
    monkeypatch.setattr(actor, "open_store", _sqlite(switch))
    with rf.LocalEngine(f"sqlite:///{tmp_path}/flows.db") as engine:
        handle = engine.start(gated.options(id="gated"))
        wait_for(lambda: handle.status().parked, "it is parked")
        switch.on()
        for ask in (
            handle.cancel,
            handle.pause,
            lambda: handle.signal("go", 1),
            lambda: engine.fork("gated", before=1),
        ):
            with pytest.raises(StorageUnavailable, match=r"disk is full\. Remedy: free some space"):
                ask()
        switch.off()
        handle.pause()
        assert handle.status().status == "paused"
        handle.resume()
        handle.cancel()
        with pytest.raises(rf.ExecutionCancelled):
            handle.result(timeout=30)


def test_reads_that_fail_are_asked_again_without_hurry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits for a result hears of it after the outage, and nobody asks in a busy loop meanwhile."""
    switch = _Statements("disk I/O error", ("SELECT",))
    asked = 0
    check = switch.check

    def counted(statement: str) -> None:
        nonlocal asked
        asked += switch.failing
        check(statement)

    switch.check = counted  # type: ignore[method-assign]
    monkeypatch.setattr(actor, "open_store", _sqlite(switch))
    with rf.LocalEngine(f"sqlite:///{tmp_path}/flows.db") as engine:
        handle = engine.start(due_soon, 0.5)
        watcher_of(engine).future(handle.id)
        switch.on()
        time.sleep(2.0)
        switch.off()
        assert asked < 300
        assert len(caplog.records) < 40
        assert handle.result(timeout=30) == "woke 2"


def test_a_store_that_cannot_be_opened_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails after it was opened (its first write) does not leave connections behind, attempt by attempt."""
    switch = _Statements("database or disk is full", ("COMMIT",))
    opened: list[SqliteStore] = []
    make = _sqlite(switch)

    def noted_store(url: str) -> Store:
        store = make(url)
        assert isinstance(store, SqliteStore)
        opened.append(store)
        return store

    monkeypatch.setattr(actor, "open_store", noted_store)
    monkeypatch.setattr(actor, "FRESH_FOR", 0.1)
    monkeypatch.setattr(actor, "HEARTBEAT", 0.1)
    rf.LocalEngine(f"sqlite:///{tmp_path}/flows.db").close()
    switch.on()
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="free some space"):
            rf.LocalEngine(f"sqlite:///{tmp_path}/flows.db")
    assert all(store._writer is None and store._reader is None for store in opened)
