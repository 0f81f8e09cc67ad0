"""A pool grows and shrinks together with the nodes that Ray's autoscaler adds for it and takes away again.

The cluster is a head that lacks what the pool's workers need, Ray's own autoscaler, and Ray's provider whose nodes
are processes of this machine. ``ray.cluster_utils.AutoscalingCluster`` makes the same, but stops every Ray on the
machine first, and needs a file that Ray's packages lack.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from asyncio import gather
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

import rayflow as rf
from rayflow.runtime import processes
from tests.faults.tools import PATIENCE, ledger_lines
from tests.runtime.cluster_fixtures import ROOT, own_environment

pytestmark = [pytest.mark.system, pytest.mark.cluster, pytest.mark.timeout(300)]

#: Nodes that the autoscaler may add, each with room for one worker of the pool.
NODES = 2

POOL = rf.PoolConfig(min_workers=0, max_workers=NODES, concurrency=1, idle_timeout=1, resources={"accelerator": 1})

#: Seconds without work after which the autoscaler takes a node away.
IDLE = 3.0


# --- the driver, in a process of its own ------------------------------------------------------------------------
@rf.step
def meets(ledger: str, number: int) -> int:
    """Goes on once another one has begun beside it."""
    with Path(ledger).open("a") as file:
        file.write(f"{number} {os.getpid()}\n")
    while len(ledger_lines(Path(ledger))) < NODES:
        time.sleep(0.05)
    return number


@rf.workflow
async def meeting(ledger: str, count: int) -> int:
    """So many that meet."""
    return sum(await gather(*(meets(ledger, number) for number in range(count))))


def drive(address: str, store: str, ledger: str) -> None:
    """Give a pool work, and print its state at every change until the cluster is as it was before."""
    with rf.DistributedEngine(address=address, store=store, pool=POOL) as engine:
        handle, told = None, {}
        while told.get("result") is None or told["workers"] or told["nodes"] > 1:
            pool = engine.pools.get().status()
            seen = {
                "nodes": len(engine._system.nodes()),
                "workers": pool.workers,
                "starting": pool.starting,
                "queued": pool.queued,
                "problem": pool.problem,
                "result": handle.result() if handle is not None and handle.done() else None,
            }
            if seen != told:
                print(json.dumps(seen), flush=True)
                told = seen
            handle = handle or engine.start(meeting, ledger, 6)
            time.sleep(0.05)
        engine.shutdown()
