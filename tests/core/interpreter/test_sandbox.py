"""Workflow code that reaches the outside world is told to put that into a step; everybody else is left alone."""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import linecache
import logging
import mmap
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zoneinfo
from collections.abc import Callable, Coroutine
from os import write as write_imported_before
from pathlib import Path
from time import sleep as sleep_imported_before
from typing import Any

import pytest

from rayflow.core.interpreter import sandbox
from rayflow.errors import SideEffectError
from tests.core.fake import Shell, run, stub

one = stub("one")

# Audit hooks are not traced otherwise, and coverage could not see this one.
sandbox._audit.__cantrace__ = True  # type: ignore[attr-defined]


def in_workflow(act: Callable[[], Any]) -> Any:
    async def flow() -> Any:
        await one()
        return act()

    return run(flow)


def start_thread() -> None:
    threading.Thread(target=int).start()


ACTS: dict[str, tuple[Callable[[], Any], str]] = {
    "open": (lambda: open("/etc/hostname"), "opening a file ('/etc/hostname')"),  # noqa: PTH123, SIM115 - it is refused
    "path": (lambda: Path("/etc/hostname").read_text(), "opening a file ('/etc/hostname')"),
    "mkdir": (lambda: Path("/nowhere/x").mkdir(), "making a folder"),
    "unlink": (lambda: Path("/nowhere/x").unlink(), "removing a file"),
    "rename": (lambda: Path("/nowhere/x").rename("/nowhere/y"), "renaming a file"),
    "rmdir": (lambda: Path("/nowhere/x").rmdir(), "removing a folder"),
    "symlink": (lambda: Path("/nowhere/x").symlink_to("/nowhere/y"), "linking a file"),
    "truncate": (lambda: os.truncate("/nowhere/x", 0), "changing a file"),
    "system": (lambda: os.system("true"), "starting a process"),  # noqa: S605 - it is refused
    "popen": (lambda: subprocess.run(["true"], check=True), "starting a process"),
    "socket": (socket.socket, "making a socket"),
    "lookup": (lambda: socket.getaddrinfo("localhost", 1), "looking up a host"),
    "lookup by name": (lambda: socket.gethostbyname("localhost"), "looking up a host"),
    "sqlite": (lambda: sqlite3.connect(":memory:"), "opening a database"),
    "thread": (start_thread, "starting a thread"),
    "sleep": (lambda: time.sleep(0), sandbox._SLEEP),
    "sleep imported before": (lambda: sleep_imported_before(0), sandbox._SLEEP),
    "listdir": (lambda: os.listdir("/"), "listing a folder"),  # noqa: PTH208 - it is refused
    "scandir": (lambda: list(os.scandir("/")), "listing a folder"),
    "glob": (lambda: list(Path("/").glob("*")), "listing a folder"),
    "chmod": (lambda: Path("/nowhere/x").chmod(0o600), "changing a file"),
    "utime": (lambda: os.utime("/nowhere/x"), "changing a file"),
    "chown": (lambda: os.chown("/nowhere/x", 0, 0), "changing a file"),
    "touch": (lambda: Path("/etc/hostname").touch(), "changing a file"),
    "chdir": (lambda: os.chdir("/"), "changing the working directory"),
    "environ": (lambda: os.environ.update(RAYFLOW_X="1"), "changing an environment variable"),
    "environ less": (lambda: os.environ.pop("PATH"), "changing an environment variable"),
    "kill": (lambda: os.kill(os.getpid(), 0), "sending a signal to a process"),
    "write": (lambda: os.write(2, b""), "os.write()"),
    "write imported before": (lambda: write_imported_before(2, b""), "os.write()"),
    "flock": (lambda: fcntl.flock(0, fcntl.LOCK_UN), "locking or controlling a file"),
    "mmap": (lambda: mmap.mmap(-1, 10), "mapping a file"),
    "temporary": (tempfile.mkdtemp, "making a folder"),
}


@pytest.mark.parametrize("name", ACTS)
def test_side_effects_are_refused_with_the_advice_to_use_a_step(name: str) -> None:
    act, what = ACTS[name]
    failure = in_workflow(act).failure
    assert failure.matches(SideEffectError), failure
    assert failure.message.startswith(f"{what} inside a workflow")
    assert "Put it into a step (`@rf.step`) and await that" in failure.message


ASYNC_ACTS: dict[str, tuple[Callable[[], Coroutine[Any, Any, Any]], str]] = {
    "to_thread": (lambda: asyncio.to_thread(int), "running a function in a thread"),
    "connection": (lambda: asyncio.open_connection("localhost", 1), "opening a connection"),
    "subprocess": (lambda: asyncio.create_subprocess_exec("true"), "starting a process"),
    "shell": (lambda: asyncio.create_subprocess_shell("true"), "starting a process"),
}


@pytest.mark.parametrize("name", ASYNC_ACTS)
def test_side_effects_of_asyncio_are_refused_too(name: str) -> None:
    act, what = ASYNC_ACTS[name]

    async def flow() -> None:
        await act()

    failure = run(flow).failure
    assert failure.message.startswith(f"{what} inside a workflow")
    assert "Put it into a step" in failure.message


def test_run_in_executor_is_refused() -> None:
    async def flow() -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, int)

    assert run(flow).failure.message.startswith("running a function in a thread inside a workflow")


def test_what_is_refused_changes_nothing() -> None:
    before = dict(os.environ), Path.cwd()
    for name in ("environ", "environ less", "chdir"):
        in_workflow(ACTS[name][0])
    assert (dict(os.environ), Path.cwd()) == before


def test_printing_and_logging_are_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    async def flow() -> Any:
        print("printed")
        logging.getLogger("flow").warning("logged")
        return await one()

    assert Shell(flow).begin().complete("one").execution.outcome is not None
    assert capsys.readouterr().out == "printed\n"


def test_a_workflow_may_handle_the_refusal() -> None:
    async def flow() -> str:
        try:
            time.sleep(1)  # noqa: ASYNC251 - it is refused
        except SideEffectError as error:
            return error.what
        return "not reached"

    assert "asyncio.sleep()" in run(flow).result


def test_clean_up_during_an_eviction_is_watched_as_well(tmp_path: Path) -> None:
    target = tmp_path / "file"

    async def flow() -> None:
        try:
            await one()
        finally:
            target.touch()

    shell = Shell(flow).begin()
    shell.execution.evict()
    assert not target.exists()


def test_an_import_inside_a_workflow_is_unaffected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "busy_at_import.py").write_text(
        "import pathlib, threading, time\n"
        "text = pathlib.Path(__file__).read_text()\n"
        "threading.Thread(target=int).start()\n"
        "time.sleep(0)\n"
        "value = len(text)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)

    async def flow() -> int:
        import busy_at_import  # type: ignore[import-not-found]

        await one()
        again = importlib.reload(busy_at_import)
        value: int = again.value
        return value

    assert run(flow).result == len((tmp_path / "busy_at_import.py").read_text())
    assert list((tmp_path / "__pycache__").iterdir())
    sys.modules.pop("busy_at_import")


def test_a_workflow_that_is_run_by_an_import_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs_at_import.py").write_text(
        "import pathlib\n"
        "from tests.core.fake import run\n"
        "async def flow():\n"
        "    pathlib.Path(__file__).read_text()\n"
        "message = run(flow).failure.message\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    message: str = importlib.import_module("runs_at_import").message
    assert message.startswith("opening a file")
    sys.modules.pop("runs_at_import")


def test_tracebacks_and_time_zones_may_read_their_files() -> None:
    async def flow() -> list[bool]:
        await one()
        linecache.clearcache()
        text = ""
        try:
            int("shown")
        except ValueError:
            text = traceback.format_exc()
        return ['int("shown")' in text, zoneinfo.ZoneInfo.no_cache("Europe/Berlin").key == "Europe/Berlin"]

    assert run(flow).result == [True, True]


def test_code_outside_a_workflow_is_unaffected(tmp_path: Path) -> None:
    sandbox.install()
    sandbox.install()
    time.sleep(0)
    thread = threading.Thread(target=time.sleep, args=(0,))
    thread.start()
    thread.join()
    (tmp_path / "file").write_text("x")
    with socket.socket() as made:
        made.bind(("localhost", 0))
    assert subprocess.run([sys.executable, "-c", ""], check=True).returncode == 0


def test_code_in_another_loop_is_unaffected(tmp_path: Path) -> None:
    async def outside() -> str:
        time.sleep(0)  # noqa: ASYNC251 - that it may is the point
        (tmp_path / "file").write_text("x")
        return await asyncio.to_thread((tmp_path / "file").read_text)

    assert asyncio.run(outside()) == "x"


def test_other_threads_are_unaffected_while_a_workflow_runs(tmp_path: Path) -> None:
    go, done = threading.Event(), threading.Event()

    def other() -> None:
        go.wait(10)
        (tmp_path / "file").write_text("x")
        done.set()

    thread = threading.Thread(target=other)
    thread.start()

    async def flow() -> bool:
        go.set()
        return done.wait(10)

    assert run(flow).result is True
    thread.join()


def test_the_patched_functions_say_what_they_are() -> None:
    assert time.sleep.__name__ == "sleep"
    assert threading.Thread.start.__name__ == "start"
