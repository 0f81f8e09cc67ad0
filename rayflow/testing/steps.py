"""Runs the steps of a test: each attempt as a worker runs it, on a thread, with a script's answer where there is one.

It owns what waits for a thread, what is under way, and what is done and takes virtual time until it counts. Pools have
no workers, slots or limits here: only whether there is a pool of that name matters, and its setup. Without a script,
attempts run one at a time, in the order in which they were issued, so that the same test does the same each time.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import reprlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rayflow.core.execution.actions import Action, RunAttempt, StopAttempt
from rayflow.core.pool.slots import Key
from rayflow.core.pool.step_limits import limits_of
from rayflow.definition.agent import agent_id
from rayflow.definition.base import Definition
from rayflow.definition.context import StepCall
from rayflow.definition.options import PoolConfig
from rayflow.definition.step import Step
from rayflow.errors import PoolNotFound
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, as_envelope
from rayflow.runtime.actors.daemon_threads import DaemonThreadPool
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.runtime.coordinator.pool_client import AttemptCallbacks
from rayflow.runtime.coordinator.router import AttemptRouter, PoolDispatchers
from rayflow.runtime.messages import BatchMessage, BatchReply, TaskMessage, TaskOutcome, pack, task_message, unpack
from rayflow.runtime.settings import Settings
from rayflow.runtime.worker.actor import Worker, WorkerSettings
from rayflow.testing.actors import DeterministicActorSystem
from rayflow.testing.errors import UnscriptedStep
from rayflow.testing.scripts import Call, Function, Script, Scripts, agent_of, noted
from rayflow.testing.supervisor import DeterministicSupervisor

#: Attempts that one worker holds at once, those that do not stop among them.
_MOST = 1_000

#: Under this key a task's code says which stand-in it is.
_STAND_IN = "stand_in"


@dataclass(frozen=True, slots=True)
class StandIn:
    """What a worker calls in the place of a step.

    Args:
        message: the attempt, with the code of the step itself.
        function: what is called; None for the step's own function.
        original: the step or agent, as the workflow's code has it.
        agent: whether an agent of a declared workflow is called.
        script: whose calls are noted too.
    """

    message: TaskMessage
    function: Function | None
    original: Any
    agent: bool
    script: Script | None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt that waits, or is under way."""

    driver: ExecutionDriver
    run: RunAttempt

    @property
    def key(self) -> Key:
        return (self.driver.id, self.run.seq, self.run.attempt)


class Steps(AttemptRouter):
    """See the module's docstring. A part of the stage.

    Args:
        host: the coordinator.
        system: the stage.
        env: the code environment.
        dispatchers: not used.
        settings: shared by all actors of the namespace.
        steward: knows the pools.
        scripts: what steps answer.
        strict: whether steps without a script are refused.
        at_once: real attempts that run at once.
        trouble: told of steps that had to be refused.
    """

    def __init__(
        self,
        host: AttemptCallbacks,
        system: ActorSystem,
        env: Environment,
        dispatchers: PoolDispatchers,
        settings: Settings,
        *,
        steward: DeterministicSupervisor,
        scripts: Scripts,
        strict: bool,
        at_once: int,
        trouble: list[Exception],
    ) -> None:
        super().__init__(host, system, env, dispatchers, settings)
        assert isinstance(system, DeterministicActorSystem)
        self._stage = system
        self._steward = steward
        self._scripts = scripts
        self._strict = strict
        self._at_once = at_once
        self._trouble = trouble
        self._threads = DaemonThreadPool("steps", _MOST)
        self._numbers = itertools.count(1)
        self._workers: dict[str, StandInWorker] = {}
        self._waiting: deque[_Attempt] = deque()
        self._running: dict[Key, float] = {}
        self._away: dict[Key, float] = {}
        self._later: list[tuple[float, int, TaskOutcome, str, int]] = []
        system.steps = self
        system.add(self)

    # --- Performer -----------------------------------------------------------------------------------------
    def perform(self, driver: ExecutionDriver, actions: Sequence[Action]) -> None:
        """See Performer."""
        for action in actions:
            if isinstance(action, StopAttempt):
                self._stop((driver.id, action.seq, action.attempt))
            else:
                self._waiting.append(_Attempt(driver, action))

    def forget(self, execution_id: str) -> None:
        """See Performer."""
        keys = (*(attempt.key for attempt in self._waiting), *self._running, *self._away)
        for key in [key for key in keys if key[0] == execution_id]:
            self._stop(key)

    def stop(self) -> None:
        """See Performer."""
        self._waiting.clear()
        self._threads.close()
        for worker in self._workers.values():
            worker.stop()

    # --- a part of the stage -------------------------------------------------------------------------------
    def work(self) -> bool:
        """See Part: bring what has taken its time, or begin an attempt."""
        if self._later and self._later[0][0] <= self._stage.clock.now():
            *_, outcome, worker, epoch = heapq.heappop(self._later)
            self._host.submit(partial(self._host.outcome, outcome, worker, epoch))
            return True
        if not self._waiting or len(self._running) >= self._at_once:
            return False
        self._host.submit(partial(self._begin, self._waiting.popleft()))
        return True

    def next_due(self) -> float | None:
        """See Part."""
        return self._later[0][0] if self._later else None

    def moved(self) -> None:
        """See Part."""

    def began(self) -> Sequence[float]:
        """See RealSteps."""
        return list(self._running.values())

    def suspend(self, key: Key) -> None:
        """See RealSteps: it makes room for another one as well."""
        if (began := self._running.pop(key, None)) is not None:
            self._away[key] = began

    def resume(self, key: Key) -> None:
        """See RealSteps."""
        if self._away.pop(key, None) is not None:
            self._running[key] = time.monotonic()

    # --- attempts, in turns of the coordinator ---------------------------------------------------------------
    def _begin(self, attempt: _Attempt) -> None:
        driver, run, key = attempt.driver, attempt.run, attempt.key
        if driver.execution is None or not driver.execution.wants(run.seq, run.attempt):
            return
        try:
            stand_in = self._stand_in(driver, run)
            if stand_in is None:
                return  # nobody wants it, or it is tried again
            worker = self._worker(run.call, scripted=stand_in.function is not None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a function of the user's says which key a step has
            if isinstance(error, UnscriptedStep):
                self._trouble.append(error)
            self._host.refused(key, error)
            return
        self._host.sent(key, self._stage.clock.now())
        self._running[key] = time.monotonic()
        takes = 0.0 if stand_in.script is None else stand_in.script.takes
        self._threads.submit(partial(self._run, worker, stand_in, takes))

    def _stand_in(self, driver: ExecutionDriver, run: RunAttempt) -> StandIn | None:
        script = self._scripts.of(run.call)
        if script is None and self._strict:
            known = ", ".join(map(repr, self._scripts.names)) or "no step"
            raise self._unscripted(driver, run, f"strict=True refuses what has no script (scripted: {known})")
        function = None
        if script is not None:
            try:
                function = next(script.answers)
            except StopIteration:
                used = f"its script is used up after {len(script.calls)} attempts"
                raise self._unscripted(driver, run, used) from None
        agent = agent_of(run.call)
        # What is not called need not be found by a worker.
        if function is None:
            message = self._host.message(run, driver.id)
        else:
            message = task_message(driver.record, driver.epoch, run, {}, "")
        if message is None:
            return None
        original = run.call.target.owner if agent is None else agent
        return StandIn(message, function, original, agent is not None, script)

    def _unscripted(self, driver: ExecutionDriver, run: RunAttempt, why: str) -> UnscriptedStep:
        call = run.call
        shown = [reprlib.repr(value) for value in call.args]
        shown += [f"{name}={reprlib.repr(value)}" for name, value in call.kwargs.items()]
        return UnscriptedStep(call.name, execution_id=driver.id, arguments=f"({', '.join(shown)})", why=why)

    def _worker(self, call: StepCall, *, scripted: bool) -> StandInWorker:
        """Who runs it: one worker for each pool, for its setup, and one for scripts, which need none."""
        pool = "" if scripted else call.options.pool
        config = PoolConfig() if scripted else self._steward.pools.get(pool)
        if config is None:
            raise PoolNotFound(pool, known=tuple(sorted(self._steward.pools)))
        limits_of(call, config)  # they do not matter here, but the function that says which they are may fail
        if pool not in self._workers:
            setup = config.setup if isinstance(config.setup, str) else ""
            shared = (self._settings.allow_pickle, self._settings.config.large_value_bytes)
            settings = WorkerSettings(_MOST, pool, actor_names.STORE, *shared, setup=setup)
            label = f"{self._host.name}:{pool or 'scripts'}"
            self._workers[pool] = StandInWorker(self._stage, label, self._env, settings, self._scripts)
        return self._workers[pool]

    # --- on threads, and what comes of it --------------------------------------------------------------------
    def _run(self, worker: StandInWorker, stand_in: StandIn, takes: float) -> None:
        try:
            reply = worker.perform(str(next(self._numbers)), self._host.name, stand_in)
        except Exception as error:  # noqa: BLE001 - the setup of its pool has failed
            self._stage.post(partial(self._refused, stand_in.message, error))
        else:
            self._stage.post(partial(self._came, reply, stand_in.message, worker.label, takes))

    def _refused(self, message: TaskMessage, error: Exception) -> None:
        key = (message.execution_id, message.seq, message.attempt)
        self._running.pop(key, None)
        self._host.submit(partial(self._host.refused, key, error))

    def _came(self, reply: BatchReply, message: TaskMessage, worker: str, takes: float) -> None:
        key = (message.execution_id, message.seq, message.attempt)
        wanted = self._running.pop(key, self._away.pop(key, None)) is not None
        for outcome in reply.outcomes:
            if takes and wanted:
                item = (self._stage.clock.now() + takes, next(self._numbers), outcome, worker, message.epoch)
                heapq.heappush(self._later, item)
            else:
                self._host.submit(partial(self._host.outcome, outcome, worker, message.epoch))

    def _stop(self, key: Key) -> None:
        self._waiting = deque(attempt for attempt in self._waiting if attempt.key != key)
        self._later = [item for item in self._later if (item[2].execution_id, item[2].seq, item[2].attempt) != key]
        heapq.heapify(self._later)
        if self._running.pop(key, self._away.pop(key, None)) is not None:  # whatever it still does, nobody waits for it
            for worker in self._workers.values():
                worker.cancel(*key, "its result is no longer wanted")


class StandInWorker(Worker):
    """A worker that calls stand-ins, which note how they are called.

    Args:
        stage: the stage.
        label: its name.
        env: the code environment.
        settings: how it runs.
        scripts: where calls are noted.
    """

    def __init__(
        self, stage: DeterministicActorSystem, label: str, env: Environment, settings: WorkerSettings, scripts: Scripts
    ) -> None:
        super().__init__(stage, label, env, settings)
        self.label = label
        self._scripts = scripts
        self._stand_ins: dict[str, StandIn] = {}

    def perform(self, number: str, coordinator: str, stand_in: StandIn) -> BatchReply:
        """Run one attempt, to its end."""
        self.ready()
        self._stand_ins[number] = stand_in
        part = "agent" if stand_in.agent else ""
        task = stand_in.message._replace(code={_STAND_IN: number}, part=part)
        batch = BatchMessage(number, number, 0, coordinator, (task,), 0.0)
        try:
            reply: BatchReply = unpack(as_envelope(self.run(pack(batch))).data)
        finally:
            del self._stand_ins[number]
        return reply

    def _resolve(self, code: Mapping[str, Any], part: str) -> Any:
        stand_in = self._stand_ins[code[_STAND_IN]]
        found = stand_in.original
        if stand_in.function is None:
            found = super()._resolve(stand_in.message.code, stand_in.message.part)
        original = getattr(found, "fn" if isinstance(found, Definition) else "run", None)
        if original is None or not (stand_in.agent or isinstance(found, Step)):
            return found  # it cannot be called, and whoever tries says why
        function = noted(stand_in.function or original, original, partial(self._note, stand_in))
        if stand_in.agent:
            return _AgentStandIn(agent_id(found), function)
        twin = copy.copy(found)
        twin.fn = function
        return twin

    def _note(self, stand_in: StandIn, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        message = stand_in.message
        found = stand_in.original
        of = found.origin.name if isinstance(found, Step) else agent_id(found)
        call = Call(message.step, of, args, kwargs, message.execution_id, message.attempt, self._clock.now())
        self._scripts.calls.append(call)
        if stand_in.script is not None:
            stand_in.script.calls.append(call)


@dataclass(frozen=True, slots=True)
class _AgentStandIn:
    """An agent that calls a stand-in."""

    id: str
    run: Function
