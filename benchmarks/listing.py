"""What one page of a list costs in a store of many executions, for each field by which lists filter.

    python -m benchmarks.listing                   100,000 executions, on SQLite and on file:// objects
    python -m benchmarks.listing --count 5000      a short form

The store is open; a page has 50 executions, whole rows included. Each filter is measured where it meets many executions
and, if it can, where it meets few or none, which is the most work for a scan. "cpu" is the processor time of a page,
which other load on the machine changes little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayflow.core.execution.requests import WaitsFor
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.codec.journal import append_digest, encode_failure
from rayflow.storage.model import ExecutionRecord, JournalRow
from rayflow.storage.operations import Append, Claim, Operation, Park, Start
from rayflow.storage.query.where import parse_where
from rayflow.storage.urls import open_store

PAGE = 50
#: Executions that are written in one transaction.
BATCH = 500
BEGIN = 1_767_225_600.0

#: The filters by what they show, ``{count}`` being the number of executions.
FILTERS = {
    "none": "",
    "status, many": "status = 'completed'",
    "status, few": "status = 'paused'",
    "status, one of four": "status in ('failed', 'paused', 'cancelled', 'pending')",
    "unfinished": "finished = false",
    "workflow, many": "workflow = 'billing'",
    "workflow, none": "workflow = 'nothing'",
    "version": "version = '7'",
    "priority": "priority >= 9",
    "started, a moment": "started > {begin} and started < {soon}",
    "updated, the last few": "updated > {late}",
    "updated, none": "updated < {begin}",
    "attribute, many": "attr.region = 'eu'",
    "attribute, one": "attr.customer = 'customer 77'",
    "attribute, greater, many": "attr.amount > 1",
    "attribute, greater, few": "attr.amount > {large}",
    "attribute, part of a text": "attr.customer contains 'er 777'",
    "error type": "error_type = 'shop.errors.Declined'",
    "error text, few": "error contains 'number 7777 '",
    "error text, none": "error contains 'no such text'",
    "waiting for a kind": "waiting_for = 'signal'",
    "waiting for a name": "waiting_for = 'lock ledger 77'",
    "waiting for a name, none": "waiting_for = 'signal nothing'",
    "parent": "parent = 'e100'",
    "schedule": "schedule = 'nightly'",
    "singleton": "singleton = 'only 7'",
    "forked_from": "forked_from = 'e7'",
    "id": "id = 'e77'",
    "status and attribute": "status = 'failed' and attr.region = 'eu'",
    "workflow and error": "workflow = 'billing' and error contains 'number 77'",
}


def executions(count: int) -> Iterator[list[Operation]]:
    """The operations that make each execution; two thirds completed, the others in any state."""
    dice = random.Random(7)
    options = ExecutionOptions(timeout=3600).model_dump_json().encode()
    environment = json.dumps({"paths": ["/srv/flows", "/srv/flows/lib"], "working_dir": "", "python": "3.11"})
    for number in range(count):
        name, at = f"e{number}", BEGIN + number
        record = ExecutionRecord(
            id=name,
            workflow_id=dice.choice(["billing", "refund", "report"]),
            version=str(dice.randint(1, 9)),
            status=ExecutionStatus.PENDING,
            priority=9 if dice.random() < 0.001 else 5,
            created_at=at,
            updated_at=at,
            input=dice.randbytes(200),
            identity="0" * 64,
            start_nonce=f"{number:032x}",
            code=b'{"module": "shop.flows", "qualname": "billing", "kind": "import"}' * 3,
            options=options,
            environment=environment,
            runnable_at=at,
            parent=f"e{number // 100 * 100}" if number % 100 else "",
            singleton=f"only {number}" if number % 10 == 7 else "",
            schedule="nightly" if dice.random() < 0.02 else "",
            forked_from="e7" if dice.random() < 0.001 else "",
            attributes={
                "customer": f"customer {number}",
                "region": dice.choice(["eu", "us"]),
                "amount": dice.random() * count,
            },
        )
        yield [Start(record), Claim(name, 0, "owner", "coordinator", at), *_course(name, number, at + 5, dice.random())]


def _course(name: str, number: int, at: float, share: float) -> Iterator[Operation]:
    if share < 0.02:
        return
    rows = (JournalRow(1, b"x" * 300),)
    made: dict[str, Any] = {"status": ExecutionStatus.COMPLETED, "result": b"x" * 100}
    if share < 0.17:
        kind = "shop.errors.Declined" if number % 2 else "ValueError"
        failure = encode_failure(Failure(kind, f"card number {number} of a customer was declined by the bank"))
        made = {"status": ExecutionStatus.FAILED, "failure": failure}
    elif share < 0.18:
        made = {"status": ExecutionStatus.PAUSED, "failure": encode_failure(Failure("Reason", "by hand"))}
    elif share < 0.33:
        waits = WaitsFor(locks=(f"ledger {number}",)) if number % 2 else WaitsFor(signals=(("approval", ""),))
        made = {"status": ExecutionStatus.RUNNING, "waits": waits.to_text()}
    yield Append(name, 1, 1, rows, append_digest(rows), at, **made)
    if made["status"] is ExecutionStatus.RUNNING:
        yield Park(name, 1, None, at, waits=made["waits"])


async def fill(store: Store, count: int) -> float:
    """Write the executions; answers the seconds that it took."""
    began = time.perf_counter()
    batch: list[Operation] = []
    for number, operations in enumerate(executions(count), 1):
        batch += operations
        if number % BATCH == 0 or number == count:
            await store.commit(batch)
            batch = []
    return time.perf_counter() - began


async def measure(url: str, count: int, runs: int) -> dict[str, dict[str, float]]:
    """Fill a store; answers milliseconds of a page for each filter."""
    store = open_store(url)
    await store.open()
    await store.claim_writer("benchmark", now=time.time(), fresh_for=0)
    print(f"{url}: filled in {await fill(store, count):.0f} s", file=sys.stderr)
    words = {"begin": BEGIN, "soon": BEGIN + count // 2, "late": BEGIN + count - 20, "large": count * 0.9999}
    found = {}
    for name, where in FILTERS.items():
        query = Filter(where=parse_where(where.format(**words)) if where else (), limit=PAGE)
        times, work, page = [], [], []
        for _ in range(runs):
            began, used = time.perf_counter(), time.process_time()
            page = await store.executions(query)
            times.append(1e3 * (time.perf_counter() - began))
            work.append(1e3 * (time.process_time() - used))
        found[name] = {
            "found": len(page),
            "p50": statistics.median(times),
            "most": max(times),
            "cpu": statistics.median(work),
        }
    await store.close()
    return found


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="executions in the store")
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="rayflow-bench-") as folder:
        for kind, url in (("sqlite", f"sqlite:///{folder}/bench.db"), ("objects", f"file://{folder}/objects")):
            figures[kind] = asyncio.run(measure(url, options.count, options.runs))
            print(f"{kind}: {options.count:,} executions, load average {os.getloadavg()[0]:.1f}")
            print(f"{'filter':<30}{'found':>8}{'p50 ms':>10}{'most ms':>10}{'cpu ms':>10}")
            for name, row in figures[kind].items():
                print(
                    f"{name:<30}{row['found']:>8}{row['p50']:>10.1f}{row['most']:>10.1f}{row['cpu']:>10.1f}", flush=True
                )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
