"""One record of one execution is damaged: it is named, that execution is set aside, and all others go on."""

# ruff: noqa: S608 - statements are put together from this module's own texts

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.cli import main
from rayflow.client.engine import backend_of
from rayflow.errors import CorruptRecord, RayflowError
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.operations import Deliver, Done
from rayflow.storage.rules.starts import signal_row
from rayflow.storage.urls import open_store
from tests.faults.storage.flows import fails, gated
from tests.faults.storage.waiting import wait_for

NAMES = ("one", "two", "three", "four")
PAYLOAD = MsgpackCodec().encode(10)


async def _signalled(url: str) -> None:
    store = open_store(url)
    await store.open()
    await store.claim_writer("test", now=time.time(), fresh_for=0, take_over=True)
    for name in NAMES:
        [answer] = await store.commit([Deliver(name, signal_row("go", PAYLOAD, f"signal/{name}", time.time()))])
        assert isinstance(answer, Done)
    await store.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four executions that wait for a signal, which is in their inboxes, and of all else that there is."""
    file = tmp_path_factory.mktemp("made") / "flows.db"
    with rf.LocalEngine(f"sqlite:///{file}", park_idle_after=0.05) as engine:
        for name in NAMES:
            engine.start(gated.options(id=name))
        wait_for(lambda: all(engine.status(name).parked for name in NAMES), "all are parked")
        with pytest.raises(rf.ExecutionFailed):
            engine.execute(fails.options(id="failed"))
        for name in ("hourly", "daily"):
            engine.schedules.create(name, gated, rf.Schedule(every=3600.0))
        engine.pools.create(rf.PoolConfig(name="other", workers=0))
    asyncio.run(_signalled(f"sqlite:///{file}"))
    return file


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "flows.db"))


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite:///{file}"


def alter(file: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        for statement in statements:
            db.execute(statement)


@pytest.fixture
def open_engine(url: str) -> Iterator[Callable[[], rf.LocalEngine]]:
    engines: list[rf.LocalEngine] = []

    def opened() -> rf.LocalEngine:
        engines.append(rf.LocalEngine(url, park_idle_after=0.05))
        return engines[-1]

    yield opened
    for engine in engines:
        engine.close()


@dataclass(frozen=True)
class Damage:
    """How a record of execution "two" is damaged: what is changed of which table, and what names it."""

    table: str
    change: str
    says: str
    forkable: bool = False

    def apply(self, file: Path) -> None:
        change = self.change if self.change.startswith("DELETE") else f"UPDATE {self.table} SET {self.change}"
        key = {"executions": "id", "starts": "id"}.get(self.table, "execution_id")
        alter(file, f"{change} {'AND' if 'WHERE' in self.change.split(')')[-1] else 'WHERE'} {key} = 'two'")

    @property
    def columns(self) -> str:
        """What a backup has to give back."""
        return "*" if self.change.startswith("DELETE") else self.change.partition(" ")[0]


DAMAGES = {
    "entry flipped": Damage(
        "journal",
        "body = substr(body, 1, 12) || x'FF' || substr(body, 14) WHERE seq = 2",
        "journal entry 2",
        forkable=True,
    ),
    "entry cut off": Damage(
        "journal", "body = substr(body, 1, 4) WHERE seq = 2", "journal entry 2 is cut off", forkable=True
    ),
    "entry zeroed": Damage("journal", "body = zeroblob(length(body)) WHERE seq = 2", "journal entry 2", forkable=True),
    "entry as text": Damage("journal", "body = 'text' WHERE seq = 2", "journal entry 2 is a str", forkable=True),
    "entry of another place": Damage(
        "journal",
        "body = (SELECT j.body FROM journal AS j WHERE j.execution_id = 'two' AND j.seq = 1) WHERE seq = 2",
        "journal entry 2",
        forkable=True,
    ),
    "first entry gone": Damage("journal", "DELETE FROM journal WHERE seq = 1", "journal entry 1 is missing"),
    "last entry gone": Damage(
        "journal", "DELETE FROM journal WHERE seq = 2", "journal entry 2 is missing", forkable=True
    ),
    "journal gone": Damage("journal", "DELETE FROM journal", "journal entries 1 to 2 are missing"),
    "inbox row": Damage("inbox", "body = substr(body, 1, 8) || x'00'", "inbox row 1", forkable=True),
    "options": Damage("starts", "options = CAST('no JSON' AS BLOB)", "options in its row"),
    "code": Damage("starts", "code = x'00'", "code reference in its row"),
    "input": Damage("starts", "input = x'01C1'", "input in its row"),
    "start gone": Damage("starts", "DELETE FROM starts", "column 'input' holds None"),
    "environment": Damage("starts", "environment = '{}'", "code environment in its row"),
    "attributes": Damage("starts", "attributes = '{'", "column 'attributes' holds"),
    "status": Damage("executions", "status = 'runnimg'", "column 'status' holds 'runnimg'"),
    "no text": Damage("executions", "version = CAST(x'FFFE' AS TEXT)", "column 'version' holds b'\\xff\\xfe'"),
    "no number": Damage("executions", "epoch = 'x'", "column 'epoch' holds 'x'"),
}


class Backup:
    """A copy of the store, from which the damaged columns of "two" are restored."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._copy = shutil.copy(file, file.with_name("backup.db"))

    def restore(self, damage: Damage) -> None:
        table, column = damage.table, damage.columns
        key = {"executions": "id", "starts": "id"}.get(table, "execution_id")
        part = {"journal": "seq", "inbox": "number"}.get(table, key)
        with contextlib.closing(sqlite3.connect(self._file)) as db:
            db.execute("ATTACH ? AS backup", (str(self._copy),))
            with db:
                if column == "*":
                    db.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM backup.{table} WHERE {key} = 'two'")
                else:
                    db.execute(
                        f"UPDATE {table} SET {column} = (SELECT b.{column} FROM backup.{table} AS b WHERE"
                        f" b.{key} = 'two' AND b.{part} = {table}.{part})"
                        f" WHERE {key} = 'two' AND {part} IN (SELECT b.{part} FROM backup.{table} AS b"
                        f" WHERE b.{key} = 'two')"
                    )


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_damaged_one_is_set_aside_and_all_others_finish(
    kind: str, file: Path, url: str, open_engine: Callable[[], rf.LocalEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    damage = DAMAGES[kind]
    backup = Backup(file)
    damage.apply(file)
    engine = open_engine()
    for name in NAMES:
        if name != "two":
            assert engine.handle(name).result(timeout=30) == 13
    wait_for(lambda: engine.status("two").status == "paused", "it is set aside")
    wait_for(lambda: not backend_of(engine).record("two").owner, "nobody drives it")
    error = engine.status("two").error
    assert error is not None
    assert error.type == "rayflow.errors.CorruptRecord"
    assert "corrupt record of execution 'two': " in error.message
    assert damage.says in error.message
    assert "backup" in error.message
    assert ("fork it before" in error.message) == damage.forkable
    # Whoever looks sees all, with the reason.
    listed = {one.execution_id: one for one in engine.list()}
    assert set(listed) >= {*NAMES, "failed"}
    assert damage.says in str(listed["two"].error)
    assert main(["list", "--store", url, "--json"]) == 0
    shown = {one["execution_id"]: one for one in json.loads(capsys.readouterr().out)["executions"]}
    assert damage.says in shown["two"]["error"]["message"]
    assert main(["show", "two", "--store", url]) == 0
    assert damage.says in capsys.readouterr().out
    # Resuming says the same, and it is not driven again.
    with pytest.raises(CorruptRecord, match="execution 'two'"):
        engine.resume("two")
    epoch = backend_of(engine).record("two").epoch
    time.sleep(0.3)
    assert backend_of(engine).record("two").epoch == epoch
    # A backup of the record mends it.
    backup.restore(damage)
    with contextlib.suppress(rf.InvalidTransition):
        engine.resume("two")
    assert engine.handle("two").result(timeout=30) == 13


def test_it_is_forked_before_the_damage(file: Path, open_engine: Callable[[], rf.LocalEngine]) -> None:
    alter(file, "UPDATE journal SET body = x'00' WHERE execution_id = 'two' AND seq = 2")
    engine = open_engine()
    with pytest.raises(CorruptRecord, match="fork it before step 1 "):
        engine.fork("two", before=2)
    fork = engine.fork("two", before=1)
    fork.signal("go", 20)
    assert fork.result(timeout=30) == 23


def test_a_damaged_inbox_row_that_arrives_meanwhile_sets_aside(
    file: Path, open_engine: Callable[[], rf.LocalEngine]
) -> None:
    alter(
        file, "DELETE FROM inbox", "UPDATE executions SET inbox_last = 0, runnable_at = NULL WHERE id IN ('one', 'two')"
    )
    engine = open_engine()
    row = signal_row("go", PAYLOAD, "signal/late", time.time())
    damaged = Deliver("two", type(row)(row.key, row.kind, row.body[:-1], row.at))
    backend_of(engine).write([damaged])
    backend_of(engine).notify(["two"])
    engine.signal("one", "go", 1)
    assert engine.handle("one").result(timeout=30) == 4
    wait_for(lambda: engine.status("two").status == "paused", "it is set aside")
    assert "inbox row 1" in str(engine.status("two").error)


LOOKS = (
    ["list"], ["show", "failed"], ["dlq", "list"], ["dlq", "show", "failed", "1"], ["schedule", "list"],
    ["schedule", "show", "daily"], ["lock", "list"], ["workflows"], ["tasks", "one", "--local"],
)  # fmt: skip


def test_lists_do_not_fail_because_of_one_record(
    file: Path, url: str, open_engine: Callable[[], rf.LocalEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    alter(
        file,
        "UPDATE executions SET failure = x'01' WHERE id = 'failed'",
        "UPDATE dead_letters SET failure = x'00', input = x'01C1'",
        "UPDATE schedules SET state = 'x' WHERE name = 'daily'",
        "UPDATE pools SET config = '{' WHERE name = 'other'",
        "UPDATE definitions SET code = '?' WHERE workflow_id = (SELECT max(workflow_id) FROM definitions)",
        "INSERT INTO locks VALUES ('broken', 'x', 1, 1), ('sound', 1, 1, 1)",
        "INSERT INTO lock_claims VALUES ('broken', 1, 'x', 1, '', 1, NULL, 1.0, NULL)",
        "INSERT INTO lock_claims VALUES ('sound', 1, 'x', 1, '', 1, NULL, 1.0, NULL)",
    )
    engine = open_engine()
    for name in NAMES:
        assert engine.handle(name).result(timeout=30) == 13
    assert "failure is cut off" in str(engine.status("failed").error)
    with pytest.raises(rf.ExecutionFailed, match="failure is cut off"):
        engine.handle("failed").result(timeout=5)
    [letter] = engine.dead_letters.list()
    assert "dead letter of step 1" in letter.error.message
    assert "damaged" in str(letter.args)
    hourly = {one.name: one for one in engine.schedules.list()}
    assert hourly["hourly"].damage == ""
    assert "schedule 'daily'" in hourly["daily"].damage
    pools = {one.name: one.problem for one in engine.pools.list()}
    assert pools["default"] == ""
    assert "pool 'other'" in pools["other"]
    assert [lock.name for lock in engine.locks.list()] == ["sound"]
    assert len(engine.workflows()) == 2
    for words in LOOKS:
        assert main([*words, "--store", url]) == 0, words
    capsys.readouterr()
    # What is made anew is whole again.
    engine.schedules.create("daily", gated, rf.Schedule(every=3600.0), replace=True)
    assert engine.schedules.get("daily").damage == ""
    engine.pools.create(rf.PoolConfig(name="other", workers=0))
    assert engine.pools.get("other").status().problem == ""


def test_a_damaged_lock_refuses_only_those_who_want_it(file: Path, open_engine: Callable[[], rf.LocalEngine]) -> None:
    alter(
        file,
        "INSERT INTO locks VALUES ('broken', 'x', 1, 1)",
        "INSERT INTO lock_claims VALUES ('broken', 1, 'x', 1, '', 1, NULL, 1.0, NULL)",
    )
    engine = open_engine()
    with pytest.raises(CorruptRecord, match="lock 'broken'"):
        engine.lock("broken", timeout=0).acquire()
    with engine.lock("another", timeout=0):
        assert engine.handle("one").result(timeout=30) == 13


@pytest.mark.parametrize("seed", range(16))
def test_a_byte_is_flipped_somewhere(seed: int, file: Path, url: str) -> None:
    """All that is told is right, and what is not right is told: by rayflow, or else by SQLite, if it is asked.

    A byte of an index may hide an execution from who looks for what is to be driven; no checksum of ours is there.
    """
    rng = random.Random(seed)
    data = bytearray(file.read_bytes())
    used = [index for index, byte in enumerate(data) if byte]
    for index in rng.sample(used, 3):
        data[index] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    try:
        engine = rf.LocalEngine(url, park_idle_after=0.05)
    except RayflowError as error:
        refused = error
    else:
        try:
            for name in NAMES:
                assert _is_right_or_told(engine, name) or not _is_whole(file), f"{name} neither ends nor is set aside"
        finally:
            engine.close()
        return
    assert str(file) in str(refused)


def _is_right_or_told(engine: rf.LocalEngine, name: str) -> bool:
    give_up = time.monotonic() + 15
    while time.monotonic() < give_up:
        try:
            snapshot = engine.status(name)
            if snapshot.status.terminal:
                assert engine.handle(name).result(timeout=1) == 13
                return True
        except (rf.ExecutionNotFound, rf.CorruptRecord, rf.StorageUnavailable):  # so it is told
            return True
        if snapshot.status == "paused":
            assert snapshot.error is not None
            return True
        time.sleep(0.02)
    return False


def _is_whole(file: Path) -> bool:
    """What SQLite says of its file."""
    with contextlib.closing(sqlite3.connect(file)) as db:
        try:
            return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        except sqlite3.DatabaseError:
            return False
