"""The coordinator of a test: the real one, with turns on the stage, and with its code put to the test.

With ``paranoid``, each event is preceded by dropping the workflow's code and replaying the journal from the store. Code
that does not repeat itself is paused as after a crash, and the error is kept for whoever waits.
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
    """Turns that the stage takes: one posted action each.

    Args:
        stage: the stage.
        given: as of :class:`~rayflow.runtime.actors.mailbox.Mailbox`.
    """

    def __init__(self, stage: DeterministicActorSystem, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._housekeeping: list[Callable[[], None]] = []
        stage.add(self)

    def start(self) -> None:
        """Nothing: the stage has a thread."""

    def ask(self, question: Callable[[], T]) -> T:
        """The answer, at once: whoever asks is on the stage."""
        return question()

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Run the action whenever the clock was moved: its moments are none that the clock would stop at."""
        self._housekeeping.append(action)

    # --- a part of the stage -------------------------------------------------------------------------------
    def work(self) -> bool:
        """See Part."""
        action = self._ready()
        if action is not None:
            self._do(action)
        elif (due := self.next_due()) is None or due > self.now():
            return False
        self._end_turn()
        return True

    def moved(self) -> None:
        """See Part."""
        for action in self._housekeeping:
            self.post(action)


class DeterministicCoordinator(Coordinator):
    """A conductor that keeps executions whose code does not repeat itself from ending its turns.

    Args:
        stage: the stage.
        name: the coordinator's name.
        env: its code environment.
        settings: as for all actors.
        blocked: where it is kept why an execution cannot go on, by its id.
        differs: told of code that did not repeat itself before an event.
        paranoid: whether the code is dropped before each event.
        performer: makes what runs attempts.
    """

    def __init__(
        self,
        stage: DeterministicActorSystem,
        name: str,
        env: Environment,
        settings: Settings,
        *,
        blocked: dict[str, Exception],
        differs: Callable[[Exception], None],
        paranoid: bool,
        performer: Callable[..., Any],
    ) -> None:
        self._stage = stage

        def driver(record: ExecutionRecord, **given: Any) -> DeterministicDriver:
            rows = self._rows if paranoid else None
            return DeterministicDriver(record, blocked=blocked, differs=differs, rows=rows, **given)

        def turns(*given: Any, **named: Any) -> DeterministicMailbox:
            return DeterministicMailbox(stage, *given, **named)

        super().__init__(stage, name, env, settings, turns=turns, driver=driver, performer=performer)

    def driver(self, execution_id: str) -> ExecutionDriver | None:
        """What drives that execution, if anything does."""
        return self._drivers.get(execution_id)

    def _rows(self, execution_id: str) -> list[JournalRow]:
        rows: list[JournalRow] = self._stage.perform(actor_names.PERSISTENCE, "journal", (execution_id,))
        return rows

    def _next_wake(self) -> float | None:
        # Not the first one that was ever noted, which may be out of date: the clock would stop there for nothing.
        return min((driver.wake for driver in self._drivers.values() if driver.wake is not None), default=None)

    # --- events --------------------------------------------------------------------------------------------
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
                if not driver.set_aside(error, self.now()):
                    raise
                self._touch(driver)
            if not found:
                raise


class DeterministicDriver(ExecutionDriver):
    """A driver that says why an execution cannot go on, and has its code rehearse.

    Args:
        record: the execution's row.
        blocked: where it says why.
        differs: told of code that did not repeat itself, where that is not to be.
        rows: answers its journal in the store; None for no rehearsals.
        given: as of :class:`~rayflow.runtime.coordinator.driver.ExecutionExecutionDriver`.

    Attributes:
        difference: how its code did not repeat itself.
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
            if self._rows is not None and self.options.checkpoints != "off":  # else there is nothing to replay
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
        """Replay all that was recorded in fresh code, and go on with that."""
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
    """What the journal does not show: whether it has ended, and when its next timer is due."""
    if fresh.outcome is not None:
        raise NonDeterminismError(
            expected="the workflow to wait", seen=f"its end ({fresh.outcome.status})", position=position
        )
    before, after = machine.next_timer(), fresh.next_timer()
    if before != after:
        raise NonDeterminismError(expected=_timer(before), seen=_timer(after), position=position)


def _timer(found: tuple[float, int] | None) -> str:
    return "no timer" if found is None else f"timer {found[1]} to be due at {found[0]!r}"
