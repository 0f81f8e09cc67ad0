"""Who drives what stays known whatever becomes of the words about it: late, twice, lost, or overtaken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

from rayflow.core.cluster.placement import CoordinatorSlot
from rayflow.errors import StorageUnavailable
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorLost, ActorUnavailable, Reply
from rayflow.runtime.actors.clock import REAL
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
    """An actor that keeps what it is sent, and answers nothing by itself."""

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
    """A system of such actors, with a store's rows."""

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
        """What is answered at once; None for nothing."""

    def cpus(self) -> float:
        return 1.0

    def kill(self, name: str, *, restart: bool = False) -> None:
        self.sent[name].append(("kill", (restart,)))


def overseer(system: Scripted, *places: str) -> Supervisor:
    """One that has begun, with these coordinators ready; its thread is the test's."""
    made = Supervisor(system, Settings("memory://"))  # type: ignore[arg-type]
    for name in places:
        made.fleet.places[name] = CoordinatorSlot(name, ENVIRONMENT.id, ready=True)
    made._begun = True
    return made


def row(epoch: int, *, owner: str = "") -> ExecutionRecord:
    """The execution as the store has it: parked and due, or driven by a coordinator."""
    due = None if owner else NOW
    return record(environment=ENVIRONMENT.to_json(), epoch=epoch, owner=owner, coordinator=owner, runnable_at=due)


def given(system: Scripted, made: Supervisor, epoch: int) -> str:
    """Give the execution to a coordinator; answers which."""
    system.rows["x"] = row(epoch)
    made.submit([system.rows["x"]])
    made._place()
    return made._owners["x"][0]


# --- the supervisor -----------------------------------------------------------------------------------------
def test_a_late_word_of_an_earlier_time_takes_nothing_from_who_drives_it_again() -> None:
    system = Scripted()
    made = overseer(system, FIRST)
    assert given(system, made, epoch=0) == FIRST
    made.released(FIRST, {"x": 1})
    assert given(system, made, epoch=1) == FIRST
    made.released(FIRST, {"x": 1})
    assert made._owners == {"x": (FIRST, 2)}
    # So it is taken up by others when that coordinator dies.
    made.fleet.places[SECOND] = CoordinatorSlot(SECOND, ENVIRONMENT.id, ready=True)
    system.rows["x"] = row(2, owner=FIRST)
    made.fleet._gone(FIRST)
    made._place()
    assert made._owners == {"x": (SECOND, 3)}


def test_who_is_refused_the_claim_has_it_looked_up_who_has_it() -> None:
    system = Scripted()
    made = overseer(system, FIRST, SECOND)
    chosen = given(system, made, epoch=0)
    other = SECOND if chosen == FIRST else FIRST
    # An earlier supervisor had given it to the other one, which was faster.
    system.rows["x"] = row(1, owner=other)
    system.down = True
    made.superseded(chosen, {"x": 1})
    assert made._owners == {}
    system.down = False
    made.turns._later[0][2]()
    assert made._owners == {"x": (other, 1)}
    assert made.fleet.places[other].executions == {"x"}
    assert made.fleet.places[chosen].executions == set()


def test_what_nobody_has_any_more_is_given_to_somebody() -> None:
    for owner in ("", actor_names.coordinator(ENVIRONMENT.id, "dead")):
        system = Scripted()
        made = overseer(system, FIRST)
        system.rows["x"] = row(1, owner=owner)
        made.superseded(FIRST, {"x": 1})
        made._place()
        assert made._owners == {"x": (FIRST, 2)}


def test_a_call_that_is_not_answered_is_no_death() -> None:
    system = Scripted()
    made = overseer(system, FIRST)
    fleet = made.fleet
    unanswered = Reply(error=ActorUnavailable(FIRST))
    fleet._watch(FIRST)
    fleet._watched(FIRST, unanswered)
    fleet._started(FIRST, unanswered)
    assert [method for method, _ in system.sent[FIRST]] == ["watch", "watch", "ready"]
    assert FIRST in fleet.places
    fleet._watched(FIRST, Reply(error=ActorLost(FIRST)))
    assert FIRST not in fleet.places


def test_who_is_there_is_asked_again_where_only_the_call_failed() -> None:
    class Answering(Scripted):
        errors: ClassVar = [ActorUnavailable(FIRST), None]

        def names(self) -> list[str]:
            return [FIRST]

        def answer(self, method: str) -> Reply | None:
            return Reply(value={"x": 3}, error=self.errors.pop(0)) if method == "census" else None

    system = Answering()
    made = overseer(system)
    assert made.fleet.adopt() == {"x": (FIRST, 3)}
    assert [method for method, _ in system.sent[FIRST]] == ["census", "census", "environment", "ready"]


# --- a coordinator's words ----------------------------------------------------------------------------------
def test_a_word_that_is_not_heard_is_said_again() -> None:
    system, waiting = Scripted(), list[Callable[[], None]]()
    reports = SupervisorClient(system, FIRST, lambda action: action(), lambda _, action: waiting.append(action))  # type: ignore[arg-type]
    reports.nudge(["x"])
    for answer in (Reply(error=ActorUnavailable(actor_names.SUPERVISOR)), Reply(), Reply(error=ActorLost("s"))):
        then = system.replies[actor_names.SUPERVISOR][-1]
        assert then is not None
        then(answer)
    assert len(waiting) == 1
    waiting.pop()()
    assert system.sent[actor_names.SUPERVISOR] == [("nudge", (("x",),))] * 2


def test_a_word_for_what_is_still_on_its_way_says_only_that_there_was_one() -> None:
    system, waiting = Scripted(), list[Callable[[], None]]()
    reports = SupervisorClient(system, FIRST, lambda action: action(), lambda _, action: waiting.append(action))  # type: ignore[arg-type]
    reports.astray("x")
    assert system.sent == {}
    waiting.pop()()
    assert system.sent[actor_names.SUPERVISOR] == [("nudge", (("x",),))]
