"""Who owns an execution, whatever the network does and whoever dies.

Two coordinators drive one execution, two writers write one store, and between them is a network that duplicates,
loses and reorders what it carries. The machine keeps its own account of what was acknowledged, and compares it
with the store after every step.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rayflow.errors import WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Store
from rayflow.storage.codec.journal import append_digest
from rayflow.storage.memory import MemoryData, MemoryStore
from rayflow.storage.model import ExecutionRecord, InboxRow, JournalRow
from rayflow.storage.operations import Answer, Append, Claim, Deliver, Done, Operation, Park, Rewind
from rayflow.storage.sqlite.store import SqliteStore
from tests.contract.operations import NOW, start
from tests.properties.ownership_world import STATUSES, Coordinator, Message, fates, stops, who


class Ownership(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = NOW
        self.writer_claims = 0
        self.current_writer = 0
        self.executions = 0
        self.keys = 0

    def new_store(self) -> Store:
        raise NotImplementedError

    # --- the world ---------------------------------------------------------------------------------------
    @initialize()
    def begin(self) -> None:
        self.writers = [self.opened(), self.opened()]
        self.current_writer = 1  # it claimed last
        self.start_another()

    def start_another(self) -> None:
        self.executions += 1
        self.x = f"x{self.executions}"
        self.coordinators = [Coordinator("a"), Coordinator("b")]
        self.network: list[Message] = []
        # What must be true from now on, because somebody was told so.
        self.journaled: dict[int, bytes] = {}
        self.accepted: list[str] = []
        #: Position of the first entry of the newest run.
        self.first = 1
        #: Inbox rows up to this one were seen by an owner who released the execution all the same.
        self.slept_on = 0
        self.loop.run_until_complete(self.writers[self.current_writer].commit([start(self.x)]))
        self.seen = self.record()

    @precondition(lambda self: self.record().status is ExecutionStatus.COMPLETED)
    @rule()
    def go_to_the_next(self) -> None:
        """Nothing more can happen to what is completed."""
        self.start_another()

    def opened(self) -> Store:
        store = self.new_store()
        self.loop.run_until_complete(store.open())
        self.writer_claims += 1
        nonce = f"writer {self.writer_claims}"
        self.loop.run_until_complete(store.claim_writer(nonce, now=self.now, fresh_for=10, take_over=True))
        return store

    def record(self) -> ExecutionRecord:
        found = self.loop.run_until_complete(self.writers[self.current_writer].execution(self.x))
        assert found is not None
        return found

    def tick(self) -> float:
        self.now += 1
        return self.now

    def send(self, sender: Coordinator | None, operation: Operation, fate: str) -> None:
        if sender is not None:
            sender.unanswered.append(operation)
        message = Message(sender, operation)
        if fate in ("delayed", "twice"):
            self.network.append(message)
        if fate in ("answered", "twice", "reply lost"):
            self.commit(message, lose_reply=fate == "reply lost")

    def driver(self, i: int) -> Coordinator:
        """One that believes it drives the execution: the i-th, if it does, or the other one."""
        return next(c for c in (self.coordinators[i], *self.coordinators) if c.epoch is not None)

    def driven(self) -> bool:
        return any(c.epoch is not None for c in self.coordinators)

    # --- writers -----------------------------------------------------------------------------------------
    @rule(slot=who)
    def take_the_store_over(self, slot: int) -> None:
        """A new writer in that place; the others are fenced, wherever they are."""
        old = self.writers[slot]
        self.writers[slot] = self.opened()
        self.current_writer = slot
        self.loop.run_until_complete(old.close())

    # --- coordinators ------------------------------------------------------------------------------------
    @rule(i=who, fate=fates)
    def claim(self, i: int, fate: str) -> None:
        """Ask for the execution, by what the store says right now; it may be outdated on arrival."""
        coordinator = self.coordinators[i]
        coordinator.claims += 1
        nonce = f"{coordinator.name}{coordinator.claims}"
        coordinator.claiming = Claim(self.x, self.record().epoch, nonce, coordinator.name, self.tick())
        coordinator.epoch = None
        coordinator.unanswered.clear()
        self.send(coordinator, coordinator.claiming, fate)

    @precondition(driven)
    @rule(i=who, fate=fates, status=st.sampled_from(STATUSES), see=st.booleans(), again=st.sampled_from([0, 0, 0, 1]))
    def append(self, i: int, fate: str, status: ExecutionStatus, *, see: bool, again: int) -> None:
        """Go on, pause, end or continue as new, with or without what is in the inbox, also before the last answer."""
        coordinator = self.driver(i)
        unread = self.loop.run_until_complete(
            self.writers[self.current_writer].inbox(self.x, after=coordinator.inbox_done)
        )
        author = f"{coordinator.epoch} {coordinator.name}"
        bodies = [f"{author} entry"]
        if see:
            bodies += [f"{author} apply {row.key}" for row in unread]
            coordinator.inbox_done = max([coordinator.inbox_done, *(row.number for row in unread)])
        first = coordinator.last_seq + 1
        rows = tuple(JournalRow(first + n, body.encode()) for n, body in enumerate(bodies))
        coordinator.last_seq += len(rows)
        assert coordinator.epoch is not None
        operation = Append(self.x, coordinator.epoch, first, rows, append_digest(rows), self.tick(), status)
        operation = replace(operation, inbox_done=coordinator.inbox_done)
        if again and status is ExecutionStatus.RUNNING:
            operation = replace(operation, next_run=b"next input")
        self.send(coordinator, operation, fate)

    @rule(i=who, status=st.sampled_from(STATUSES), park=st.booleans())
    def drive(self, i: int, status: ExecutionStatus, *, park: bool) -> None:
        """A good moment: taken up, driven on and perhaps given up, all of it answered."""
        self.claim(i=i, fate="answered")
        if self.coordinators[i].epoch is not None:
            self.append(i=i, fate="answered", status=status, see=True, again=0)
        if self.coordinators[i].epoch is not None and park:
            self.release(i=i, fate="answered", timer=False, blind=False)

    @precondition(driven)
    @rule(i=who, fate=fates, timer=st.booleans(), blind=st.booleans())
    def release(self, i: int, fate: str, *, timer: bool, blind: bool) -> None:
        """Give it up, in any case or with the rows that are there now."""
        coordinator = self.driver(i)
        assert coordinator.epoch is not None
        seen = None if blind else self.record().inbox_last
        wake = self.now + 20 if timer else None
        self.send(coordinator, Park(self.x, coordinator.epoch, wake, self.tick(), seen), fate)

    @precondition(driven)
    @rule(i=who, fate=fates)
    def keep_for_later(self, i: int, fate: str) -> None:
        """A result that arrives while paused becomes an inbox row of the owner's own."""
        coordinator = self.driver(i)
        self.send(coordinator, Deliver(self.x, self.new_row("kept", "result"), coordinator.epoch), fate)

    @precondition(lambda self: any(c.unanswered for c in self.coordinators))
    @rule(i=who, data=st.data(), fate=fates)
    def send_again(self, i: int, data: st.DataObject, fate: str) -> None:
        """No answer came: the coordinator asks again, for all it knows."""
        coordinator = next(c for c in (self.coordinators[i], *self.coordinators) if c.unanswered)
        operation = data.draw(st.sampled_from(coordinator.unanswered))
        coordinator.unanswered.remove(operation)
        self.send(coordinator, operation, fate)

    # --- from outside ------------------------------------------------------------------------------------
    def new_row(self, word: str, kind: str) -> InboxRow:
        self.keys += 1
        return InboxRow(f"{word}{self.keys}", kind, b"", self.tick())

    @rule(fate=fates)
    def signal(self, fate: str) -> None:
        self.send(None, Deliver(self.x, self.new_row("key", "signal")), fate)

    @precondition(lambda self: self.record().status is ExecutionStatus.FAILED)
    @rule(carried=st.integers(0, 2), fate=fates)
    def rewind(self, carried: int, fate: str) -> None:
        now = self.record()
        row = JournalRow(now.last_seq + 1, f"{now.epoch + 1} rewound".encode())
        rows = tuple(self.new_row("carried", "result") for _ in range(carried))
        self.send(
            None, Rewind(self.x, now.epoch, now.last_seq, row, append_digest([row]), rows, None, self.tick()), fate
        )

    # --- the network -------------------------------------------------------------------------------------
    @precondition(lambda self: self.network)
    @rule(data=st.data(), slot=who, duplicate=st.booleans(), lose_reply=st.booleans())
    def arrive(self, data: st.DataObject, slot: int, *, duplicate: bool, lose_reply: bool) -> None:
        """Any message, not the oldest; and perhaps it stays in the network to arrive once more."""
        position = data.draw(st.integers(0, len(self.network) - 1))
        message = self.network[position]
        if not duplicate:
            del self.network[position]
        if slot == self.current_writer:
            self.commit(message, lose_reply=lose_reply)
        else:
            self.at_a_fenced_writer(slot, message)

    @precondition(lambda self: self.network)
    @rule()
    def everything_arrives(self) -> None:
        """A good moment: what is on its way arrives in order, and is answered."""
        while self.network:
            self.commit(self.network.pop(0), lose_reply=False)

    @precondition(lambda self: self.network)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        del self.network[data.draw(st.integers(0, len(self.network) - 1))]

    def commit(self, message: Message, *, lose_reply: bool) -> None:
        before = self.record()
        [answer] = self.loop.run_until_complete(self.writers[self.current_writer].commit([message.operation]))
        if isinstance(answer, Done):
            self.acknowledged(message.operation, answer, before)
        else:
            assert self.record() == before
        if message.sender is not None and not lose_reply:
            self.hear(message.sender, message.operation, answer)

    def at_a_fenced_writer(self, slot: int, message: Message) -> None:
        before = self.record()
        try:
            self.loop.run_until_complete(self.writers[slot].commit([message.operation]))
        except WriterFenced:
            assert self.record() == before
        else:
            raise AssertionError("a fenced writer wrote")

    def hear(self, coordinator: Coordinator, operation: Operation, answer: Answer) -> None:
        if operation in coordinator.unanswered:
            coordinator.unanswered.remove(operation)
        if operation == coordinator.claiming:
            coordinator.claiming = None
            if isinstance(answer, Done):
                coordinator.epoch = answer.epoch
                coordinator.last_seq = answer.last_seq
                coordinator.inbox_done = self.record().inbox_done
        elif getattr(operation, "epoch", None) == coordinator.epoch and stops(operation, answer):
            coordinator.epoch = None

    # --- what must hold ----------------------------------------------------------------------------------
    def acknowledged(self, operation: Operation, answer: Done, before: ExecutionRecord) -> None:
        now = self.record()
        match operation:
            case Append():
                self.appended(operation, answer, before, now)
            case Rewind():
                assert answer.epoch > operation.expected
                if operation.row.seq not in self.journaled:
                    assert (before.epoch, before.status) == (operation.expected, ExecutionStatus.FAILED)
                    self.accepted += [row.key for row in operation.carried]
                self.must_stay((operation.row,))
            case Claim():
                assert now.owner == operation.nonce
                assert answer.epoch == operation.expected + 1
            case Park():
                if before.owner != "" and answer.parked:
                    assert before.epoch == operation.epoch
                    self.slept_on = max(self.slept_on, operation.seen or 0)
            case Deliver():
                if answer.inbox_last > before.inbox_last:
                    assert operation.epoch is None or (before.epoch, before.owner != "") == (operation.epoch, True)
                    self.accepted.append(operation.row.key)
                assert self.accepted.count(operation.row.key) == 1
        assert len(self.accepted) == answer.inbox_last

    def appended(self, operation: Append, answer: Done, before: ExecutionRecord, now: ExecutionRecord) -> None:
        assert answer.last_seq >= operation.rows[-1].seq
        if operation.rows[0].seq not in self.journaled:
            assert (before.epoch, before.status.terminal) == (operation.epoch, False)
            assert before.owner != ""
            if operation.next_run is not None:  # the next run has a journal of its own, and begins at once
                assert (now.run, now.input) == (before.run + 1, operation.next_run)
                assert (answer.parked, now.owner, now.runnable_at) == (True, "", operation.at)
                self.first = operation.rows[-1].seq
            elif not now.status.terminal:
                assert (answer.parked, now.owner, now.run) == (False, before.owner, before.run)
        self.must_stay(operation.rows)

    def must_stay(self, rows: tuple[JournalRow, ...]) -> None:
        for row in rows:
            assert self.journaled.setdefault(row.seq, row.body) == row.body

    @invariant()
    def all_that_must_hold(self) -> None:
        store = self.writers[self.current_writer]
        before, self.seen = self.seen, self.record()
        journal = self.loop.run_until_complete(store.journal(self.x))
        unread = self.loop.run_until_complete(store.inbox(self.x))
        words = [row.body.decode().split() for row in journal]
        self.nothing_goes_back(before, self.seen)
        self.what_was_acknowledged_is_durable(journal)
        self.an_epoch_has_one_writer(words)
        self.nobody_sleeps_through_an_inbox(self.seen)
        self.each_key_is_applied_once_in_order(words, unread)

    def nothing_goes_back(self, before: ExecutionRecord, now: ExecutionRecord) -> None:
        assert now.epoch >= before.epoch
        assert now.last_seq >= before.last_seq
        assert now.inbox_last >= before.inbox_last
        assert now.inbox_done >= before.inbox_done
        if before.status.terminal and now != before:  # only a rewind leads out of an end
            assert before.status is ExecutionStatus.FAILED
            assert now.epoch > before.epoch
            assert b"rewound" in self.journaled[before.last_seq + 1]
        if now.status.terminal:
            assert (now.owner, now.runnable_at) == ("", None)

    def what_was_acknowledged_is_durable(self, journal: list[JournalRow]) -> None:
        assert [row.seq for row in journal] == list(range(self.first, self.seen.last_seq + 1))
        told = {seq: body for seq, body in self.journaled.items() if seq >= self.first}
        assert {row.seq: row.body for row in journal} == told  # and nothing is there that nobody was told of

    def an_epoch_has_one_writer(self, words: list[list[str]]) -> None:
        epochs = [int(word[0]) for word in words]
        assert epochs == sorted(epochs)
        authors = {(word[0], word[1]) for word in words}
        assert len(authors) == len(set(epochs))

    def nobody_sleeps_through_an_inbox(self, now: ExecutionRecord) -> None:
        if now.inbox_last > max(now.inbox_done, self.slept_on) and not now.status.terminal:
            assert now.owner != "" or now.runnable_at is not None

    def each_key_is_applied_once_in_order(self, words: list[list[str]], unread: list[InboxRow]) -> None:
        expected = [(n + 1, key) for n, key in enumerate(self.accepted)]
        assert [(row.number, row.key) for row in unread] == expected[self.seen.inbox_done :]
        applied = [word[3] for word in words if word[2:3] == ["apply"]]
        places = [self.accepted.index(key) for key in applied]
        assert places == sorted(set(places))

    def teardown(self) -> None:
        for store in getattr(self, "writers", ()):
            self.loop.run_until_complete(store.close())
        self.loop.close()


class MemoryOwnership(Ownership):
    def new_store(self) -> Store:
        self.data = getattr(self, "data", None) or MemoryData()
        return MemoryStore(data=self.data)


class SqliteOwnership(Ownership):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    def new_store(self) -> Store:
        return SqliteStore(f"sqlite:///{Path(self.folder.name) / 'store.db'}")

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestMemoryOwnership = MemoryOwnership.TestCase
TestMemoryOwnership.settings = settings(max_examples=100, stateful_step_count=60)
TestSqliteOwnership = SqliteOwnership.TestCase
TestSqliteOwnership.settings = settings(max_examples=8, stateful_step_count=25)
