"""Steps and workflows that several tests of an execution run."""

from __future__ import annotations

import asyncio
from typing import Any

from rayflow.definition.options import ExecutionOptions, RetryPolicy
from tests.core.fake import stub

one = stub("one")
two = stub("two")
undo = stub("undo")

PLAIN = ExecutionOptions(retry=RetryPolicy(max_retries=2, initial_delay=10, jitter=0))


async def in_turn() -> list[Any]:
    first = await one(1)
    return [first, await two(2)]


async def at_once() -> list[Any]:
    return list(await asyncio.gather(one(1), two(2), one(3)))
