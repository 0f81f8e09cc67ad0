"""Attempt router: runs each attempt in the coordinator itself or in the pool that its step names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rayflow.core.execution.execution import Action, RunAttempt, StopAttempt
from rayflow.core.pool import Grant, LeaseRevoked, Recall
from rayflow.core.pool.slots import Key
from rayflow.definition.options import PoolConfig
from rayflow.errors import ClusterError, PoolNotFound, StorageUnavailable
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, Reply, send_to
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.coordinator.dispatcher import Dispatcher
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.runtime.coordinator.local_steps import LocalStepRunner
from rayflow.runtime.coordinator.pool_client import AttemptCallbacks
from rayflow.runtime.coordinator.ray_tasks import RayTaskSubmitter
from rayflow.runtime.coordinator.store_client import RETRY_MOST
from rayflow.runtime.coordinator.worker_client import ObjectRefCache
from rayflow.runtime.settings import Settings
from rayflow.storage.model import PoolRecord

#: Seconds that the store may take to return a pool's configuration.
_STORE_TIMEOUT = 5.0


class PoolDispatchers:
    """The dispatchers of a coordinator, one for each pool in use. All methods run on the coordinator's thread."""

    def __init__(self, host: AttemptCallbacks, system: ActorSystem, env: Environment, settings: Settings) -> None:
        self._host = host
        self._system = system
        self._env = env
        self._settings = settings
        self._tasks = RayTaskSubmitter(system, host.name, env, settings)
        self._values = ObjectRefCache()
        self._known: dict[str, Dispatcher] = {}
        #: Dispatchers of deleted pools, until nothing of theirs is under way.
        self._leaving: list[Dispatcher] = []

    def run(self, execution_id: str, run: RunAttempt, priority: int) -> None:
        """Run an attempt in the pool that its step names.

        Raises:
            PoolNotFound: if the pool does not exist.
            QueueFull: if the pool's queue is at its limit, and the step must not wait.
            ClusterError, StorageUnavailable: if the pool's configuration cannot be read now.
            Exception: whatever the step's ``concurrency_key`` raises.
        """
        self._dispatcher(run.call.options.pool).want(execution_id, run, priority)

    def stop(self, key: Key) -> None:
        """Stop an attempt whose result is no longer wanted."""
        for dispatcher in self._all():
            dispatcher.stop(key)

    def forget(self, execution_id: str) -> None:
        """Stop all attempts of an execution that is no longer driven here."""
        for dispatcher in self._all():
            dispatcher.forget(execution_id)
        self._values.forget(execution_id)

    def apply(self, pool: str, epoch: int, commands: Sequence[Grant | Recall | LeaseRevoked]) -> None:
        """Apply decisions that a pool sent without a report."""
        if pool in self._known:
            self._known[pool].apply(epoch, commands)

    def begun(self, key: Key, at: float) -> None:
        """Record that a Ray task has begun."""
        for dispatcher in self._all():
            dispatcher.begun(key, at)

    def worker_of(self, key: Key) -> str:
        """Return the worker that runs an attempt; "" if the attempt waits."""
        return next((worker for each in self._all() if (worker := each.worker_of(key))), "")

    def dispatch_ready(self) -> None:
        """Send the tasks that have a slot."""
        for dispatcher in self._known.values():
            dispatcher.dispatch_ready()
        if self._leaving:
            self._leaving = [dispatcher for dispatcher in self._leaving if dispatcher.at_work]

    def refresh(self) -> None:
        """Report everything to the pools again."""
        for dispatcher in self._known.values():
            dispatcher.refresh()

    def next_wake(self) -> float | None:
        """Return when :meth:`dispatch_ready` has something to do without a message."""
        return min((w for d in self._known.values() if (w := d.next_wake()) is not None), default=None)

    def look_up(self, pool: str) -> None:
        """Check whether a pool still exists, and read its configuration again."""

        def reply(answer: Reply) -> None:
            if answer.error is None:
                self._host.submit(partial(self._found, pool, answer.value))

        if pool != self._settings.config.pool.name:
            send_to(self._system, actor_names.STORE, "pool", pool, then=reply)

    def _found(self, pool: str, record: PoolRecord | None) -> None:
        if record is not None and pool in self._known:
            self._known[pool].configure(PoolConfig.model_validate_json(record.config))
        elif record is None and pool in self._known:
            dispatcher = self._known.pop(pool)
            self._leaving.append(dispatcher)
            dispatcher.refuse_all(PoolNotFound(pool))

    def _all(self) -> list[Dispatcher]:
        return [*self._known.values(), *self._leaving]

    def _dispatcher(self, pool: str) -> Dispatcher:
        if pool not in self._known:
            config = self._config(pool)
            self._known[pool] = Dispatcher(
                self._host, self._system, config, self._env.id, self._tasks, values=self._values
            )
        return self._known[pool]

    def _config(self, pool: str) -> PoolConfig:
        if pool == self._settings.config.pool.name:
            return self._settings.config.pool
        store = self._system.find(actor_names.STORE)
        record: PoolRecord | None = store.call("pool", pool, timeout=_STORE_TIMEOUT)
        if record is None:
            raise PoolNotFound(pool, known=tuple(each.name for each in store.call("pools", timeout=_STORE_TIMEOUT)))
        return PoolConfig.model_validate_json(record.config)


class AttemptRouter:
    """Carries out the actions of executions: runs and stops attempts. All methods run on the coordinator's thread."""

    def __init__(
        self,
        host: AttemptCallbacks,
        system: ActorSystem,
        env: Environment,
        dispatchers: PoolDispatchers,
        settings: Settings,
    ) -> None:
        self._host = host
        self._system = system
        self._env = env
        self._dispatchers = dispatchers
        self._settings = settings
        self._local: LocalStepRunner | None = None

    def perform(self, driver: ExecutionDriver, actions: Sequence[Action]) -> None:
        """Run and stop attempts, in order."""
        for action in actions:
            key = (driver.id, action.seq, action.attempt)
            if isinstance(action, StopAttempt):
                self._stop(key)
            elif action.local:
                self._run_here(driver, action)
            else:
                self._run_on_pool(driver, key, action)

    def forget(self, execution_id: str) -> None:
        """Stop all attempts of an execution that is no longer driven here."""
        self._dispatchers.forget(execution_id)
        if self._local is not None:
            self._local.forget(execution_id)

    def stop(self) -> None:
        """Run no more local steps."""
        if self._local is not None:
            self._local.stop()

    def _run_on_pool(self, driver: ExecutionDriver, key: Key, run: RunAttempt) -> None:
        try:
            self._dispatchers.run(driver.id, run, driver.options.priority)
        except (ClusterError, StorageUnavailable) as error:
            driver.log.warning("cannot send step %s, retrying in %g s: %s", run.call.name, RETRY_MOST, error)
            self._host.submit_later(RETRY_MOST, lambda: self._host.not_begun(key, driver.epoch))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - raised by the user's function for a concurrency key
            self._host.refused(key, error)

    def _stop(self, key: Key) -> None:
        self._dispatchers.stop(key)
        if self._local is not None:
            self._local.cancel(key)

    def _run_here(self, driver: ExecutionDriver, run: RunAttempt) -> None:
        if self._local is None:
            self._local = LocalStepRunner(self._host, self._system, self._env, self._settings)
        message = self._host.message(run, driver.id)
        if message is not None:
            self._local.run(message)
