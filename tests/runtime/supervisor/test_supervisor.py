"""The supervisor knows who drives what, even if messages are late, repeated, lost or overtaken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

from rayflow.core.cluster.placement import CoordinatorSlot
from rayflow.errors import StorageUnavailable
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorLost, ActorUnavailable, Reply
from rayflow.runtime.actors.clock import REAL
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.coordinator.supervisor_client import SupervisorClient
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.supervisor import Supervisor
from rayflow.storage.base import Filter
from rayflow.storage.model import ExecutionRecord
from tests.contract.operations import NOW, record

ENVIRONMENT = Environment(paths=())
FIRST, SECOND = (actor_names.coordinator(ENVIRONMENT.id, name) for name in ("first", "second"))


class Sent:
    """An actor that records its messages; the test sends the replies."""

    def __init__(self, system: Scripted, name: str) -> None:
        self._system = system
        self._name = name

    def send(self, method: str, *args: Any, then: Callable[[Reply], None] | None = None, **_: Any) -> None:
        self._system.sent[self._name].append((method, args))
        self._system.replies[self._name].append(then)
        if then is not None and (answer := self._system.answer(method)) is not None:
            then(answer)

    def call(self, method: str, query: Filter, **_: Any) -> list[ExecutionRecord]:
        assert method == "executions"
        if self._system.down:
            raise StorageUnavailable("gone")
        rows = self._system.rows.values()
        return [row for row in rows if not query.ids or row.id in query.ids]


class Scripted:
    """An actor system of such actors, with the rows of a store."""

    clock = REAL
    separate = True

    def __init__(self) -> None:
        self.sent: dict[str, list[tuple[str, tuple[Any, ...]]]] = defaultdict(list)
        self.replies: dict[str, list[Callable[[Reply], None] | None]] = defaultdict(list)
        self.rows: dict[str, ExecutionRecord] = {}
        self.down = False

    def find(self, name: str) -> Sent:
        return Sent(self, name)

    def answer(self, method: str) -> Reply | None:
        """Return an immediate reply, or None."""

    def cpus(self) -> float:
        return 1.0

    def kill(self, name: str, *, restart: bool = False) -> None:
        self.sent[name].append(("kill", (restart,)))


def supervisor(system: Scripted, *places: str) -> Supervisor:
    """Return a started supervisor with these coordinators ready; the test is its thread."""
    made = Supervisor(system, Settings("memory://"))  # type: ignore[arg-type]
    for name in places:
        made.coordinators.slots[name] = CoordinatorSlot(name, ENVIRONMENT.id, ready=True)
    made._started = True
    return made


def row(epoch: int, *, owner: str = "") -> ExecutionRecord:
    """Return the execution's row: parked and due, or driven by a coordinator."""
    due = None if owner else NOW
    return record(environment=ENVIRONMENT.to_json(), epoch=epoch, owner=owner, coordinator=owner, runnable_at=due)


def given(system: Scripted, made: Supervisor, epoch: int) -> str:
    """Have the execution assigned, and return its coordinator."""
    system.rows["x"] = row(epoch)
    made.submit([system.rows["x"]])
    made._place()
    return made._owners["x"][0]


# --- the supervisor -----------------------------------------------------------------------------------------
def test_a_late_release_of_an_earlier_epoch_is_ignored() -> None:
    system = Scripted()
    made = supervisor(system, FIRST)
    assert given(system, made, epoch=0) == FIRST
    made.released(FIRST, {"x": 1})
    assert given(system, made, epoch=1) == FIRST
    made.released(FIRST, {"x": 1})
    assert made._owners == {"x": (FIRST, 2)}
    # So another coordinator takes over when that one dies.
    made.coordinators.slots[SECOND] = CoordinatorSlot(SECOND, ENVIRONMENT.id, ready=True)
    system.rows["x"] = row(2, owner=FIRST)
    made.coordinators.group.end(FIRST, ActorLost(FIRST))
    made._place()
    assert made._owners == {"x": (SECOND, 3)}


def test_a_rejected_claim_makes_the_supervisor_look_up_the_owner() -> None:
    system = Scripted()
    made = supervisor(system, FIRST, SECOND)
    chosen = given(system, made, epoch=0)
    other = SECOND if chosen == FIRST else FIRST
    # An earlier supervisor had assigned it to the other one, whose claim was first.
    system.rows["x"] = row(1, owner=other)
    system.down = True
    made.superseded(chosen, {"x": 1})
    assert made._owners == {}
    system.down = False
    made.mailbox._delayed[0][2]()
    assert made._owners == {"x": (other, 1)}
    assert made.coordinators.slots[other].executions == {"x"}
    assert made.coordinators.slots[chosen].executions == set()


def test_an_execution_without_an_owner_is_assigned_again() -> None:
    for owner in ("", actor_names.coordinator(ENVIRONMENT.id, "dead")):
        system = Scripted()
        made = supervisor(system, FIRST)
        system.rows["x"] = row(1, owner=owner)
        made.superseded(FIRST, {"x": 1})
        made._place()
        assert made._owners == {"x": (FIRST, 2)}


def test_a_failed_call_is_not_a_death() -> None:
    system = Scripted()
    made = supervisor(system, FIRST)
    group = made.coordinators.group
    group._submit = lambda action: action()
    group.adopt(FIRST)
    for error in (ActorUnavailable(FIRST), None, ActorUnavailable(FIRST)):
        then = system.replies[FIRST][-1]
        assert then is not None
        then(Reply(error=error))
    assert [method for method, _ in system.sent[FIRST]] == ["ready", "ready", "watch", "watch"]
    assert FIRST in made.coordinators.slots
    then = system.replies[FIRST][-1]
    assert then is not None
    then(Reply(error=ActorLost(FIRST)))
    assert FIRST not in made.coordinators.slots


def test_adoption_repeats_a_failed_census() -> None:
    class Answering(Scripted):
        errors: ClassVar = [ActorUnavailable(FIRST), None]

        def names(self) -> list[str]:
            return [FIRST]

        def answer(self, method: str) -> Reply | None:
            return Reply(value={"x": 3}, error=self.errors.pop(0)) if method == "census" else None

    system = Answering()
    made = supervisor(system)
    assert made.coordinators.adopt() == {"x": (FIRST, 3)}
    assert [method for method, _ in system.sent[FIRST]] == ["census", "census", "environment", "ready"]


class Immediate(Mailbox):
    """A mailbox without a thread: submitted actions run at once, delayed ones when the test says so."""

    def __init__(self) -> None:
        super().__init__("test", lambda: None, lambda: None)

    def submit(self, action: Callable[[], None]) -> None:
        action()

    def run_delayed(self) -> None:
        [(_, _, action)] = self._delayed
        self._delayed.clear()
        action()


# --- supervisor client ----------------------------------------------------------------------------------------
def test_a_message_that_was_not_delivered_is_sent_again() -> None:
    system, mailbox = Scripted(), Immediate()
    client = SupervisorClient(system, FIRST, mailbox)  # type: ignore[arg-type]
    client.notify(["x"])
    for answer in (Reply(error=ActorUnavailable(actor_names.SUPERVISOR)), Reply(), Reply(error=ActorLost("s"))):
        then = system.replies[actor_names.SUPERVISOR][-1]
        assert then is not None
        then(answer)
    mailbox.run_delayed()  # there is exactly one
    assert system.sent[actor_names.SUPERVISOR] == [("notify", (("x",),))] * 2


def test_a_misrouted_notification_is_passed_on_after_a_pause() -> None:
    system, mailbox = Scripted(), Immediate()
    client = SupervisorClient(system, FIRST, mailbox)  # type: ignore[arg-type]
    client.misrouted("x")
    assert system.sent == {}
    mailbox.run_delayed()
    assert system.sent[actor_names.SUPERVISOR] == [("notify", (("x",),))]
