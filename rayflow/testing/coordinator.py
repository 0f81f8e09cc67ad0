"""Coordinator of a test: the real coordinator with a deterministic mailbox and optional replay before each event.

In ``paranoid`` mode, each event is preceded by dropping the workflow's code and replaying the journal from the store.
A nondeterministic execution is paused as after a crash, and the error is kept for the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rayflow.core.events import Entry
from rayflow.core.execution.execution import Execution
from rayflow.core.execution.journal import applied
from rayflow.core.interpreter.machine import Machine
from rayflow.core.pool.slots import Key
from rayflow.errors import NonDeterminismError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.coordinator.coordinator import Coordinator
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.runtime.settings import Settings
from rayflow.storage.codec.journal import decode_entry, encode_entry
from rayflow.storage.model import ExecutionRecord, InboxRow, JournalRow
from rayflow.testing.actors import DeterministicActorSystem

T = TypeVar("T")


class DeterministicMailbox(Mailbox):
    """Mailbox that runs one action at a time on the thread of the test."""

    def __init__(self, system: DeterministicActorSystem, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._housekeeping: list[Callable[[], None]] = []
        system.add(self)

    def start(self) -> None:
        """Do nothing: the actor system has a thread."""

    def call(self, question: Callable[[], T]) -> T:
        """Return the answer immediately: the caller is on the thread."""
        return question()

    def submit_every(self, seconds: float, action: Callable[[], None]) -> None:
        """Run the action whenever the clock has moved; the clock does not stop for it."""
        self._housekeeping.append(action)

    def work(self) -> bool:
        """Run one action; return whether there was one."""
        action = self._ready()
        if action is not None:
            self._do(action)
        elif (due := self.next_due()) is None or due > self.now():
            return False
        self._end_turn()
        return True

    def moved(self) -> None:
        """Submit the periodic actions after the clock has moved."""
        for action in self._housekeeping:
            self.submit(action)


class DeterministicCoordinator(Coordinator):
    """Coordinator that survives nondeterministic executions, and pauses them.

    Args:
        system: the actor system.
        name: the coordinator's name.
        env: its code environment.
        settings: shared by all actors.
        blocked: receives, by execution id, the error that blocks an execution.
        differs: called with each nondeterminism error of ``paranoid`` mode.
        paranoid: whether the journal is replayed before each event.
        performer: creates the runner of attempts.
    """

    def __init__(
        self,
        system: DeterministicActorSystem,
        name: str,
        env: Environment,
        settings: Settings,
        *,
        blocked: dict[str, Exception],
        differs: Callable[[Exception], None],
        paranoid: bool,
        performer: Callable[..., Any],
    ) -> None:
        self._actor_system = system

        def driver(record: ExecutionRecord, **given: Any) -> DeterministicDriver:
            rows = self._rows if paranoid else None
            return DeterministicDriver(record, blocked=blocked, differs=differs, rows=rows, **given)

        def mailbox(*given: Any, **named: Any) -> DeterministicMailbox:
            return DeterministicMailbox(system, *given, **named)

        super().__init__(system, name, env, settings, mailbox=mailbox, driver=driver, router=performer)

    def driver(self, execution_id: str) -> ExecutionDriver | None:
        """Return the driver of an execution; None if it is not driven here."""
        return self._drivers.get(execution_id)

    def _rows(self, execution_id: str) -> list[JournalRow]:
        rows: list[JournalRow] = self._actor_system.perform(actor_names.STORE, "journal", (execution_id,))
        return rows

    def _next_wake(self) -> float | None:
        # Computed, since a noted time may be out of date: the clock would stop there for nothing.
        return min((driver.wake for driver in self._drivers.values() if driver.wake is not None), default=None)

    def _received(self, driver: ExecutionDriver, rows: Sequence[InboxRow]) -> None:
        for row in rows:
            with self._guarded():
                super()._received(driver, [row])

    def _tell(self, key: Key, what: Callable[[Execution], object], epoch: int | None = None) -> None:
        with self._guarded():
            super()._tell(key, what, epoch)

    def _tick(self, now: float) -> None:
        done = False
        while not done:
            with self._guarded():
                super()._tick(now)
                done = True

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except NonDeterminismError as error:
            found = [d for d in self._drivers.values() if isinstance(d, DeterministicDriver) and d.difference is error]
            for driver in found:
                if not driver.quarantine(error, self.now()):
                    raise
                self._touch(driver)
            if not found:
                raise


class DeterministicDriver(ExecutionDriver):
    """Driver that records why an execution is blocked, and replays its journal before each event.

    Args:
        record: the execution's record.
        blocked: receives, by execution id, the error that blocks an execution.
        differs: called with each nondeterminism error of ``paranoid`` mode.
        rows: returns the journal in the store; None to never replay.
        given: arguments of :class:`~rayflow.runtime.coordinator.driver.ExecutionDriver`.

    Attributes:
        difference: the nondeterminism that was found.
    """

    def __init__(
        self,
        record: ExecutionRecord,
        *,
        blocked: dict[str, Exception],
        differs: Callable[[Exception], None],
        rows: Callable[[str], Sequence[JournalRow]] | None,
        **given: Any,
    ) -> None:
        super().__init__(record, **given)
        self.difference: NonDeterminismError | None = None
        self._why = blocked
        self._differs = differs
        self._rows = rows

    def _load(self, go: Callable[[Execution], None], now: float, *, seen: int = 0) -> None:
        def loaded(execution: Execution) -> None:
            if self._rows is not None and self.options.checkpoints != "off":  # otherwise nothing is recorded
                execution.before_apply(self._rehearse)
            go(execution)

        self._why.pop(self.id, None)
        super()._load(loaded, now, seen=seen)

    def _block(self, error: Exception, now: float, seen: int) -> None:
        self._why[self.id] = error
        if self._rows is not None and isinstance(error, NonDeterminismError):
            self._differs(error)
        super()._block(error, now, seen)

    def _rehearse(self, machine: Machine, untaken: Sequence[Entry]) -> Machine:
        """Return a fresh machine that has replayed the journal, to replace the current one."""
        assert self._rows is not None
        entries = [decode_entry(self.id, row.seq, row.body) for row in self._rows(self.id)]
        last = entries[-1].seq if entries else 0
        later = (entry for entry in (*self._entries, *untaken) if entry.seq > last)
        entries += [decode_entry(self.id, entry.seq, encode_entry(entry)) for entry in later]
        played = applied(entries)
        if not played:
            return machine
        fresh = machine.fresh_copy()
        try:
            fresh.replay(played)
            _compare(machine, fresh, played[-1].seq)
        except NonDeterminismError as error:
            self.difference = error
            fresh.evict()
            raise
        machine.evict()
        return fresh


def _compare(machine: Machine, fresh: Machine, position: int) -> None:
    """Compare what the journal does not show: whether the code has ended, and its next timer."""
    if fresh.outcome is not None:
        raise NonDeterminismError(
            expected="a waiting workflow", seen=f"its end ({fresh.outcome.status})", position=position
        )
    before, after = machine.next_timer(), fresh.next_timer()
    if before != after:
        raise NonDeterminismError(expected=_timer(before), seen=_timer(after), position=position)


def _timer(found: tuple[float, int] | None) -> str:
    return "no timer" if found is None else f"timer {found[1]} due at {found[0]!r}"
