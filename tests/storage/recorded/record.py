"""Records stores as this rayflow writes them, with one of everything in them: see README.md beside this file."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.definition.code import PYTHON
from rayflow.ids import ExecutionStatus
from rayflow.runtime.code.environment import Environment
from rayflow.storage.objects.store import ObjectStore
from tests.storage.recorded import flows

#: What the clock shows when a recording begins: long ago, so that all that is parked is due when it is read.
BEGIN = 1_767_225_600.0  # 2026-01-01

#: Where the code of recorded executions is said to be. Nothing is looked for there: tests can import it.
SOMEWHERE = Environment(("/srv/flows",), python=PYTHON)

#: Where stores are while they are recorded: a writer's name in them says so.
PLACE = Path("/srv/flows")


def main(folder: Path) -> None:
    """Record a SQLite file and a folder of objects into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    PLACE.mkdir()
    try:
        for url in (f"sqlite:///{PLACE / 'store.db'}", f"file://{PLACE / 'objects'}"):
            environ = {**os.environ, flows.HELD: str(PLACE / f"held.{url[:4]}")}
            subprocess.run([sys.executable, "-m", __spec__.name, "--within", url], check=True, env=environ)
        with closing(sqlite3.connect(PLACE / "store.db")) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (folder / "store.db.gz").write_bytes(gzip.compress((PLACE / "store.db").read_bytes(), mtime=0))
        (folder / "objects.tar.gz").write_bytes(gzip.compress(_packed(PLACE / "objects"), mtime=0))
    finally:
        shutil.rmtree(PLACE)


def _packed(root: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(each for each in root.rglob("*") if each.is_file()):
            info = tarfile.TarInfo(str(path.relative_to(root)))
            info.size = path.stat().st_size
            archive.addfile(info, io.BytesIO(path.read_bytes()))
    return packed.getvalue()


# --- within -------------------------------------------------------------------------------------------------
def _record(url: str) -> None:
    """Run one of everything, and end in the middle of it, as if killed."""
    _set_clock_back()
    ObjectStore.checkpoint_segments = 40
    engine = rf.LocalEngine(url, park_idle_after=0.05)
    engine._environment = SOMEWHERE
    over(engine)
    under_way(engine)
    os._exit(0)


def _set_clock_back() -> None:
    real, began = time.time, time.time()
    time.time = lambda: real() - began + BEGIN


def over(engine: rf.LocalEngine) -> None:
    """Executions that have ended."""
    engine.execute(flows.chain.options(id="completed"), "a", "b")
    engine.execute(flows.declared.options(id="declared"), {"number": 21})
    engine.execute(flows.by_value("number").options(id="by-value"), 7)
    engine.fork("completed", before=2, id="forked", allow_reacquire=True).result(30)
    engine.start(flows.failing.options(id="failed"), "a")
    until(lambda: backend_of(engine).record("failed").status.terminal)
    engine.start(flows.waiting.options(id="cancelled"), "never")
    parked(engine, "cancelled")
    engine.cancel("cancelled", reason="nobody needs it")
    until(lambda: backend_of(engine).record("cancelled").status.terminal)
    engine.pools.create(rf.PoolConfig(name="small", workers=1, concurrency=1))
    plan = rf.Schedule(every=3600, end_at=BEGIN + 86_400)
    engine.schedules.create("hourly", flows.chain.call("c", "d"), plan)
    engine.schedules.trigger("hourly").result(30)


def under_way(engine: rf.LocalEngine) -> None:
    """Executions that have not."""
    engine.start(flows.waiting.options(id="paused"), "go")
    parked(engine, "paused")
    engine.pause("paused")
    engine.signal("paused", "go", {"kept": [1, 2]})
    engine.start(flows.sleeping.options(id="sleeping"), 60.0)
    engine.start(flows.parent.options(id="parent"), "go")
    engine.start(flows.locking.options(id="holder"), "ledger", "go")
    engine.start(flows.looping.options(id="looping"), 1)
    for name in ("sleeping", "parent", "holder", "looping"):
        parked(engine, name)
    engine.start(flows.locking.options(id="queued"), "ledger", "go")
    parked(engine, "queued")
    engine.start(flows.chain.options(id="delayed", delay=60.0, singleton="only"), "e", "f")
    engine.lock("lease").__enter__()
    engine.start(flows.holding.options(id="held"), "half")
    until(lambda: Path(os.environ[flows.HELD]).exists())
    until(lambda: bool(backend_of(engine).notes("held")))


def parked(engine: rf.LocalEngine, name: str) -> None:
    """Wait until nobody drives the execution."""

    def resting() -> bool:
        record = backend_of(engine).record(name)
        return record.status is ExecutionStatus.RUNNING and not record.owner and record.last_seq > 0

    until(resting)


def until(done: Callable[[], bool]) -> None:
    """Wait for something."""
    give_up = time.monotonic() + 60
    while not done():
        assert time.monotonic() < give_up, "it did not happen in 60 s"
        time.sleep(0.01)


if __name__ == "__main__":
    if sys.argv[1] == "--within":
        _record(sys.argv[2])
    else:
        main(Path(sys.argv[1]))
