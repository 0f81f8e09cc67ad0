"""A world without actors for the test across executions: a store, drivers, workers' answers, and a clock.

Everything that decides is the real thing: machines, drivers, the scribe, the store's rules, the timekeeper, and the
engine's hand that steers, forks and schedules. What is missing is threads, and whoever sees to it that executions are
driven: the test says what is driven next, which attempt ends how, and who dies.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Literal, TypeVar, cast

from rayflow.client.code import ClientCode
from rayflow.client.control import ExecutionCommands
from rayflow.client.dead_letters import DeadLetters
from rayflow.client.engine import Engine
from rayflow.client.forks import Forks
from rayflow.client.handle import Handles
from rayflow.client.schedules import Schedules
from rayflow.client.starts import Starter
from rayflow.core.execution.actions import Action, RunAttempt
from rayflow.core.schedules.machine import DueStart, manual_id, started
from rayflow.definition.base import Definition, WorkflowDefinition
from rayflow.definition.code import CodeCache, CodeRef, reference
from rayflow.definition.options import EngineConfig, ExecutionOptions
from rayflow.definition.start_options import SavedWorkflow
from rayflow.errors import RayflowError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import Actor, ActorSystem
from rayflow.runtime.actors.clock import SystemClock
from rayflow.runtime.code.change_detector import CodeChangeDetector
from rayflow.runtime.code.environment import capture
from rayflow.runtime.code.loader import CodeSource
from rayflow.runtime.coordinator.driver import ExecutionDriver, is_fresh
from rayflow.runtime.supervisor.maintenance import MaintenanceLoop
from rayflow.storage.changes import Changes, apply
from rayflow.storage.codec.large_values import Reference
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec
from rayflow.storage.memory import MemoryData, MemoryStore
from rayflow.storage.model import DefinitionRecord, ExecutionRecord
from rayflow.storage.operations import Answer, Done, Operation, Park, Start
from rayflow.storage.rules.starts import new_record
from tests.core.fake import failure
from tests.properties.across_flows import FLOWS
from tests.properties.across_watch import Watch

T = TypeVar("T")

CODEC = MsgpackCodec()
CACHE = CodeCache()

#: When a coordinator dies: before its commit arrives, or before it hears the answer.
Crash = Literal["before", "after"] | None


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine answers that waits for nothing, as those of a store in memory."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    raise AssertionError("it waits")


@functools.cache
def referred(definition: Definition) -> CodeRef:
    found = reference(definition)
    assert found is not None
    return found


def saved(flow: Any) -> DefinitionRecord:
    code = json.dumps(referred(flow).to_dict()).encode()
    return DefinitionRecord(flow.id, flow.version, flow.id, "", code, "", 0.0, "{}")


class Clock(SystemClock):
    """A clock that the test sets, also back."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


class KnownFlows(Starter):
    """Knows the workflows of the test without saving them."""

    def definition(self, workflow: WorkflowDefinition | SavedWorkflow) -> DefinitionRecord:
        return next(saved(flow) for flow in FLOWS if flow.id == workflow.id)


class NoCode(ClientCode):
    """Code without files: no fingerprint is known."""

    def fingerprint(self, definition: DefinitionRecord | ExecutionRecord) -> str:
        return ""


class Hand(Engine):
    """The hand of a user: an engine whose actors are the test's."""

    def __init__(self, system: ActorSystem, codec: MsgpackCodec) -> None:
        super().__init__(system, EngineConfig(), "memory://", capture()[0])
        backend, encoder = self._backend, LargeValueEncoder(codec, _keep_nothing, threshold=sys.maxsize)
        code = NoCode(self._environment, backend)
        # Nothing else runs while it waits.
        self.commands = ExecutionCommands(backend, codec, encoder, code, settle_timeout=0.0)
        self._commands = self.commands
        handles = Handles(self._queries, self.commands, self._watcher)
        starter = KnownFlows(
            backend,
            handles,
            config=self.config,
            codec=codec,
            encoder=encoder,
            code=code,
            environment=self._environment,
            new_seed=self._new_seed,
        )
        self._forks = Forks(backend, starter, handles, codec=codec, encoder=encoder, code=code, new_seed=self._new_seed)
        self.schedules = Schedules(backend, starter, handles, codec, self.config)
        self.dead_letters = DeadLetters(backend, self._queries.decode, self.commands.resume)


def _keep_nothing(reference: Reference, data: bytes) -> None:
    raise AssertionError(f"nothing is large here, and {reference} of {len(data)} bytes is")


class Asked:
    """The store's actor, and the supervisor's, which has nothing to do here."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        return self.world.ask(method, *args) if self.name == actor_names.STORE else None

    def send(self, method: str, *args: Any, **about: Any) -> None:
        assert self.name == actor_names.SUPERVISOR


class System:
    """Where the hand finds actors."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = world.clock

    def find(self, name: str) -> Actor:
        return Asked(self.world, name)


class World:
    """See the module's docstring.

    Attributes:
        drivers: by execution, those that have not died.
        attempts: what workers have been given by them, by execution and step.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.data = MemoryData()
        self.watch = Watch(self.data, CODEC)
        self.store = MemoryStore(data=self.data)
        at_once(self.store.open())
        at_once(self.store.claim_writer("world", now=0.0, fresh_for=1.0))
        self.drivers: dict[str, ExecutionDriver] = {}
        self.attempts: dict[tuple[str, int], RunAttempt] = {}
        self.system = cast("ActorSystem", System(self))
        self.hand = Hand(self.system, CODEC)
        self.numbers = 0
        for flow in FLOWS:
            at_once(self.store.save_definition(saved(flow)))

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    # --- the store -----------------------------------------------------------------------------------------
    def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        answers = at_once(self.store.commit(operations))
        for operation, answer in zip(operations, answers, strict=True):
            if isinstance(operation, Park) and isinstance(answer, Done) and answer.parked:
                self.watch.sleeps(operation)
        self.watch.committed()
        return answers

    def ask(self, method: str, *args: Any) -> Any:
        """What the store's actor answers."""
        if method == "start":
            return self.commit(args[0])
        if method == "dead_letters":
            return at_once(self.store.dead_letters(execution_id=args[0], step=args[3]))
        return at_once(getattr(self.store, method)(*args))

    def look(self, **instead: Any) -> None:
        """A timekeeper looks after schedules, leases and deadlocks; some of what it reads may be out of date."""

        def ask(method: str, *args: Any) -> Any:
            return instead[method] if method in instead else self.ask(method, *args)

        MaintenanceLoop(ask, lambda ids: None, CODEC).run(self.clock.now())

    def start(self, flow: Any, *args: Any, name: str, **options: Any) -> Answer:
        record = new_record(
            saved(flow),
            args,
            {},
            execution_id=name,
            options=ExecutionOptions(**options),
            encode=CODEC.encode,
            nonce=f"start {self.number()}",
            now=self.clock.now(),
        )
        [answer] = self.commit([Start(record)])
        return answer

    def trigger(self, schedule: str) -> None:
        """Start a schedule's workflow by hand, under an id that is the same each time the test runs."""
        start = DueStart(manual_id(schedule, str(self.number())), self.clock.now())
        self.hand.schedules._change(
            schedule, lambda plan, state: started(state, start.execution_id), starts=lambda plan, state: (start,)
        )

    def delete(self, names: Sequence[str]) -> None:
        """As somebody may who heeds no rule but that they are over."""
        over = [name for name in names if name in self.data.executions and self.data.executions[name].status.terminal]
        apply(self.data, Changes(no_executions=over))
        self.watch.committed()

    def photograph(self) -> dict[str, object]:
        """All that operations change, to compare."""
        names = ("executions", "letters", "locks", "schedules", "totals")
        maps: dict[str, object] = {name: dict(getattr(self.data, name)) for name in names}
        for name in ("journals", "inboxes"):
            maps[name] = {key: list(rows) for key, rows in getattr(self.data, name).items()}
        return maps

    def records(self, fits: Callable[[ExecutionRecord], bool]) -> list[str]:
        return [record.id for record in self.data.executions.values() if fits(record)]

    def ancestry(self, name: str) -> Iterator[str]:
        """An execution, its parent, that one's parent, and so on."""
        while name:
            yield name
            record = self.data.executions.get(name)
            name = "" if record is None else record.parent

    # --- driving -------------------------------------------------------------------------------------------
    def wanting(self) -> list[str]:
        """The executions that are driven, or that a supervisor would have driven now."""
        now = self.clock.now()
        return self.records(
            lambda r: not r.status.terminal and (r.owner != "" or (r.runnable_at is not None and r.runnable_at <= now))
        )

    def take_up(self, name: str) -> ExecutionDriver:
        """Another coordinator takes it up, under the next epoch."""
        now, record = self.clock.now(), self.data.executions[name]
        driver = ExecutionDriver(
            record,
            nonce=f"coordinator {self.number()}",
            coordinator="here",
            codec=CODEC,
            source=CodeSource(
                cache=CACHE,
                fetch=lambda digest: b"",
                detector=CodeChangeDetector(lambda digest: b"", enabled=False),
                refer=cast("Callable[[WorkflowDefinition], CodeRef]", referred),
                fingerprint=lambda wanted, code: wanted,
                read=lambda reference, execution_id: b"",
            ),
            config=EngineConfig().model_copy(update={"park_idle_after": 0.0}),  # at once, which nobody else needs
        )
        if is_fresh(record):
            driver.begin(now)
        else:
            [answer] = self.commit([driver.claim(now)])
            assert isinstance(answer, Done), answer
            journal, inbox = at_once(self.store.journal(name)), at_once(self.store.inbox(name))
            driver.restore(self.data.executions[name], journal, inbox, now)
        assert driver.execution is not None, driver._blocked
        self.drivers[name] = driver
        return driver

    def drive(self, names: Sequence[str], crash: Crash = None, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Let coordinators read, go on, and commit what they have, all in one transaction.

        Args:
            names: the executions.
            crash: when the coordinators die.
            meanwhile: what happens before the commit arrives.
        """
        now, members = self.clock.now(), []
        for name in names:
            driver = self.drivers.get(name) or self.take_up(name)
            driver.receive(at_once(self.store.inbox(name, after=driver.inbox_seen)), now)
            assert driver.execution is not None
            driver.execution.tick(now)
            members.append((driver, driver.operations(now)))
        meanwhile()
        answers: Iterator[Answer] = iter(())
        if crash != "before":
            answers = iter(self.commit([operation for _, operations in members for operation in operations]))
        for driver, operations in members:
            if crash is not None:
                self.drop(driver)
                continue
            self.perform(driver, driver.committed([next(answers) for _ in operations], now).actions)
            if driver.over:
                self.drop(driver)

    def drive_all(self) -> None:
        """Let all that want it go on, one after the other."""
        for name in self.wanting():
            if not self.data.executions[name].status.terminal:
                self.drive([name])

    def overtake(self, old: ExecutionDriver) -> list[Operation]:
        """Another coordinator takes up what one drives that is alive; answers what that one would commit."""
        now, execution = self.clock.now(), old.execution
        assert execution is not None
        runs = [self.attempts.pop(key) for key in list(self.attempts) if key[0] == old.id]
        self.take_up(old.id)
        for run in runs:
            execution.failed(run.seq, run.attempt, failure(), began=now, worker="w", now=now)
        operations = old.operations(now)
        old.evict()
        return operations

    def perform(self, driver: ExecutionDriver, actions: Sequence[Action]) -> None:
        execution = driver.execution
        assert execution is not None
        for action in actions:
            if not isinstance(action, RunAttempt):
                self.attempts.pop((driver.id, action.seq), None)
            elif execution.is_current(action.seq, action.attempt):  # as a coordinator asks before it sends one
                self.watch.begins(driver.id, action)
                self.attempts[driver.id, action.seq] = action
                execution.sent(action.seq, action.attempt, self.clock.now())

    def drop(self, driver: ExecutionDriver) -> None:
        """It died, or has nothing to do any more."""
        driver.evict()
        if self.drivers.get(driver.id) is driver:
            del self.drivers[driver.id]
            self.attempts = {key: run for key, run in self.attempts.items() if key[0] != driver.id}

    def answer(self, key: tuple[str, int], *, fails: bool = False) -> None:
        """An attempt ends: the step really runs, or fails."""
        run, execution = self.attempts.pop(key), self.drivers[key[0]].execution
        assert execution is not None
        now = self.clock.now()
        if fails:
            assert execution.failed(run.seq, run.attempt, failure(), began=now, worker="w", now=now)
            return
        args, kwargs = CODEC.decode(run.payload)
        result = CODEC.encode(run.call.target.owner.fn(*args, **kwargs))
        assert execution.completed(run.seq, run.attempt, result, began=now, worker="w", now=now)

    def answer_all(self) -> None:
        for key in list(self.attempts):
            if key in self.attempts:
                self.answer(key)

    def close(self) -> None:
        """Drop all code."""
        for driver in list(self.drivers.values()):
            self.drop(driver)

    # --- all of it -----------------------------------------------------------------------------------------
    def settle(self, *, patience: int = 500) -> None:
        """Let everything go well until all have ended."""
        for _ in range(patience):
            before = self.state()
            self.answer_all()
            self.drive_all()
            self.look()
            if self.state() != before:
                continue
            unfinished = self.records(lambda record: not record.status.terminal)
            if not unfinished and not any(record.wake is not None for record in self.data.schedules.values()):
                return
            wakes = self.wakes()
            assert wakes, f"{unfinished} will never end"
            self.clock.time = max(self.clock.time, min(wakes))
        raise AssertionError("it does not come to an end")

    def state(self) -> object:
        """What changes as long as anything goes on."""
        executions = [(r.id, r.last_seq, r.epoch, r.owner, r.inbox_last) for r in self.data.executions.values()]
        return executions, set(self.attempts), [record.version for record in self.data.schedules.values()]

    def wakes(self) -> list[float]:
        """When anything happens by itself."""
        found = [driver.next_wake() for driver in self.drivers.values()]
        found += [record.runnable_at for record in self.data.executions.values() if not record.status.terminal]
        found += [record.wake for record in self.data.schedules.values()]
        return [wake for wake in found if wake is not None]


def tried(what: Callable[[], object]) -> RayflowError | None:
    """Do what a person may ask for in vain; answers why."""
    try:
        what()
    except RayflowError as error:
        return error
    return None
