"""Workflows that the pool tests run. Workers import this module by reference."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import rayflow as rf

QUICK = rf.RetryPolicy(max_retries=2, initial_delay=0.01, jitter=0)


def note(ledger: str, *words: object) -> None:
    """Append a line; lines of several processes do not mix."""
    with Path(ledger).open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


@rf.step
def worked(ledger: str, number: int, seconds: float) -> int:
    """Works for a while, and leaves a line at its begin and at its end."""
    note(ledger, "begin", number, os.getpid())
    time.sleep(seconds)
    note(ledger, "end", number, os.getpid())
    return number


@rf.workflow
async def many(ledger: str, first: int, count: int, seconds: float) -> int:
    """So many steps side by side; answers the sum of their numbers."""
    return sum(await asyncio.gather(*(worked(ledger, first + n, seconds) for n in range(count))))


@rf.step
def stamped(ledger: str, name: str) -> None:
    """Leaves a line with the time of its begin."""
    note(ledger, name, time.time())


@rf.workflow
async def stamps(ledger: str, name: str, count: int) -> None:
    """So many stamps."""
    await asyncio.gather(*(stamped(ledger, name) for _ in range(count)))


@rf.step(concurrency_limit=2, concurrency_key=lambda ledger, customer: f"customer/{customer}")
def served(ledger: str, customer: str) -> None:
    """At most two of one customer at once."""
    note(ledger, "begin", customer)
    time.sleep(0.05)
    note(ledger, "end", customer)


@rf.workflow
async def serving(ledger: str, customers: list[str]) -> None:
    """Serves customers."""
    await asyncio.gather(*(served(ledger, customer) for customer in customers))


@rf.step(retry=rf.RetryPolicy(max_retries=1, initial_delay=0.01), timeout=4.0)
def late(ledger: str, stopped: str) -> str:
    """Its first attempt answers late: after its process was stopped and has gone on."""
    attempt = rf.step_context().attempt
    note(ledger, attempt, os.getpid())
    if attempt == 1:
        while not Path(stopped).exists():
            time.sleep(0.02)
        note(ledger, "ended", os.getpid())
    return f"attempt {attempt}"


@rf.step
def released(release: str) -> str:
    """Waits until it is released."""
    while not Path(release).exists():
        time.sleep(0.02)
    return "released"


@rf.workflow
async def lateness(ledger: str, stopped: str, release: str) -> list[str]:
    """One late step, and another that keeps the execution going."""
    return [await late(ledger, stopped), await released(release)]


@rf.step(retry=QUICK)
def poison(ledger: str, mended: str) -> str:
    """Kills its worker every time, until somebody mends it."""
    note(ledger, os.getpid())
    if not Path(mended).exists():
        os._exit(1)
    return "mended"


@rf.step
async def before(value: int) -> int:
    """Something before the poison."""
    return value


@rf.workflow
async def poisoned(ledger: str, mended: str) -> list[object]:
    """Something, then poison."""
    return [await before(1), await poison(ledger, mended)]


@rf.step(num_cpus=0.5)
def own_process(ledger: str) -> int:
    """A Ray task of its own."""
    note(ledger, "own", os.getpid())
    return os.getpid()


@rf.step(num_cpus=0.1, retry=rf.RetryPolicy(max_retries=1, initial_delay=0.01))
def own_process_dies(ledger: str) -> str:
    """A Ray task whose process dies at its first attempt."""
    note(ledger, "dies", os.getpid())
    if rf.step_context().attempt == 1:
        os._exit(3)
    return "lived"


@rf.step(num_cpus=0.1, timeout=1.0, retry=rf.RetryPolicy(max_retries=0))
def own_process_oversleeps(ledger: str) -> None:
    """A Ray task that takes too long, and notices that it is told to stop."""
    while not rf.step_context().cancelled:
        time.sleep(0.02)
    note(ledger, "stopped", os.getpid())


@rf.step(resources={"unobtainium": 2})
async def impossible() -> None:
    """Needs what no node has."""


@rf.workflow
async def in_processes(ledger: str) -> list[object]:
    """Steps in processes of their own."""
    pids = await asyncio.gather(*(own_process(ledger) for _ in range(3)))
    return [len(pids), await own_process_dies(ledger)]


@rf.workflow
async def oversleeping(ledger: str) -> None:
    """A Ray task that takes too long."""
    await own_process_oversleeps(ledger)


@rf.workflow
async def hopeless() -> None:
    """Waits for what no node has."""
    await impossible()


@rf.step
def measured(release: str) -> int:
    """Says how far it is until it is released."""
    done = 0
    while not Path(release).exists():
        done += 1
        rf.step_context().heartbeat({"done": done})
        time.sleep(0.05)
    return done


@rf.workflow
async def measuring(release: str) -> int:
    """One measured step."""
    return await measured(release)


@rf.step(heartbeat_timeout=0.5, retry=rf.RetryPolicy(max_retries=0))
async def silent() -> None:
    """Says once that it is alive, and then nothing any more."""
    rf.step_context().heartbeat()
    await asyncio.sleep(60)


@rf.workflow
async def silence() -> None:
    """One silent step."""
    await silent()


@contextlib.contextmanager
def make_client() -> Iterator[dict[str, object]]:
    """What each worker of a pool has."""
    yield {"pid": os.getpid(), "thread": threading.get_ident()}


def broken_setup() -> None:
    """Cannot be made."""
    raise ConnectionError("no such host")


@rf.step(pool="clients")
def asks_client() -> bool:
    """Whether its worker's client was made in its worker."""
    return bool(rf.step_context().setup["pid"] == os.getpid())


@rf.workflow
async def asking(count: int) -> int:
    """So many questions."""
    return sum(await asyncio.gather(*(asks_client() for _ in range(count))))


@rf.step
async def napped(seconds: float) -> None:
    """An async nap."""
    await asyncio.sleep(seconds)


@rf.workflow
async def naps(count: int, seconds: float) -> None:
    """So many naps at once."""
    await asyncio.gather(*(napped(seconds) for _ in range(count)))


@rf.step(timeout=0.5, retry=QUICK)
def stubborn(ledger: str) -> str:
    """Cannot be stopped, in its first attempt."""
    note(ledger, "stubborn", os.getpid())
    if rf.step_context().attempt == 1:
        time.sleep(600)
    return f"attempt {rf.step_context().attempt}"


@rf.step
def neighbour(ledger: str, release: str) -> str:
    """Runs beside it until it is released, or told to stop."""
    note(ledger, "neighbour", os.getpid())
    while not Path(release).exists() and not rf.step_context().cancelled:
        time.sleep(0.02)
    return "released"


@rf.workflow
async def beside_a_stubborn_one(ledger: str, release: str) -> list[str]:
    """A step that does not stop, and two that have nothing to do with it."""
    return list(await asyncio.gather(stubborn(ledger), neighbour(ledger, release), neighbour(ledger, release)))
