"""Steps of a test: a real worker runs each attempt on a thread, with the script's function if there is one.

:class:`Steps` owns the waiting attempts, the running ones, and results that are delivered after virtual time. Pools
have no workers, slots or limits here; only the pool's existence and its setup matter. Attempts without a script run one
at a time, in the order of their calls, so that a test runs the same way each time.
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
from rayflow.testing.scripts import Call, Function, Script, Scripts, agent_of, recorded
from rayflow.testing.supervisor import DeterministicSupervisor

#: Attempts of one worker at once, including abandoned ones that do not stop.
_MOST = 1_000

#: Key in a task's code reference that names its stand-in.
_STAND_IN = "stand_in"


@dataclass(frozen=True, slots=True)
class StandIn:
    """Function that a worker calls in place of a step.

    Args:
        message: the attempt, with the code reference of the step itself.
        function: the scripted function; None for the step's own.
        original: the step or agent of the workflow's code.
        agent: whether ``original`` is an agent of a declared workflow.
        script: the script that also records the call.
    """

    message: TaskMessage
    function: Function | None
    original: Any
    agent: bool
    script: Script | None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt that waits or runs."""

    driver: ExecutionDriver
    run: RunAttempt

    @property
    def key(self) -> Key:
        return (self.driver.id, self.run.seq, self.run.attempt)


class Steps(AttemptRouter):
    """Runner of attempts on threads of the test, as a part of the actor system's loop.

    Args:
        host: the coordinator.
        system: the actor system.
        env: the code environment.
        dispatchers: not used.
        settings: shared by all actors of the namespace.
        supervisor: has the pools.
        scripts: the scripts of the test.
        strict: whether steps without a script are refused.
        at_once: number of real attempts that run at once.
        problems: receives the errors of refused steps.
    """

    def __init__(
        self,
        host: AttemptCallbacks,
        system: ActorSystem,
        env: Environment,
        dispatchers: PoolDispatchers,
        settings: Settings,
        *,
        supervisor: DeterministicSupervisor,
        scripts: Scripts,
        strict: bool,
        at_once: int,
        problems: list[Exception],
    ) -> None:
        super().__init__(host, system, env, dispatchers, settings)
        assert isinstance(system, DeterministicActorSystem)
        self._actor_system = system
        self._supervisor = supervisor
        self._scripts = scripts
        self._strict = strict
        self._at_once = at_once
        self._problems = problems
        self._threads = DaemonThreadPool("steps", _MOST)
        self._numbers = itertools.count(1)
        self._workers: dict[str, StandInWorker] = {}
        self._waiting: deque[_Attempt] = deque()
        self._running: dict[Key, float] = {}
        self._away: dict[Key, float] = {}
        self._later: list[tuple[float, int, TaskOutcome, str, int]] = []
        system.steps = self
        system.add(self)

    def perform(self, driver: ExecutionDriver, actions: Sequence[Action]) -> None:
        """Queue new attempts, and stop abandoned ones."""
        for action in actions:
            if isinstance(action, StopAttempt):
                self._stop((driver.id, action.seq, action.attempt))
            else:
                self._waiting.append(_Attempt(driver, action))

    def forget(self, execution_id: str) -> None:
        """Stop all attempts of an execution."""
        keys = (*(attempt.key for attempt in self._waiting), *self._running, *self._away)
        for key in [key for key in keys if key[0] == execution_id]:
            self._stop(key)

    def stop(self) -> None:
        """Stop all threads and workers."""
        self._waiting.clear()
        self._threads.close()
        for worker in self._workers.values():
            worker.stop()

    def work(self) -> bool:
        """Deliver a result whose virtual time has passed, or start an attempt; return whether there was one."""
        if self._later and self._later[0][0] <= self._actor_system.clock.now():
            *_, outcome, worker, epoch = heapq.heappop(self._later)
            self._host.submit(partial(self._host.outcome, outcome, worker, epoch))
            return True
        if not self._waiting or len(self._running) >= self._at_once:
            return False
        self._host.submit(partial(self._begin, self._waiting.popleft()))
        return True

    def next_due(self) -> float | None:
        """Return when the next delayed result is delivered; None without one."""
        return self._later[0][0] if self._later else None

    def moved(self) -> None:
        """Do nothing when the clock has moved."""

    def began(self) -> Sequence[float]:
        """Return when each running attempt started, as of ``time.monotonic()``."""
        return list(self._running.values())

    def suspend(self, key: Key) -> None:
        """Free the slot of an attempt that waits for something in this test."""
        if (began := self._running.pop(key, None)) is not None:
            self._away[key] = began

    def resume(self, key: Key) -> None:
        """Count the attempt as running again."""
        if self._away.pop(key, None) is not None:
            self._running[key] = time.monotonic()

    def _begin(self, attempt: _Attempt) -> None:
        driver, run, key = attempt.driver, attempt.run, attempt.key
        if driver.execution is None or not driver.execution.is_current(run.seq, run.attempt):
            return
        try:
            stand_in = self._stand_in(driver, run)
            if stand_in is None:
                return  # the attempt is not needed, or its code is loaded again
            worker = self._worker(run.call, scripted=stand_in.function is not None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's function computes the key of a step limit
            if isinstance(error, UnscriptedStep):
                self._problems.append(error)
            self._host.refused(key, error)
            return
        self._host.sent(key, self._actor_system.clock.now())
        self._running[key] = time.monotonic()
        takes = 0.0 if stand_in.script is None else stand_in.script.takes
        self._threads.submit(partial(self._run, worker, stand_in, takes))

    def _stand_in(self, driver: ExecutionDriver, run: RunAttempt) -> StandIn | None:
        script = self._scripts.of(run.call)
        if script is None and self._strict:
            known = ", ".join(map(repr, self._scripts.names)) or "no step"
            raise self._unscripted(driver, run, f"strict=True refuses steps without a script (scripted: {known})")
        function = None
        if script is not None:
            try:
                function = next(script.results)
            except StopIteration:
                used = f"its script has no results left after {len(script.calls)} attempts"
                raise self._unscripted(driver, run, used) from None
        agent = agent_of(run.call)
        # Code that is not called need not be loadable by a worker.
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
        """Return the worker of a call: one for each pool, because of its setup, and one for all scripts."""
        pool = "" if scripted else call.options.pool
        config = PoolConfig() if scripted else self._supervisor.pools.get(pool)
        if config is None:
            raise PoolNotFound(pool, known=tuple(sorted(self._supervisor.pools)))
        limits_of(call, config)  # limits do not apply here, but the function that computes them may fail
        if pool not in self._workers:
            setup = config.setup if isinstance(config.setup, str) else ""
            shared = (self._settings.allow_pickle, self._settings.config.large_value_bytes)
            settings = WorkerSettings(_MOST, pool, actor_names.STORE, *shared, setup=setup)
            label = f"{self._host.name}:{pool or 'scripts'}"
            self._workers[pool] = StandInWorker(self._actor_system, label, self._env, settings, self._scripts)
        return self._workers[pool]

    def _run(self, worker: StandInWorker, stand_in: StandIn, takes: float) -> None:
        try:
            reply = worker.perform(str(next(self._numbers)), self._host.name, stand_in)
        except Exception as error:  # noqa: BLE001 - the setup of the pool failed
            self._actor_system.post(partial(self._refused, stand_in.message, error))
        else:
            self._actor_system.post(partial(self._returned, reply, stand_in.message, worker.label, takes))

    def _refused(self, message: TaskMessage, error: Exception) -> None:
        key = (message.execution_id, message.seq, message.attempt)
        self._running.pop(key, None)
        self._host.submit(partial(self._host.refused, key, error))

    def _returned(self, reply: BatchReply, message: TaskMessage, worker: str, takes: float) -> None:
        key = (message.execution_id, message.seq, message.attempt)
        wanted = self._running.pop(key, self._away.pop(key, None)) is not None
        for outcome in reply.outcomes:
            if takes and wanted:
                item = (self._actor_system.clock.now() + takes, next(self._numbers), outcome, worker, message.epoch)
                heapq.heappush(self._later, item)
            else:
                self._host.submit(partial(self._host.outcome, outcome, worker, message.epoch))

    def _stop(self, key: Key) -> None:
        self._waiting = deque(attempt for attempt in self._waiting if attempt.key != key)
        self._later = [item for item in self._later if (item[2].execution_id, item[2].seq, item[2].attempt) != key]
        heapq.heapify(self._later)
        if self._running.pop(key, self._away.pop(key, None)) is not None:  # its result is not needed
            for worker in self._workers.values():
                worker.cancel(*key, "its result is no longer wanted")


class StandInWorker(Worker):
    """Worker that calls stand-ins, and records the calls in the scripts."""

    def __init__(
        self, system: DeterministicActorSystem, label: str, env: Environment, settings: WorkerSettings, scripts: Scripts
    ) -> None:
        super().__init__(system, label, env, settings)
        self.label = label
        self._scripts = scripts
        self._stand_ins: dict[str, StandIn] = {}

    def perform(self, number: str, coordinator: str, stand_in: StandIn) -> BatchReply:
        """Run one attempt to its end."""
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
            return found  # not callable; the worker reports why
        function = recorded(stand_in.function or original, original, partial(self._record, stand_in))
        if stand_in.agent:
            return _AgentStandIn(agent_id(found), function)
        twin = copy.copy(found)
        twin.fn = function
        return twin

    def _record(self, stand_in: StandIn, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        message = stand_in.message
        found = stand_in.original
        of = found.origin.name if isinstance(found, Step) else agent_id(found)
        call = Call(message.step, of, args, kwargs, message.execution_id, message.attempt, self._clock.now())
        self._scripts.calls.append(call)
        if stand_in.script is not None:
            stand_in.script.calls.append(call)


@dataclass(frozen=True, slots=True)
class _AgentStandIn:
    """Agent that calls a stand-in."""

    id: str
    run: Function
