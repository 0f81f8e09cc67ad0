"""A long chain, and a program that dies in the middle of it."""

from __future__ import annotations

import asyncio
import os
import sys

import rayflow as rf
from tests.fundamentals.tools import note

#: Long enough that no machine is through with it before it is stopped.
LENGTH = 400


@rf.workflow
async def chain(ledger: str, length: int) -> int:
    """Notes a number at a time."""
    return sum([int(await note(ledger, str(number))) for number in range(length)])


@rf.step(local=True)
def die(pid: int) -> None:
    """Ends the process that starts it, and no other one."""
    if os.getpid() == pid:
        os._exit(9)


@rf.workflow
async def dies_halfway(ledger: str, pid: int) -> list[str]:
    """Notes, waits, loses its process, and notes again."""
    first = await note(ledger, "first")
    await asyncio.sleep(0.05)
    await die(pid)
    return [first, await note(ledger, "last")]


if __name__ == "__main__":
    from tests.fundamentals.chain import dies_halfway as importable

    store, path = sys.argv[1:]
    with rf.LocalEngine(store) as engine:
        engine.start(importable.options(id="one"), path, os.getpid()).result(20)
