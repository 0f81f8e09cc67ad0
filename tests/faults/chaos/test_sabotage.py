"""A sabotage takes out the rule that it is named for, in its own process, and nothing of rayflow asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.chaos.sabotage import SABOTAGES, VARIABLE
from tests.runtime.cluster_fixtures import ROOT

#: Says which rules are as they were written, by the module in which their functions were.
LOOK = """
from rayflow.runtime.actors.actor_group import ActorGroup
from rayflow.runtime.supervisor.coordinators import CoordinatorRegistry
from rayflow.runtime.worker.slots import WorkerSlots
from rayflow.storage.rules import executions, transaction
from rayflow.storage.sqlite import store
functions = {
    "adopt": CoordinatorRegistry.adopt, "hangs": ActorGroup._hangs, "revoke": WorkerSlots.revoke,
    "append": executions._append, "decide": transaction.decide,
    "transaction": store.transaction, "read": store.SqliteStore._read,
}
print(*sorted(name for name, function in functions.items() if not function.__module__.startswith("rayflow")))
"""

REPLACED = {
    "": "",
    "partition": "adopt hangs",
    "fencing": "adopt append hangs revoke",
    "acks": "read transaction",
    "commits": "append decide",
}


@pytest.mark.parametrize("what", REPLACED)
def test_a_process_of_a_sabotaged_run_lacks_its_rule(what: str) -> None:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent / "outside")])
    environ = {**os.environ, "PYTHONPATH": path, VARIABLE: what}
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == REPLACED[what], done.stderr


def test_all_of_them_are_looked_at() -> None:
    assert set(REPLACED) == {"", *SABOTAGES}


def test_the_product_knows_nothing_of_it() -> None:
    for file in (ROOT / "rayflow").rglob("*.py"):
        assert VARIABLE not in file.read_text()
