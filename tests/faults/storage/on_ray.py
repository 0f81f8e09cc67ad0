"""Programs that have trouble with their store on a Ray cluster: run by test_on_ray, each in a process of its own.

Usage: python -m tests.faults.storage.on_ray SCENARIO STORE FOLDER [PROXY]
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import rayflow as rf
from benchmarks.waiting import actors_memory
from rayflow.client.engine import backend_of
from rayflow.errors import StorageUnavailable
from rayflow.runtime.actors import actor_names
from tests.faults.storage.flows import chain, due_soon, fan_out, gated
from tests.faults.storage.waiting import wait_for


def s3(url: str, folder: Path, proxy: str) -> None:
    """Object storage on Ray: it works, persistence is killed, and the server makes trouble of each kind."""

    def trouble(kind: str) -> str:
        with urllib.request.urlopen(f"{proxy}/trouble/{kind}", timeout=10) as answer:  # noqa: S310 - our own proxy
            said: str = answer.read().decode()
            return said

    with rf.DistributedEngine(url, pool=rf.PoolConfig(workers=2)) as engine:
        assert engine.start(fan_out, 50).result(60) == sum(range(50))
        handle = engine.start(chain, str(folder / "killed"), 40)
        wait_for(lambda: lines(folder / "killed") > 10, "it is under way")
        os.kill(backend_of(engine).pid_of(actor_names.STORE), signal.SIGKILL)
        assert handle.result(timeout=60) == 40
        assert in_order(folder / "killed", 40, repeats=1)
        for kind in ("slow", "one-in-five"):
            trouble(kind)
            length = 10 if kind == "slow" else 40
            handle = engine.start(chain, str(folder / kind), length)
            assert engine.start(fan_out, 20).result(90) == sum(range(20))
            assert handle.result(timeout=90) == length
            assert in_order(folder / kind, length)
        requests, failed = map(int, trouble("none").split())
        print(f"{failed} of {requests} requests failed", flush=True)
        assert failed > 0
        gone(engine, folder, lambda: trouble("gone"), lambda: trouble("none"), seconds=60.0)
        # Another engine on the same objects finds all of it.
        engine.shutdown()
    with rf.DistributedEngine(url) as engine:
        assert engine.list(status="completed")
        engine.shutdown()


def locked(url: str, folder: Path, _: str) -> None:
    """Another process holds SQLite's lock for some seconds."""
    db = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30, isolation_level=None, check_same_thread=False)
    with rf.DistributedEngine(url, pool=rf.PoolConfig(workers=2)) as engine:
        gone(engine, folder, lambda: db.execute("BEGIN EXCLUSIVE"), lambda: db.execute("ROLLBACK"), seconds=9.0)
        db.close()
        engine.shutdown()


def limited(url: str, folder: Path, _: str) -> None:
    """The kernel refuses what the persistence actor writes: its files may not grow any more (RLIMIT_FSIZE)."""
    with rf.DistributedEngine(url, pool=rf.PoolConfig(workers=2)) as engine:
        assert engine.start(chain, str(folder / "before"), 20).result(60) == 20
        pid = backend_of(engine).pid_of(actor_names.STORE)
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)

        def limit() -> None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))

        gone(engine, folder, limit, lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, before), seconds=6.0)
        engine.shutdown()


def full(url: str, folder: Path, _: str) -> None:
    """Somebody else fills the file system that the store is on, and makes room again later."""
    filler = Path(url.removeprefix("sqlite:///")).parent / "filler"
    with rf.DistributedEngine(url, pool=rf.PoolConfig(workers=2)) as engine:
        long = engine.start(chain, str(folder / "full"), 2_000)
        wait_for(lambda: lines(folder / "full") > 5, "it is under way")
        _fill(filler)
        # What the file has room for already is still written.
        accepted: list[rf.ExecutionHandle[int]] = []
        with contextlib.suppress(StorageUnavailable):
            while len(accepted) < 2_000:
                accepted.append(engine.start(gated.options(id=f"accepted-{len(accepted)}")))
        assert len(accepted) < 2_000, "there is no room for so many"
        print(f"refused after {len(accepted)} starts", flush=True)
        at = _stands_still(folder / "full")
        assert at < 2_000, "it was to wait"
        time.sleep(3.0)
        assert lines(folder / "full") == at, "it stands still"
        filler.unlink()
        for handle in accepted:
            wait_for(lambda handle=handle: _accepts(handle), "the signal is accepted")  # type: ignore[misc]
            assert handle.result(timeout=90) == 4
        assert long.result(timeout=90) == 2_000
        assert in_order(folder / "full", 2_000)
        engine.shutdown()


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4_096)):
            pass
    assert shutil.disk_usage(filler.parent).free < 4_096


def _stands_still(ledger: Path) -> int:
    """Wait until nothing begins any more, however often that is tried; answers how many lines there are."""
    seen = -1
    while (now := lines(ledger)) != seen:
        seen = now
        time.sleep(5.0)
    return seen


def _accepts(handle: rf.ExecutionHandle[int]) -> bool:
    try:
        handle.signal("go", 1, key="once")
    except StorageUnavailable:
        return False
    return True


def gone(
    engine: rf.DistributedEngine,
    folder: Path,
    begin: Callable[[], object],
    end: Callable[[], object],
    *,
    seconds: float,
) -> None:
    """The store is away for so long: what runs waits and goes on, callers are told in time, nothing is lost."""
    ledger = folder / "gone"
    parked = engine.start(gated.options(id="parked"))
    wait_for(lambda: parked.status().parked, "it is parked")
    long = engine.start(chain, str(ledger), 150)
    timer = engine.start(due_soon, 2.0)
    wait_for(lambda: lines(ledger) > 5, "it is under way")
    memory, began = actors_memory(engine), time.monotonic()
    begin()
    time.sleep(1.0)
    at = lines(ledger)
    _starts_are_refused(engine, began + seconds)
    assert lines(ledger) <= at + 1, "steps begin although nothing can be recorded"
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    grown = sum(now - memory[pid] for pid, now in actors_memory(engine).items() if pid in memory)
    end()
    back = time.monotonic()
    assert long.result(timeout=90) == 150
    assert timer.result(timeout=60) == "woke 2"
    assert in_order(ledger, 150)
    wait_for(lambda: _accepts(parked), "the signal is accepted")
    assert parked.result(timeout=60) == 4
    # What was refused may be started again under its id, whatever became of the first try.
    again = engine.start(gated.options(id="during-0"))
    again.signal("go", 1)
    assert again.result(timeout=60) == 4
    print(f"all of it was done {time.monotonic() - back:.1f} s after the store was back", flush=True)
    print(
        f"the actors, {sum(memory.values()):.0f} MB, had {grown:.0f} MB more after {seconds:g} s without it", flush=True
    )
    assert grown < 60, "who waits needs no memory for it"


def _starts_are_refused(engine: rf.DistributedEngine, until: float) -> None:
    refused = 0
    for attempt in range(2):
        asked = time.monotonic()
        try:
            engine.start(gated.options(id=f"during-{attempt}"))
        except StorageUnavailable as error:
            refused += 1
            print(f"refused after {time.monotonic() - asked:.1f} s: {error}"[:300], flush=True)
        assert time.monotonic() - asked < 150
        if time.monotonic() > until:
            break
    assert refused, "a start was accepted although nothing can be written"


def lines(ledger: Path) -> int:
    """Lines of a ledger."""
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def in_order(ledger: Path, length: int, *, repeats: int = 0) -> bool:
    """Whether each step left its line, in order, with so many that ran twice."""
    found = [int(line) for line in ledger.read_text().splitlines()]
    return sorted(set(found)) == list(range(length)) and len(found) <= length + repeats and found == sorted(found)


if __name__ == "__main__":
    {"s3": s3, "locked": locked, "limited": limited, "full": full}[sys.argv[1]](
        sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    )
