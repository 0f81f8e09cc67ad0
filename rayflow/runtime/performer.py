"""Does what an execution's work calls for: attempts go to pools or run here, and are stopped."""

from __future__ import annotations

from collections.abc import Sequence

from rayflow.core.execution import Action, RunAttempt, StopAttempt
from rayflow.core.slots import Key
from rayflow.errors import ClusterError, StorageUnavailable
from rayflow.runtime.commits import RETRY_MOST
from rayflow.runtime.dispatchers import Dispatchers
from rayflow.runtime.driver import Driver
from rayflow.runtime.environment import Environment
from rayflow.runtime.host import Host
from rayflow.runtime.localruns import LocalRuns
from rayflow.runtime.settings import Settings
from rayflow.runtime.system import ActorSystem


class Performer:
    """See the module's docstring. Used on the coordinator's thread only.

    Args:
        host: the coordinator.
        system: where the store is found.
        env: the code environment.
        dispatchers: the ways to the pools.
        settings: shared by all actors of the namespace.
    """

    def __init__(
        self, host: Host, system: ActorSystem, env: Environment, dispatchers: Dispatchers, settings: Settings
    ) -> None:
        self._host = host
        self._system = system
        self._env = env
        self._dispatchers = dispatchers
        self._settings = settings
        self._local: LocalRuns | None = None

    def perform(self, driver: Driver, actions: Sequence[Action]) -> None:
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
        """The execution is not driven here any more."""
        self._dispatchers.forget(execution_id)
        if self._local is not None:
            self._local.forget(execution_id)

    def stop(self) -> None:
        """Run nothing here any more."""
        if self._local is not None:
            self._local.stop()

    def _run_on_pool(self, driver: Driver, key: Key, run: RunAttempt) -> None:
        try:
            self._dispatchers.run(driver.id, run, driver.options.priority)
        except (ClusterError, StorageUnavailable) as error:
            driver.log.warning("step %s cannot be sent now: %s", run.call.name, error)
            self._host.later(RETRY_MOST, lambda: self._host.not_begun(key, driver.epoch))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a function of the user's says which key a step has
            self._host.refused(key, error)

    def _stop(self, key: Key) -> None:
        self._dispatchers.stop(key)
        if self._local is not None:
            self._local.cancel(key)

    def _run_here(self, driver: Driver, run: RunAttempt) -> None:
        if self._local is None:
            self._local = LocalRuns(self._host, self._system, self._env, self._settings)
        message = self._host.message(run, driver.id)
        if message is not None:
            self._local.run(message)
