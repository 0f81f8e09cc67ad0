"""The engine of a test."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rayflow.client.engine import Engine
from rayflow.client.local import check_local
from rayflow.client.locks import Lease
from rayflow.client.pools import QueueBackpressure
from rayflow.definition.options import EngineConfig
from rayflow.definition.schedule import Moment
from rayflow.errors import DefinitionError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSpec
from rayflow.runtime.code.environment import capture
from rayflow.runtime.coordinator.actor import CoordinatorActor
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.actor_specs import persistence_spec
from rayflow.storage.urls import resolve
from rayflow.testing.actors import DeterministicActorSystem
from rayflow.testing.coordinator import DeterministicCoordinator
from rayflow.testing.scripts import UNSAID, Call, Script, Scriptable, Scripts, made, name_of
from rayflow.testing.steps import Steps
from rayflow.testing.supervisor import DeterministicSupervisor
from rayflow.testing.waits import LEASE, DeterministicLease, DeterministicWatcher

#: 1 January 2020, 00:00 UTC: the same in every run. In the past, so that real moments that a test gives are to come.
BEGINNING = 1_577_836_800.0

_MOMENT: TypeAdapter[float] = TypeAdapter(Moment)


class TestEngine(Engine):
    """Runs executions under a clock of its own, on which a month passes in milliseconds; for tests of workflows.

    It has the surface of :class:`rayflow.LocalEngine`, and runs the same rules on the same stores. What differs:

    * Time stands still, but for whoever waits: ``execute``, ``handle.result()`` and ``await handle`` move it from one
      due moment to the next until the execution is over. :meth:`advance` and :meth:`skip` move it by hand.
    * Nothing happens between two calls. Whoever looks (``status``, ``list``, ``done`` …) sees what comes of
      everything that can happen at this moment.
    * Steps do what a :meth:`script` says. Others run really, one at a time, and take no virtual time; with one that
      takes longer than ``patience`` the clock keeps pace from then on.
    * Whoever waits for something that cannot come gets :class:`Stalled` instead of hanging.
    * Pools have neither workers nor limits, and ``RAYFLOW_*`` is not read.

    Args:
        store: the store's URL; the default keeps nothing beyond the test.
        start: what its clock shows at first: seconds since the epoch, or a datetime with a time zone.
        auto_skip: whether waiting for a result moves the clock.
        strict: whether steps without a script are refused, with :class:`UnscriptedStep`, instead of run.
        paranoid: whether each event is preceded by dropping the workflow's code and replaying its journal from the
            store, so that code that does not repeat itself shows at once.
        steps_at_once: real steps that run at once. More than one is faster, and their order is then not the same in
            each run.
        patience: seconds of real time that a real step may take without taking virtual time, and for which looking
            and advancing wait for it.
        config: the whole configuration; ``options`` are set on top of it.
        options: fields of :class:`EngineConfig`.

    Raises:
        NotSupportedLocally: an option needs a cluster.
        DefinitionError: ``start`` is no moment.
        StorageUnavailable: the store cannot be opened, or another process writes it.

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

    __test__ = False  # pytest would take it for a class of tests

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
            raise DefinitionError("steps_at_once is at least 1, and patience at least 0 seconds")
        chosen = (config or EngineConfig()).replace(**options)
        self._scripts = Scripts()
        self._trouble: list[Exception] = []
        self._blocked: dict[str, Exception] = {}
        self._strict, self._paranoid, self._at_once = strict, paranoid, steps_at_once
        self._stage = DeterministicActorSystem(_moment(start), patience)
        super().__init__(self._stage, chosen, resolve(store, environ=os.environ), capture()[0])
        self._conductor: DeterministicCoordinator
        self._watching = DeterministicWatcher(
            self._stage, self._driver, blocked=self._blocked, trouble=self._trouble, auto_skip=auto_skip
        )
        self.watcher = self._watching
        try:
            self._open()
        except BaseException:
            self._stage.close()
            raise

    def _open(self) -> None:
        self._stage.spawn(persistence_spec(self.store)).call("ready")
        settings, name = self._settings(), actor_names.coordinator(self._env.id, "test")
        self._stage.spawn(ActorSpec(DeterministicSupervisor, actor_names.SUPERVISOR, (settings, name)))
        coordinator = ActorSpec(CoordinatorActor, name, (name, self._env, settings, self._make_conductor))
        self._stage.spawn(coordinator).call("ready")
        # The last part: what is due is looked up when everything else is done.
        self._stage.ask(lambda: self._stage.add(self._stage.actor(actor_names.SUPERVISOR)))
        self._room = QueueBackpressure(self.pools, settings.config.pool)
        self.recovered: list[str] = self._supervisor().call("recover") if self.config.recover else []

    def _make_conductor(
        self, system: DeterministicActorSystem, name: str, env: Any, settings: Settings
    ) -> DeterministicCoordinator:
        performer = partial(
            Steps,
            steward=self._stage.actor(actor_names.SUPERVISOR),
            scripts=self._scripts,
            strict=self._strict,
            at_once=self._at_once,
            trouble=self._trouble,
        )
        self._conductor = DeterministicCoordinator(
            system,
            name,
            env,
            settings,
            blocked=self._blocked,
            differs=self._trouble.append,
            paranoid=self._paranoid,
            performer=performer,
        )
        return self._conductor

    def _driver(self, execution_id: str) -> ExecutionDriver | None:
        return self._conductor.driver(execution_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is None:
            self._watching.raise_trouble()  # which the workflow's code may have caught

    def close(self) -> None:
        """Stop. Unfinished executions go on when an engine opens the same store again."""
        if self._closed:
            return
        super().close()
        self._stage.close(self._stop)

    def _stop(self) -> None:
        for name in sorted(self._stage.names(), key=lambda name: name == actor_names.PERSISTENCE):
            stop = getattr(self._stage.actor(name), "stop", None)
            if stop is not None:
                stop()

    # --- time ----------------------------------------------------------------------------------------------
    def now(self) -> float:
        """What its clock shows, in seconds since the epoch; inside of a workflow this is ``rf.now()``."""
        return self.clock.now()

    def advance(self, by: float | dt.timedelta | None = None, *, to: float | dt.datetime | None = None) -> None:
        """Move the clock, by way of everything that is due until then, and let that happen at its moment.

        Args:
            by: so far, in seconds or as a timedelta.
            to: up to this moment instead: seconds since the epoch, or a datetime with a time zone.

        Raises:
            DefinitionError: it is not forwards, or not one of the two.
            UnscriptedStep: a step without a script was called, in ``strict`` mode.
            NonDeterminismError: code did not repeat itself, in ``paranoid`` mode.

        Example:
            >>> env.advance(days * 86_400)  # doctest: +SKIP
            >>> env.advance(datetime.timedelta(days=2))  # doctest: +SKIP
        """
        if (by is None) == (to is None):
            raise DefinitionError("advance() needs one of by= and to=")
        if to is not None:
            moment = _moment(to)
        else:
            moment = self.now() + (by.total_seconds() if isinstance(by, dt.timedelta) else by or 0.0)
        if not moment >= self.now():
            raise DefinitionError(f"the clock shows {self.now()!r}, and cannot be moved back to {moment!r}")
        self._do(lambda: self._stage.advance(moment))

    def skip(self) -> float | None:
        """Move the clock to the next due moment of anything, and let happen what is due then.

        Returns:
            That moment, in seconds since the epoch; None if nothing is due any more.

        Raises:
            UnscriptedStep, NonDeterminismError: see :meth:`advance`.
        """

        def skip() -> float | None:
            self._stage.settle(self._stage.patience)
            due = self._stage.skip()
            self._stage.settle(self._stage.patience)
            return due

        due: float | None = self._do(skip)
        return due

    def settle(self) -> None:
        """Let everything happen that can happen at this moment. Whoever looks does that too.

        Raises:
            UnscriptedStep, NonDeterminismError: see :meth:`advance`.
        """
        self._do(lambda: self._stage.settle(self._stage.patience))

    def _do(self, action: Callable[[], Any]) -> Any:
        answer = self._stage.ask(action)
        self._watching.raise_trouble()
        return answer

    # --- steps ---------------------------------------------------------------------------------------------
    def script(
        self,
        step: Scriptable,
        *,
        returns: Any = UNSAID,
        raises: BaseException | type[BaseException] | Any = UNSAID,
        side_effect: Any = UNSAID,
        takes: float = 0.0,
    ) -> Script:
        """Say what a step does from now on, in the place of its own code. Retries and timeouts are as they are.

        Args:
            step: the step, an agent of a declared workflow, or the name of one as a snapshot shows it.
            returns: what each attempt returns.
            raises: what each attempt raises, an exception or its class.
            side_effect: a function that each attempt calls with the step's arguments; or a list with the result (or
                the exception to raise) of the first attempt, the second, and so on.
            takes: virtual seconds that each attempt takes, and ``math.inf`` for one that never ends. Alone, the step
                itself is run.

        Returns:
            The script, with the ``calls`` that were made so far.

        Raises:
            DefinitionError: what was said does not fit.

        Example:
            >>> env.script(ask, returns="42")  # doctest: +SKIP
            >>> env.script(
            ...     ask, side_effect=[TimeoutError("busy"), "42"]
            ... )  # the second attempt succeeds  # doctest: +SKIP
        """
        script = made(name_of(step), returns, raises, side_effect, takes)
        self._scripts.add(script)
        return script

    def calls(self, step: Scriptable | None = None) -> Sequence[Call]:
        """All attempts so far, scripted and real, in the order in which they began.

        Args:
            step: only those at this step: the step, an agent, or its name.
        """
        name = None if step is None else name_of(step)
        return [call for call in self._scripts.calls if name in {None, call.step, call.target}]

    # --- locks ---------------------------------------------------------------------------------------------
    def semaphore(self, name: str, permits: int, *, ttl: float = 30.0, timeout: float | None = None) -> Lease:
        """See ``Engine.semaphore``. The lease lasts as long as it is held, whatever its ttl."""
        return DeterministicLease(self._stage, self, name, permits, LEASE, timeout)


def _moment(given: float | dt.datetime) -> float:
    try:
        return _MOMENT.validate_python(given)
    except ValidationError as error:
        raise DefinitionError(f"{given!r} is no moment: {error.errors()[0]['msg']}") from None
