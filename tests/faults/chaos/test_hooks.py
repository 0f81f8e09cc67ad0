"""What a run puts into its processes is there, and nowhere else; and a store in trouble loses and invents nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayflow.errors import StorageUnavailable
from rayflow.storage.operations import AlreadyExists, Done
from rayflow.storage.sqlite.store import SqliteStore
from tests.contract.operations import start
from tests.faults.chaos import hooks, trouble
from tests.faults.chaos.trouble import Trouble
from tests.runtime.cluster_fixtures import ROOT

LOOK = """
import sys
print("rayflow" in sys.modules)
from rayflow.runtime.worker import slots
from rayflow.storage.sqlite import store
from tests.faults.chaos import hooks
from rayflow.runtime.pool import workers
from rayflow.runtime.supervisor import coordinators
functions = (
    slots.WorkerSlots.take, workers.ActorSpec, coordinators.coordinator_spec, store.SqliteStore.connection_class
)
print(*(function.__module__ for function in functions))

class Task:
    execution_id, epoch = "x", 3
class Message:
    tasks, coordinator, id, token = (Task,), "c", "b", "t"
slots.WorkerSlots(1).take(Message)
print(hooks.senders)
"""

#: Where what is replaced was written.
PLAIN = "rayflow.runtime.worker.slots rayflow.runtime.actors.base rayflow.runtime.supervisor.actor_specs sqlite3"


@pytest.mark.parametrize("there", [True, False], ids=["run", "elsewhere"])
def test_a_process_of_a_run_has_what_the_run_needs(tmp_path: Path, *, there: bool) -> None:
    path = os.pathsep.join([str(ROOT), *([str(Path(__file__).parent / "outside")] if there else [])])
    environ = {**os.environ, "PYTHONPATH": path, hooks.VARIABLE: str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    modules = " ".join(["tests.faults.chaos.hooks"] * 3 + ["tests.faults.chaos.trouble"]) if there else PLAIN
    senders = "{('x', 3): 'c'}" if there else "{}"
    assert done.stdout.splitlines() == ["False", modules, senders], done.stderr


def troubled(folder: Path) -> SqliteStore:
    """A store that fails when the folder's file says so."""

    class Store(SqliteStore):
        pass

    trouble.install(Store, folder)
    return Store(f"sqlite:///{folder}/flows.db")


@pytest.mark.parametrize(("what", "written"), [("busy", False), ("full", False), ("doubt", True)])
def test_what_is_refused_is_not_there_and_what_is_in_doubt_is(tmp_path: Path, what: str, *, written: bool) -> None:
    async def story() -> None:
        store = troubled(tmp_path)
        await store.open()
        await store.claim_writer("n", now=1.0, fresh_for=1.0)
        trouble.begin(tmp_path, Trouble(what, time.time() + 60, 1.0))
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match=trouble.SAYS[what]):
                await store.commit([start("x")])
        assert (await store.execution("x") is not None) == written
        trouble.begin(tmp_path, Trouble(what, time.time() - 1, 1.0))
        [answer] = await store.commit([start("x")])
        assert isinstance(answer, AlreadyExists if written else Done)
        await store.close()

    asyncio.run(story())
    assert trouble.counted(tmp_path) == {**dict.fromkeys(trouble.SAYS, 0), what: 2}


def test_only_a_share_of_the_transactions_fails_where_it_says_so(tmp_path: Path) -> None:
    async def story() -> int:
        store = troubled(tmp_path)
        await store.open()
        await store.claim_writer("n", now=1.0, fresh_for=1.0)
        trouble.begin(tmp_path, Trouble("busy", time.time() + 60, 0.5))
        refused = 0
        for number in range(60):
            try:
                await store.commit([start(f"x{number}")])
            except StorageUnavailable:
                refused += 1
        await store.close()
        return refused

    assert 10 < asyncio.run(story()) < 50
