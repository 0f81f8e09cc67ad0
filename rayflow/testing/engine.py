"""Engine for tests of workflows, with virtual time."""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rayflow.client.engine import Engine
from rayflow.client.local import check_local
from rayflow.client.locks import Lease
from rayflow.client.pools import QueueBackpressure
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.definition.options import EngineConfig
from rayflow.definition.schedule import Moment
from rayflow.errors import InvalidArgument
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSpec
from rayflow.runtime.code.environment import capture
from rayflow.runtime.coordinator.actor import CoordinatorActor
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.actor_specs import store_spec
from rayflow.storage.rules.starts import derived_seed
from rayflow.storage.urls import resolve
from rayflow.testing.actors import DeterministicActorSystem
from rayflow.testing.coordinator import DeterministicCoordinator
from rayflow.testing.scripts import NOT_GIVEN, Call, Script, Scriptable, Scripts, make_script, name_of
from rayflow.testing.steps import Steps
from rayflow.testing.supervisor import DeterministicSupervisor
from rayflow.testing.waits import LEASE, DeterministicLease, DeterministicWatcher

#: 1 January 2020, 00:00 UTC: the same in every run, and before any real time that a test uses.
BEGINNING = 1_577_836_800.0

_MOMENT: TypeAdapter[float] = TypeAdapter(Moment)


@refused_in_workflows("engine", constructor=True)
class TestEngine(Engine):
    """Engine with virtual time, in which a month passes in milliseconds; for tests of workflows.

    A test engine has the methods of :class:`rayflow.LocalEngine`, and runs the same rules on the same stores.
    The differences are:

    * Time stands still except while a test waits: ``execute``, ``handle.result()`` and ``await handle`` move the clock
      from one timer to the next until the execution has finished. :meth:`advance` and :meth:`skip` move it by hand.
    * Nothing runs between two calls. A read (``status``, ``list``, ``done`` …) first runs everything that can run at
      the current time.
    * A step with a :meth:`script` returns what the script says. Other steps run their code, one at a time, and take
      no virtual time. While one takes longer than ``patience``, the clock runs in real time.
    * A wait for something that cannot happen raises :class:`WorkflowStuck` instead of hanging.
    * Pools have neither workers nor limits, and environment variables ``RAYFLOW_*`` are not read.

    Args:
        store: the store's URL; the default is not durable.
        start: the initial time of the clock: seconds since the epoch, or a datetime with a time zone.
        auto_skip: whether waiting for a result moves the clock.
        strict: whether steps without a script raise :class:`UnscriptedStep` instead of running.
        paranoid: whether each event is preceded by dropping the workflow's code and replaying its journal from the
            store, which detects nondeterministic code immediately.
        steps_at_once: number of real steps that run at once. More than one is faster, but the order of their results
            then differs between runs.
        patience: seconds of real time that a real step may run without taking virtual time. Reads and
            :meth:`advance` wait for a step at most this long.
        config: the complete configuration; ``options`` override its fields.
        options: fields of :class:`EngineConfig`.

    Raises:
        RequiresCluster: if an option needs a cluster.
        InvalidArgument: if ``start`` is not a time.
        StorageUnavailable: if the store cannot be opened, or if another process writes it.

    Example:
        >>> import asyncio
        >>> import rayflow as rf
        >>> from rayflow.testing import TestEngine
        >>> @rf.workflow
        ... async def patient() -> float:
        ...     began = rf.now()
        ...     await asyncio.sleep(30 * 86_400)
        ...     return rf.now() - began
        >>> with TestEngine() as env:
        ...     env.execute(patient)
        2592000.0
    """

    __test__ = False  # not a class of tests for pytest

    def __init__(
        self,
        store: str = "memory://",
        *,
        start: float | dt.datetime = BEGINNING,
        auto_skip: bool = True,
        strict: bool = False,
        paranoid: bool = False,
        steps_at_once: int = 1,
        patience: float = 1.0,
        config: EngineConfig | None = None,
        **options: Any,
    ) -> None:
        check_local(config, options)
        if steps_at_once < 1 or patience < 0:
            raise InvalidArgument(
                f"steps_at_once ({steps_at_once}) must be at least 1, and patience ({patience}) at least 0 seconds"
            )
        chosen = (config or EngineConfig()).replace(**options)
        self._scripts = Scripts()
        self._starts: Counter[str] = Counter()
        self._problems: list[Exception] = []
        self._blocked: dict[str, Exception] = {}
        self._strict, self._paranoid, self._at_once = strict, paranoid, steps_at_once
        self._auto_skip = auto_skip
        self._actor_system = DeterministicActorSystem(_moment(start), patience)
        super().__init__(self._actor_system, chosen, resolve(store, environ=os.environ), capture()[0])
        self._coordinator: DeterministicCoordinator
        try:
            self._open()
        except BaseException:
            self._actor_system.close()
            raise

    def _make_watcher(self) -> DeterministicWatcher:
        self._watching = DeterministicWatcher(
            self._actor_system,
            self._backend,
            self._driver,
            blocked=self._blocked,
            problems=self._problems,
            auto_skip=self._auto_skip,
        )
        return self._watching

    def _open(self) -> None:
        self._actor_system.spawn(store_spec(self.store)).call("ready")
        settings, name = self._settings(), actor_names.coordinator(self._environment.id, "test")
        self._actor_system.spawn(ActorSpec(DeterministicSupervisor, actor_names.SUPERVISOR, (settings, name)))
        coordinator = ActorSpec(CoordinatorActor, name, (name, self._environment, settings, self._make_coordinator))
        self._actor_system.spawn(coordinator).call("ready")
        # The last part: due executions are looked up when everything else has run.
        self._actor_system.ask(lambda: self._actor_system.add(self._actor_system.actor(actor_names.SUPERVISOR)))
        self._backpressure = QueueBackpressure(self.pools, settings.config.pool)
        if self.config.recover:
            self.recovered = self._backend.recover()

    def _make_coordinator(
        self, system: DeterministicActorSystem, name: str, env: Any, settings: Settings
    ) -> DeterministicCoordinator:
        performer = partial(
            Steps,
            supervisor=self._actor_system.actor(actor_names.SUPERVISOR),
            scripts=self._scripts,
            strict=self._strict,
            at_once=self._at_once,
            problems=self._problems,
        )
        self._coordinator = DeterministicCoordinator(
            system,
            name,
            env,
            settings,
            blocked=self._blocked,
            differs=self._problems.append,
            paranoid=self._paranoid,
            performer=performer,
        )
        return self._coordinator

    def _new_seed(self, execution_id: str, nonce: str) -> int:
        """Return a seed that is the same in every run of a test, and another one each time an id is used again."""
        self._starts[execution_id] += 1
        return derived_seed(f"{execution_id}/{self._starts[execution_id]}")

    def _driver(self, execution_id: str) -> ExecutionDriver | None:
        return self._coordinator.driver(execution_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is None:
            self._watching.raise_problem()  # the workflow's code may have caught it

    def close(self) -> None:
        """Close the engine. Unfinished executions continue when an engine opens the same store again."""
        if self._backend.closed:
            return
        super().close()
        self._actor_system.close(self._stop)

    def _stop(self) -> None:
        for name in sorted(self._actor_system.names(), key=lambda name: name == actor_names.STORE):
            stop = getattr(self._actor_system.actor(name), "stop", None)
            if stop is not None:
                stop()

    def now(self) -> float:
        """Return the time of the clock, in seconds since the epoch; a workflow reads it by ``rf.now()``."""
        return self._backend.clock.now()

    def advance(self, by: float | dt.timedelta | None = None, *, to: float | dt.datetime | None = None) -> None:
        """Move the clock forward, and run everything that is due on the way at its time.

        Args:
            by: how far to move, in seconds or as a timedelta.
            to: the time to move to instead: seconds since the epoch, or a datetime with a time zone.

        Raises:
            InvalidArgument: if the time is in the past, or if not exactly one of the arguments is given.
            UnscriptedStep: if a step without a script was called in ``strict`` mode.
            NonDeterminismError: if a replay differed in ``paranoid`` mode.

        Example:
            >>> env.advance(days * 86_400)  # doctest: +SKIP
            >>> env.advance(datetime.timedelta(days=2))  # doctest: +SKIP
        """
        if (by is None) == (to is None):
            raise InvalidArgument("advance() needs one of by= and to=")
        if to is not None:
            moment = _moment(to)
        else:
            moment = self.now() + (by.total_seconds() if isinstance(by, dt.timedelta) else by or 0.0)
        if not moment >= self.now():
            raise InvalidArgument(f"the clock shows {self.now()!r} and cannot be moved back to {moment!r}")
        self._do(lambda: self._actor_system.advance(moment))

    def skip(self) -> float | None:
        """Move the clock to the next timer, and run all actions that are due then.

        Returns:
            The time of the timer, in seconds since the epoch; None if no timer is due.

        Raises:
            UnscriptedStep, NonDeterminismError: see :meth:`advance`.
        """

        def skip() -> float | None:
            self._actor_system.settle(self._actor_system.patience)
            due = self._actor_system.skip()
            self._actor_system.settle(self._actor_system.patience)
            return due

        due: float | None = self._do(skip)
        return due

    def settle(self) -> None:
        """Run everything that can run at the current time; every read does so too.

        Raises:
            UnscriptedStep, NonDeterminismError: see :meth:`advance`.
        """
        self._do(lambda: self._actor_system.settle(self._actor_system.patience))

    def _do(self, action: Callable[[], Any]) -> Any:
        result = self._actor_system.ask(action)
        self._watching.raise_problem()
        return result

    def script(
        self,
        step: Scriptable,
        *,
        returns: Any = NOT_GIVEN,
        raises: BaseException | type[BaseException] | Any = NOT_GIVEN,
        side_effect: Any = NOT_GIVEN,
        takes: float = 0.0,
    ) -> Script:
        """Replace the code of a step by a script. Retries and timeouts still apply.

        Args:
            step: the step, an agent of a declared workflow, or the name of either as a snapshot shows it.
            returns: the result of each attempt.
            raises: the exception of each attempt, or its class.
            side_effect: a function that each attempt calls with the step's arguments; or a list with the result (or
                the exception to raise) of each attempt in turn.
            takes: virtual seconds of each attempt; ``math.inf`` for an attempt that never ends. Without another
                argument, the step's own code runs.

        Returns:
            The script; its ``calls`` are the attempts so far.

        Raises:
            InvalidArgument: if the arguments do not fit together.

        Example:
            >>> env.script(ask, returns="42")  # doctest: +SKIP
            >>> env.script(
            ...     ask, side_effect=[TimeoutError("busy"), "42"]
            ... )  # the second attempt succeeds  # doctest: +SKIP
        """
        script = make_script(name_of(step), returns, raises, side_effect, takes)
        self._scripts.add(script)
        return script

    def calls(self, step: Scriptable | None = None) -> Sequence[Call]:
        """Return all attempts so far, scripted and real, in the order of their starts.

        Args:
            step: only attempts at this step: the step, an agent, or its name.
        """
        name = None if step is None else name_of(step)
        return [call for call in self._scripts.calls if name in {None, call.step, call.target}]

    def semaphore(self, name: str, permits: int, *, ttl: float = 30.0, timeout: float | None = None) -> Lease:
        """Return a semaphore, see ``Engine.semaphore``. The lease lasts until its release, regardless of ``ttl``."""
        return DeterministicLease(self._actor_system, self._backend, name, permits, LEASE, timeout)


def _moment(given: float | dt.datetime) -> float:
    try:
        return _MOMENT.validate_python(given)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise InvalidArgument(
            f"{given!r} is not a time (seconds since the epoch, or a datetime with a time zone): {why}"
        ) from None
