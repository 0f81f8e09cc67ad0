"""What must hold across executions, checked after every commit of the test's world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rayflow.core.events import (
    CancelRequested,
    Entry,
    Event,
    RequestCompleted,
    RequestsReissued,
    Rewound,
    SignalReceived,
    StepCompleted,
    kind_and_name,
)
from rayflow.core.execution.actions import RunAttempt
from rayflow.core.execution.journal import effective
from rayflow.core.locks import machine as locks
from rayflow.core.locks.machine import Claim, Claimant, Lock
from rayflow.ids import ExecutionStatus
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.storage.codec.journal import decode_entry
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.memory import MemoryData
from rayflow.storage.model import ExecutionRecord
from rayflow.storage.operations import Park
from tests.properties.across_flows import PERMITS, RIGHT


class Life:
    """What the watch knows of one execution, from its start to its deletion.

    Attributes:
        record: its row, as it was looked at last.
        args: the arguments of its first run.
        results: recorded results of steps of this run, which nothing may change.
        seen: inbox rows up to this one were seen by an owner who gave the execution up all the same.
    """

    def __init__(self, record: ExecutionRecord, args: tuple[Any, ...]) -> None:
        self.record = record
        self.args = args
        self.run = record.run
        self.entries: dict[int, Entry] = {}
        self.results: dict[int, bytes] = {}
        self.seen = 0


#: Who is not known.
NOBODY = Claimant("?", 1)


class Watch:
    """See the module's docstring.

    Args:
        data: what the store holds.
        codec: reads payloads.
    """

    def __init__(self, data: MemoryData, codec: MsgpackCodec) -> None:
        self._data = data
        self._codec = codec
        self._lives: dict[str, Life] = {}
        self._dues: Counter[str] = Counter()
        self._locks: dict[str, Lock] = {}
        #: Who was granted which token, by lock.
        self._grants: dict[str, dict[int, Claimant]] = {}
        #: Those that a person let go on after they had failed, and told it. No parent waits for them before it asks.
        self._alone: set[str] = set()
        #: Those that were rewound since what was looked at before, in one transaction with their children.
        self._together: set[str] = set()

    def committed(self) -> None:
        """Look at all that a commit, or a deletion, has changed."""
        for name in self._lives.keys() - self._data.executions.keys():
            del self._lives[name]
            self._alone.discard(name)
        self._together = {name for name in self._data.executions if self._is_newly_rewound(name)}
        for record in list(self._data.executions.values()):
            life = self._lives.get(record.id) or self._born(record)
            if life.record is not record or not life.entries:
                life.record = record
                self._look(life)
        for lock in self._data.locks.values():
            self._look_at_lock(lock)
        for life in self._lives.values():
            self._look_for_orphans(life)

    def sleeps(self, operation: Park) -> None:
        """An execution was given up by an owner who had seen its inbox."""
        self._lives[operation.execution_id].seen = operation.seen or 0

    def _born(self, record: ExecutionRecord) -> Life:
        source = self._lives.get(record.forked_from)
        args = self._codec.decode(record.input)[0] if source is None else source.args
        life = self._lives[record.id] = Life(record, args)
        if record.schedule:
            self._dues[record.id] += 1
            assert self._dues[record.id] == 1, f"{record.id} is started twice"
        return life

    # --- one execution -------------------------------------------------------------------------------------
    def _look(self, life: Life) -> None:
        record = life.record
        assert record.status is not ExecutionStatus.PAUSED, "an execution is set aside"
        if record.inbox_last > max(record.inbox_done, life.seen) and not record.status.terminal:
            assert record.owner or record.runnable_at is not None, "nobody will read its inbox"
        for entry in self._new_entries(life):
            if isinstance(entry.event, Rewound):
                self._rewound(life, entry.event)
            elif isinstance(entry.event, RequestsReissued):
                self._alone -= {name for name in self._alone if self._is_waited_for(name, record, entry.event.steps)}
        live = effective(list(life.entries.values()))
        self._look_at_answers(live, forked=bool(record.forked_from))
        for event in (entry.event for entry in live):
            if isinstance(event, StepCompleted):
                assert life.results.setdefault(event.step, event.result) == event.result
        for event in [*(entry.event for entry in live), *self._unread(record)]:
            if isinstance(event, CancelRequested) and "which started it" in event.reason and not record.forked_from:
                assert repr(record.parent) in event.reason, f"{record.id} is cancelled by a stranger"
        self._look_at_end(life)

    def _look_at_end(self, life: Life) -> None:
        record = life.record
        if record.status.terminal:
            assert (record.owner, record.claims, record.runnable_at) == ("", 0, None)
        if record.status is ExecutionStatus.COMPLETED:
            assert record.result is not None
            result = self._codec.decode(record.result)
            assert RIGHT[record.workflow_id](result, *life.args), (record.id, life.args, result)

    def _new_entries(self, life: Life) -> list[Entry]:
        """Read what is new in its journal; another run begins another one."""
        record, before = life.record, life.entries
        if record.run != life.run:
            life.run, before, life.results = record.run, {}, {}
        rows = self._data.journals.get(record.id, [])
        life.entries = {row.seq: before.get(row.seq) or decode_entry(record.id, row.seq, row.body) for row in rows}
        assert list(life.entries) == list(range(rows[0].seq if rows else 1, record.last_seq + 1))
        return [entry for seq, entry in life.entries.items() if seq not in before]

    def _rewound(self, life: Life, event: Rewound) -> None:
        """What was recorded of steps that had been issued before stays, though it may be on its way once more."""
        live = effective([entry for entry in life.entries.values() if entry.seq <= event.to])
        issued = sum(len(entry.issued) for entry in live)
        life.results = {step: result for step, result in life.results.items() if step <= issued}
        kept = [entry.event for entry in live] + self._unread(life.record)
        assert life.results.keys() <= {event.step for event in kept if isinstance(event, StepCompleted)}
        if life.record.parent not in self._together:
            self._alone.add(life.record.id)

    def _look_at_answers(self, live: list[Entry], *, forked: bool) -> None:
        events = [entry.event for entry in live]
        again = Counter(step for event in events if isinstance(event, RequestsReissued) for step in event.steps)
        answers = Counter((e.step, kind_and_name(e.name)[0]) for e in events if isinstance(e, RequestCompleted))
        for (step, kind), count in answers.items():
            if kind != "lock" or not forked:  # a fork takes over that a lock was granted again, and not why
                most = 1 + again[step] * (kind == "lock")
                assert count <= most, f"call {step} is answered {count} times"
        steps = Counter(event.step for event in events if isinstance(event, StepCompleted))
        signals = Counter(event.number for event in events if isinstance(event, SignalReceived))
        assert not steps or max(steps.values()) == 1
        assert not signals or max(signals.values()) == 1

    def issued(self, name: str) -> int:
        """How many calls an execution has issued."""
        entries = list(self._lives[name].entries.values())
        return sum(len(entry.issued) for entry in effective(entries))

    def _unread(self, record: ExecutionRecord) -> list[Event]:
        rows = [row for row in self._data.inboxes.get(record.id, []) if row.number > record.inbox_done]
        return [decode_entry(record.id, 0, row.body).event for row in rows]

    # --- locks ---------------------------------------------------------------------------------------------
    def _look_at_lock(self, lock: Lock) -> None:
        before = self._locks.get(lock.name, Lock(lock.name, PERMITS[lock.name]))
        self._locks[lock.name] = lock
        known = {claim.order: claim for claim in before.claims}
        holding = [claim.order for claim in lock.holders]
        waiting = [claim.order for claim in lock.waiting]
        assert len(holding) <= lock.limit == PERMITS[lock.name]
        assert not waiting or (len(holding) == lock.limit and max(holding) < min(waiting)), (
            "not first come, first served"
        )
        for claim in lock.claims:
            assert claim.order in known or claim.order > before.last_order
            assert not self._is_over(claim.execution_id), f"{claim.execution_id} is over and has a lock"
        self._look_at_grants(lock, [c for c in lock.holders if not (c.order in known and known[c.order].token)])
        if lock is not before:
            counts = Counter(claim.execution_id for each in self._data.locks.values() for claim in each.claims)
            assert {name: life.record.claims for name, life in self._lives.items() if life.record.claims} == counts

    def _look_at_grants(self, lock: Lock, granted: Sequence[Claim]) -> None:
        """Tokens rise, but for who had the last one and goes on."""
        grants = self._grants.setdefault(lock.name, {})
        for claim in granted:
            last = max(grants, default=0)
            assert claim.token > last or (claim.token == last and grants[last] == claim.claimant), "it does not rise"
            grants[claim.token] = claim.claimant

    def believes(self, driver: ExecutionDriver) -> None:
        """What the code of a live owner holds to be its own is its own."""
        record, execution = self._data.executions[driver.id], driver.execution
        if execution is None or record.epoch != driver.epoch:
            return
        course = execution._run
        for held in course.machine.held_locks:
            if held.seq not in course.requests._lost:
                claim = self._data.locks[held.call.name].claim_of(Claimant(driver.id, held.seq))
                assert claim is not None
                assert claim.token == held.token, f"{driver.id} believes to have lock {held.call.name!r}"

    # --- steps ---------------------------------------------------------------------------------------------
    def begins(self, name: str, run: RunAttempt) -> None:
        """An attempt begins at a worker."""
        life = self._lives[name]
        assert not life.record.status.terminal
        assert run.seq not in life.results, f"step {run.seq} of {name} is recorded, and runs again"
        args, _ = self._codec.decode(run.payload)
        if len(args) > 1:  # as an argument the token stays the one of the first grant, also after a rewind
            lock = self._data.locks[args[1]]
            assert name in {claim.execution_id for claim in lock.holders}, f"{name} works without its lock"
            latest = max(claim.token for claim in lock.holders if claim.execution_id == name)
            assert args[2] <= latest
            assert locks.check(lock, latest)
            grants = self._grants[args[1]]
            if lock.limit == 1 and args[2] < latest and grants[args[2]].execution_id == name:
                # One that is not known was granted and given back within a transaction.
                between = {grants.get(token, NOBODY).execution_id for token in range(args[2] + 1, latest)}
                assert between - {name}, f"the token of {name} has changed though nobody else had its lock"

    # --- families ------------------------------------------------------------------------------------------
    def _is_newly_rewound(self, name: str) -> bool:
        life, rows = self._lives.get(name), self._data.journals.get(name, [])
        if life is None or not rows or rows[-1].seq in life.entries:
            return False
        return isinstance(decode_entry(name, rows[-1].seq, rows[-1].body).event, Rewound)

    def _is_over(self, name: str) -> bool:
        record = self._data.executions.get(name)
        return record is None or record.status.terminal

    def _is_waited_for(self, name: str, parent: ExecutionRecord, steps: Sequence[int]) -> bool:
        record = self._lives[name].record
        return record.parent == parent.id and record.parent_step in steps

    def _look_for_orphans(self, life: Life) -> None:
        record = life.record
        if not record.parent_step or record.status.terminal or record.workflow_id == "free":
            return
        if not self._is_over(record.parent) or record.id in self._alone:
            return
        told = [entry.event for entry in effective(list(life.entries.values()))] + self._unread(record)
        assert any(isinstance(event, CancelRequested) for event in told), f"{record.id} is nobody's any more"
