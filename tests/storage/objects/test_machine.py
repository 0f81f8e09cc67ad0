"""The store equals a sequential model, whatever fails, comes late or is taken over (protocol.md, test 4).

Several commits at once go through the group committer, some of them stale, sent twice, or without a form as bytes.
Any call of the storage may fail before or after it is done, or be done later. What is acknowledged is in the store for
ever, and is what the rules make of it; what is not acknowledged is there whole or not at all. So the model is the set
of all records that are possible: after each acknowledged transaction those that give the answers that were given.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rayflow.errors import StorageUnavailable, WriterFenced
from rayflow.storage.changes import MemoryData, snapshot
from rayflow.storage.group_commit import GroupCommitter
from rayflow.storage.memory import MemoryStore
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.operations import Answer, Operation, Rejected
from rayflow.storage.writer import Writer
from tests.contract import operations as ops
from tests.contract.operations import NOW, append, claim, deliver, start
from tests.storage.objects.faults import Fault, FaultyBucket, World, close_all, compacted, content, opened, reading

NAMES = ("a", "b", "c")
TOO_MUCH = 2**70
#: How many transactions in a row may fail: each doubles what is possible.
DOUBTS = 4

faults = st.sampled_from(["before", "after", "late", "twice"])


def operations() -> st.SearchStrategy[Operation]:
    """Operations of which many are stale, have been applied, or cannot be written."""
    names = st.sampled_from(NAMES)
    epochs, seqs = st.integers(0, 3), st.integers(1, 4)
    counts = st.sampled_from([{}, {}, {"steps": 1}, {"steps": TOO_MUCH}])
    asks = st.sampled_from([(), (), (ops.take(),), (ops.send("b", "from elsewhere"),), (ops.start_child("c"),)])

    def appended(name: str, seq: int, epoch: int, count: dict[str, int], ask: tuple[Any, ...]) -> Operation:
        return append(name, first=seq, epoch=epoch, counts=count, asks=ask)

    return st.one_of(
        st.builds(start, names),
        st.builds(lambda name: start(name, priority=TOO_MUCH), names),
        st.builds(lambda name, expected: claim(name, expected=expected), names, epochs),
        st.builds(appended, names, seqs, epochs, counts, asks),
        st.builds(lambda name, seq, epoch: ops.end(name, first=seq, epoch=epoch), names, seqs, epochs),
        st.builds(deliver, names, st.integers(1, 30).map(str)),
        st.builds(deliver, names, st.integers(1, 30).map(str)),
        st.builds(lambda name, epoch: ops.park(name, epoch=epoch), names, epochs),
    )


def told(answers: Sequence[Answer]) -> list[str]:
    """Answers, to be compared; what cannot be written is only said to be so."""
    return [str(answer) if not isinstance(answer, Rejected) else _refusal(answer) for answer in answers]


def _refusal(answer: Rejected) -> str:
    text = str(answer.error)
    return "cannot be written" if "cannot be written" in text else f"{type(answer.error).__name__}: {text}"


async def modelled(data: MemoryData, operations: Sequence[Operation]) -> tuple[MemoryData, list[Answer]]:
    """What the rules make of operations, one after the other; those that cannot be written fail alone."""
    copy = snapshot(data)
    copy.keys, copy.writer = set(data.keys), Writer()
    store = MemoryStore(data=copy)
    await store.open()
    await store.claim_writer("model", now=NOW, fresh_for=0)
    answers: list[Answer] = []
    for operation in operations:
        before = snapshot(copy)
        before.keys = set(copy.keys)
        answers += await store.commit([operation])
        if content(copy) != content(before) and _unwritable(operation):
            for name, value in content(before).items():
                setattr(copy, name, value)
            answers[-1] = Rejected(StorageUnavailable("cannot be written"))
    return copy, answers


def _unwritable(operation: Operation) -> bool:
    counts, record = getattr(operation, "counts", {}), getattr(operation, "record", None)
    return TOO_MUCH in counts.values() or (record is not None and record.priority == TOO_MUCH)


class Objects(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.bucket = FaultyBucket(self.world)
        self.fenced: list[ObjectStore] = []
        self.possible = [MemoryData()]
        #: Transactions that failed since the last one that did not, and the number that one of them may still take.
        self.doubts = 0
        self.doubtful = 0
        self.store: ObjectStore = self.run(opened(self.bucket))

    def run(self, body: Any) -> Any:
        return self.loop.run_until_complete(body)

    def teardown(self) -> None:
        try:
            self.run(self._check_all())
        finally:
            self.run(close_all())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()

    # --- what happens --------------------------------------------------------------------------------------
    @rule(commits=st.lists(st.lists(operations(), min_size=1, max_size=3), min_size=1, max_size=4))
    def commit(self, commits: list[list[Operation]]) -> None:
        self.run(self._commit(commits))

    @precondition(lambda self: self.doubts < DOUBTS)
    @rule(
        commits=st.lists(st.lists(operations(), min_size=1, max_size=3), min_size=1, max_size=2),
        fault=faults,
        calls=st.integers(1, 4),
    )
    def commit_while_a_call_fails(self, commits: list[list[Operation]], fault: Fault, calls: int) -> None:
        self.bucket.at, self.bucket.fault = self.bucket.calls + calls, fault
        self.run(self._commit(commits))
        self.bucket.at = None

    async def _commit(self, commits: list[list[Operation]]) -> None:
        """Several at once: the first is written alone, the others wait for it and are written together."""
        group = GroupCommitter(self.store)
        asked = [asyncio.create_task(group.commit(each)) for each in commits]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        transactions = [(commits[0], answers[0])]
        if len(commits) > 1:
            rest = [each for commit in commits[1:] for each in commit]
            if isinstance(answers[1], BaseException):
                transactions.append((rest, answers[1]))
            else:
                transactions.append(
                    (rest, [each for found in answers[1:] if isinstance(found, list) for each in found])
                )
        for operations, answer in transactions:
            await self._note(operations, answer)
        if self._number() >= self.doubtful:
            self._settle()
        await compacted(self.store)

    def _number(self) -> int:
        records = self.store._log
        assert records is not None
        return records.number

    def _settle(self) -> None:
        """The doubtful number is taken: what the writer has is all that can be."""
        seen = content(self.store.data)
        self.possible = [data for data in self.possible if content(data) == seen][:1]
        assert self.possible
        self.doubts = 0

    async def _note(self, operations: list[Operation], answers: list[Answer] | BaseException) -> None:
        made = [await modelled(data, operations) for data in self.possible]
        if isinstance(answers, StorageUnavailable):
            self.doubts += 1
            self.doubtful = self._number() + 1
            self.possible += [data for data, _ in made]
            return
        assert isinstance(answers, list), answers
        given = told(answers)
        fits = [told(expected) == given for _, expected in made]
        assert any(fits), (given, [told(expected) for _, expected in made])
        # What is in doubt may also come after what was answered, as long as its number is not taken.
        later = [data for data, fit in zip(self.possible, fits, strict=True) if not fit]
        self.possible = [data for (data, _), fit in zip(made, fits, strict=True) if fit]
        if self._number() < self.doubtful:
            self.possible += later

    @rule()
    def what_was_on_its_way_arrives(self) -> None:
        self.world.deliver()

    @rule()
    def a_heartbeat(self) -> None:
        self.run(self.store.heartbeat(now=NOW))

    @rule(fault=faults, calls=st.integers(1, 12))
    def the_process_dies_while_it_opens_or_writes(self, fault: Fault, calls: int) -> None:
        async def body() -> None:
            dying = FaultyBucket(self.world, calls, fault, for_good=True)
            try:
                store = await opened(dying, "dying")
                for _ in range(5):
                    await store.save_pool(ops.pool())  # the same each time
                    self.possible = [self._with_pool(data) for data in self.possible]
                    await compacted(store)
            except StorageUnavailable:
                self.possible += [self._with_pool(data) for data in self.possible]
            self.fenced.append(self.store)
            self.bucket = FaultyBucket(self.world)
            self.store = await opened(self.bucket, "next")
            self._settle()

        self.run(body())

    def _with_pool(self, data: MemoryData) -> MemoryData:
        changed = snapshot(data)
        changed.keys = set(data.keys)
        changed.pools = {**data.pools, "gpu": ops.pool()}
        return changed

    @precondition(lambda self: self.fenced)
    @rule(operation=operations())
    def a_fenced_writer_tries(self, operation: Operation) -> None:
        async def body() -> None:
            store, log = self.fenced[-1], self.world.names("log")
            # A transaction that failed, and was done nevertheless before the claim, may be acknowledged when it is sent
            # again. Nothing is written by that, and the next call learns of the other writer.
            with contextlib.suppress(WriterFenced):
                await store.commit([operation])
                assert self.world.names("log") == log
            for call in (store.commit([operation]), store.heartbeat(now=NOW)):
                with pytest.raises(WriterFenced):
                    await call

        self.run(body())

    # --- what holds ----------------------------------------------------------------------------------------
    @invariant()
    def the_writers_records_are_possible(self) -> None:
        seen = content(self.store.data)
        assert any(content(data) == seen for data in self.possible)

    @rule()
    def a_reader_looks(self) -> None:
        self.run(self._look())

    async def _look(self) -> None:
        seen = content((await reading(self.world)).data)
        assert any(content(data) == seen for data in self.possible)

    async def _check_all(self) -> None:
        self.world.deliver()
        await self._look()
        await self.store.heartbeat(now=NOW)
        assert content((await reading(self.world)).data) == content(self.store.data)


TestObjects = Objects.TestCase
TestObjects.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_the_model_refuses_alone_what_cannot_be_written() -> None:
    async def body() -> None:
        bad = replace(append("a"), counts={"steps": TOO_MUCH})
        data, answers = await modelled(MemoryData(), [start("a"), claim("a"), bad, append("a")])
        assert [isinstance(answer, Rejected) for answer in answers] == [False, False, True, False]
        assert data.totals == {"executions_started": 1}

    asyncio.run(body())
