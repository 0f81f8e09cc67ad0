"""A writer that is killed at any moment has kept what it acknowledged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rayflow.storage.base import Filter
from rayflow.storage.urls import open_store
from tests.contract.operations import NOW, append, claim, done, row, run


@pytest.mark.parametrize("scheme", ["sqlite:///", "file://"])
@pytest.mark.parametrize("lines", [1, 10, 57, 200])
def test_a_killed_writer_keeps_what_it_acknowledged(tmp_path: Path, lines: int, scheme: str) -> None:
    url = f"{scheme}{tmp_path / 'store'}"
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.storage.committer", url],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    with program:
        heard = [program.stdout.readline() for _ in range(lines)]
        program.kill()  # it is committing the next ones right now
        heard += program.stdout.readlines()
    acknowledged: dict[str, int] = {}
    for line in heard:
        if line.endswith("\n"):
            name, seq = line.split()
            assert int(seq) == acknowledged.get(name, 0) + 1
            acknowledged[name] = int(seq)

    async def check() -> None:
        store = open_store(url)
        await store.open()
        await store.claim_writer("next", now=NOW, fresh_for=60, take_over=True)
        total = 0
        for found in await store.executions(Filter()):
            last = acknowledged.get(found.id, 0)
            assert last <= found.last_seq <= last + 1  # at most the one that was not answered
            journal = await store.journal(found.id)
            assert [(r.seq, r.body) for r in journal] == [(s, b"%d" % s * 50) for s in range(1, found.last_seq + 1)]
            total += found.last_seq
            await done(store, claim(found.id, expected=1), append(found.id, epoch=2, first=found.last_seq + 1))
            assert (await row(store, found.id)).last_seq == found.last_seq + 1
        assert (await store.totals())["steps"] == total
        await store.close()

    assert acknowledged
    run(check())
