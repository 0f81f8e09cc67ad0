"""A program that commits until it is killed, and says on its standard output what was acknowledged.

Usage: python -m tests.storage.committer URL
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from rayflow.storage.group_commit import GroupCommitter
from rayflow.storage.operations import Done
from rayflow.storage.urls import open_store
from tests.contract.operations import NOW, append, claim, done, start


async def main(url: str) -> None:
    store = open_store(url)
    await store.open()
    await store.claim_writer("committer", now=NOW, fresh_for=0)
    names = [f"x{i}" for i in range(4)]
    for name in names:
        await done(store, start(name), claim(name))
    group = GroupCommitter(store)

    async def drive(name: str) -> None:
        for seq in itertools.count(1):
            [answer] = await group.commit([append(name, first=seq, bodies=[b"%d" % seq * 50], counts={"steps": 1})])
            assert isinstance(answer, Done)
            print(name, seq, flush=True)

    await asyncio.gather(*map(drive, names))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
