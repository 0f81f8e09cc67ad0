"""Two who point at one store: the second is refused and told who has it; one that was taken over stops, and says so."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.cli import main
from rayflow.client.engine import backend_of
from rayflow.errors import StorageUnavailable, WriterFenced
from rayflow.runtime.actors.thread_system import ThreadSystem
from rayflow.runtime.store.actor import StoreActor
from tests.faults.storage.flows import long_step
from tests.faults.storage.waiting import wait_for

ROOT = Path(__file__).parents[3]

#: The argument of actors' methods is positional.
TAKE_OVER = (True,)

#: An engine of another process: it starts a chain, says so, and tells how that ended.
PROGRAM = """
import sys
import rayflow as rf
from tests.faults.storage.flows import chain
with rf.LocalEngine(sys.argv[1]) as engine:
    handle = engine.start(chain.options(id="theirs"), sys.argv[2], 100_000)
    print("started", flush=True)
    try:
        handle.result()
    except rf.RayflowError as error:
        print(type(error).__name__, error, flush=True)
    for ask in (lambda: engine.start(chain, sys.argv[2], 1), engine.list, lambda: engine.cancel("theirs")):
        try:
            ask()
        except rf.RayflowError as error:
            print(type(error).__name__, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=["sqlite", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flows.db" if request.param == "sqlite" else f"file://{tmp_path}/store"


@pytest.fixture
def other(url: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes the store, and has begun."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, str(tmp_path / "ledger")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "started\n"
        yield program
        program.kill()


def lines(tmp_path: Path) -> int:
    ledger = tmp_path / "ledger"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def test_the_second_is_refused_and_told_who_has_it(
    url: str, other: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for(lambda: lines(tmp_path) > 3, "the other one is at work")
    with pytest.raises(StorageUnavailable) as refused:
        rf.LocalEngine(url)
    said = str(refused.value)
    assert "is being written by LocalEngine " in said
    assert f"(process {other.pid}, since " in said
    assert "--take-over" in said
    assert main(["list", "--store", url]) == 0  # reading is nobody's harm
    assert "theirs" in capsys.readouterr().out
    assert main(["resume", "theirs", "--local", "--store", url]) == 1
    assert f"process {other.pid}" in capsys.readouterr().err


def stopped(pid: int) -> bool:
    """Whether all of its threads have been stopped, which takes a moment on a busy machine."""
    states = (
        task.joinpath("stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()
    )
    return set(states) == {"T"}


def stop_between_transactions(process: subprocess.Popen[str], url: str) -> None:
    """SIGSTOP it while it holds no lock of SQLite, which nobody could take from it."""
    while True:
        os.kill(process.pid, signal.SIGSTOP)
        wait_for(lambda: stopped(process.pid), "it stands still")
        if not url.startswith("sqlite"):
            return
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0.2)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(process.pid, signal.SIGCONT)
            else:
                db.execute("ROLLBACK")
                return


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_the_first_says_that_it_was_taken_over_and_stops(
    url: str, other: subprocess.Popen[str], tmp_path: Path, *, stopped: bool
) -> None:
    wait_for(lambda: lines(tmp_path) > 3, "the other one is at work")
    if stopped:
        stop_between_transactions(other, url)
    with rf.LocalEngine(url, take_over=not stopped, recover=False) as engine:
        seen = backend_of(engine).record("theirs")
        if stopped:
            os.kill(other.pid, signal.SIGCONT)
        assert other.stdout is not None
        told = [other.stdout.readline() for _ in range(4)]
        assert told[0].startswith("WriterFenced ")
        assert "was taken over by LocalEngine" in told[0] or "is being taken over by" in told[0]
        assert told[1:] == ["WriterFenced\n"] * 3
        begun = lines(tmp_path)
        time.sleep(0.5)
        at = lines(tmp_path)
        # The one step that it had sent before may begin, however late.
        assert at <= begun + 1, "it goes on driving an execution that is not its own any more"
        now = backend_of(engine).record("theirs")
        assert (now.epoch, now.last_seq) == (seen.epoch, seen.last_seq), "what it wrote after that counts"
        # And here it goes on.
        assert engine.start(gated_free).result(30) == 3
        engine.resume("theirs")
        wait_for(lambda: lines(tmp_path) > at, "it goes on here")
        engine.cancel("theirs")


@rf.workflow
async def gated_free() -> int:
    """Nothing of the store's other executions."""
    return 3


def test_one_that_was_fenced_is_opened_anew(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"
    first, second = (StoreActor(ThreadSystem(name), url) for name in ("first", "second"))
    assert first.ready() == url
    with pytest.raises(StorageUnavailable, match="being written by first on "):
        second.ready()
    assert second.ready(*TAKE_OVER) == url
    asked: list[object] = []

    def ask() -> None:
        try:
            asked.append(first.completions(("", 0), 30.0))
            asked.append(first.completions(asked[-1].cursor, 30.0))  # type: ignore[attr-defined]
        except WriterFenced as error:
            asked.append(error)

    waiting = threading.Thread(target=ask)
    waiting.start()
    wait_for(lambda: first._fenced, "its heartbeat tells it")
    with pytest.raises(WriterFenced, match="taken over by second on "):
        first.start([])
    waiting.join(30)
    assert isinstance(asked[-1], WriterFenced), "who waits for news is told"
    with pytest.raises(StorageUnavailable, match="being written by second"):
        first.ready()  # it is not taken back in silence …
    with pytest.raises(WriterFenced):
        first.totals()
    assert first.ready(*TAKE_OVER) == url  # … but by whoever asks for it
    assert first.totals() == {}
    wait_for(lambda: second._fenced, "the other one is told")
    first.stop()
    second.stop()


def test_an_actor_that_is_made_anew_takes_nothing_over(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"
    first, second = (StoreActor(ThreadSystem(name), url) for name in ("first", "second"))
    assert first.ready() == url
    assert second.ready(*TAKE_OVER) == url
    again = StoreActor(ThreadSystem("first"), url)  # as the system makes it, with the arguments of old
    with pytest.raises(StorageUnavailable, match="being written by second"):
        again.totals()
    for each in (first, second, again):
        each.stop()


def test_long_steps_of_a_fenced_engine_do_not_count(tmp_path: Path) -> None:
    """Its coordinators stop although none of them has anything to write."""
    url, release = f"sqlite:///{tmp_path}/flows.db", tmp_path / "release"
    with rf.LocalEngine(url) as first:
        handle = first.start(long_step.options(id="long"), str(release))
        wait_for(lambda: any(step.status == "running" for step in handle.status().steps), "the step runs")
        with rf.LocalEngine(url, take_over=True) as second:
            wait_for(lambda: not first._threads.names() or not _coordinators(first), "its coordinators stop")
            with pytest.raises(WriterFenced):
                handle.result(timeout=10)
            release.touch()
            assert second.handle("long").result(timeout=30) == 7
            assert backend_of(second).record("long").epoch == 2


def _coordinators(engine: rf.LocalEngine) -> list[str]:
    return [name for name in engine._threads.names() if name.startswith("rayflow:coordinator")]
