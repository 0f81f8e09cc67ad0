"""Coordinators of a namespace: started ahead of need, watched, pinged, and stopped when they are idle.

The registry owns which coordinators exist and whether they live; the supervisor owns what they drive. All methods run
on the supervisor's thread.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence

from rayflow.core.cluster.placement import CoordinatorSlot
from rayflow.core.cluster.recovery import CoordinatorStatus
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.actor_group import ActorGroup
from rayflow.runtime.actors.base import ActorSystem, ActorUnavailable, Reply, call_all, kill_async
from rayflow.runtime.code.environment import Environment, Variables, make_available
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.actor_specs import coordinator_spec

log = logging.getLogger(__name__)

#: Seconds for which an idle coordinator beyond `standby_coordinators` is kept.
SPARE_TIMEOUT = 30.0

#: Seconds for which an environment may have no idle coordinator before another standby is started. Longer executions
#: then need no cold start when their coordinator dies; shorter ones do not pay for a standby.
STANDBY_DELAY = 3.0

#: Seconds that a coordinator may take to start before it counts as late: perhaps its node hangs.
START_TIMEOUT = 15.0


class CoordinatorRegistry:
    """The coordinators of a namespace.

    Args:
        lost: receives the name of a coordinator that has ended, and the executions that it drove.
    """

    def __init__(
        self,
        system: ActorSystem,
        settings: Settings,
        submit: Callable[[Callable[[], None]], None],
        lost: Callable[[str, set[str]], None],
    ) -> None:
        self.slots: dict[str, CoordinatorSlot] = {}
        self.environments: dict[str, Environment] = {}
        #: The variables that engines have supplied, by environment id.
        self.variables: dict[str, Variables] = {}
        self._system = system
        self._settings = settings
        self._config = settings.config
        self._report_lost = lost
        #: By environment: when it was last used, and since when it has had no idle coordinator.
        self._used_at: dict[str, float] = {}
        self._without_standby: dict[str, float] = {}
        self.group = ActorGroup(
            "coordinator", system, self._config.ping_timeout, submit, started=self._started, ended=self._ended
        )
        self._limit: int | None = None

    @property
    def limit(self) -> int:
        """Return the maximum number of coordinators."""
        if self._limit is None:
            self._limit = self._config.max_coordinators or max(2, int(2 * self._system.cpus()))
        return self._limit

    def adopt(self) -> dict[str, tuple[str, int]]:
        """Take over the existing coordinators. Return the driver and the epoch of each execution that they drive."""
        owners: dict[str, tuple[str, int]] = {}
        names = [name for name in self._system.names() if actor_names.is_coordinator(name)]
        replies = self._census(names)
        # A failed call does not mean that the process died.
        replies |= self._census([name for name in replies if isinstance(replies[name].error, ActorUnavailable)])
        self._read_environments([name for name, reply in replies.items() if reply.error is None])
        for name in names:
            reply = replies.get(name)
            if reply is None or reply.error is not None:
                kill_async(self._system, name)  # it hangs or is dying; other coordinators take over
                continue
            slot = self._add(name, actor_names.environment_of(name))
            slot.executions.update(reply.value)
            owners.update((execution_id, (name, epoch)) for execution_id, epoch in reply.value.items())
            self.group.adopt(name, self.variables.get(slot.environment))
        return owners

    def _read_environments(self, names: Sequence[str]) -> None:
        """Read the environments and their variables back from coordinators, after a restart of the supervisor."""
        replies = call_all(self._system, names, "environment", timeout=self._config.ping_timeout, group="control")
        for env, variables in (reply.value for reply in replies.values() if reply.error is None):
            self.environments.setdefault(env.id, env)
            if variables is not None:
                self.variables.setdefault(env.id, variables)

    def is_supplied(self, env: Environment) -> bool:
        """Return whether processes of an environment can be started: its variables are known, or it has none."""
        return not env.variables or env.id in self.variables

    def _census(self, names: Sequence[str]) -> dict[str, Reply]:
        return call_all(self._system, names, "census", timeout=self._config.ping_timeout, group="control")

    def _add(self, name: str, environment: str) -> CoordinatorSlot:
        slot = self.slots[name] = CoordinatorSlot(name, environment, idle_since=time.monotonic())
        return slot

    def use(self, env: Environment) -> None:
        """Register a code environment, and note that there is work for it."""
        self.environments[env.id] = env
        self._used_at[env.id] = time.monotonic()

    def keep_standbys(self, environment: str) -> None:
        """Start idle coordinators until there are as many as configured."""
        if environment in self.environments and not self.is_supplied(self.environments[environment]):
            return
        current = [slot for slot in self.slots.values() if not slot.outdated]
        idle = [slot for slot in current if slot.environment == environment and not slot.executions]
        for _ in range(self._config.standby_coordinators - len(idle)):
            if len(current) < self.limit:
                self.start(environment)

    def start(self, environment: str) -> None:
        """Start a coordinator."""
        name = actor_names.coordinator(environment, uuid.uuid4().hex[:6])
        env = self.environments[environment]
        make_available(self._system, env)
        self.group.start(coordinator_spec(name, env, self._settings), self.variables.get(environment))
        self._add(name, environment)

    def _started(self, name: str, _: object) -> None:
        slot = self.slots[name]
        slot.ready = True
        slot.idle_since = time.monotonic()
        self.keep_standbys(slot.environment)

    def _ended(self, name: str, why: BaseException | None, had_started: bool) -> None:  # noqa: FBT001 - a callback
        slot = self.slots.pop(name, None)
        if slot is not None:
            self._report_lost(name, slot.executions)

    def check_startup(self) -> None:
        """Mark coordinators that start too slowly, and start a standby where there has been none for a while."""
        now = time.monotonic()
        served: dict[str, bool] = {}
        for slot in self.slots.values():
            slot.late = not slot.ready and now > slot.idle_since + START_TIMEOUT
            if not slot.outdated:
                idle = not slot.executions and not slot.late
                served[slot.environment] = served.get(slot.environment, False) or idle
        for environment, idle in served.items():
            since = self._without_standby.setdefault(environment, now)
            if idle:
                self._without_standby[environment] = now
            elif now > since + STANDBY_DELAY:
                self._without_standby[environment] = now
                self.keep_standbys(environment)

    def stop_idle(self) -> None:
        """Stop idle coordinators that are outdated, spare, or of an environment that is no longer used."""
        now = time.monotonic()
        for slot in self.slots.values():
            if slot.executions:
                self._used_at[slot.environment] = now
        for slot in list(self.slots.values()):
            unused = now - self._used_at.get(slot.environment, 0.0) > self._config.environment_idle_timeout
            if not slot.executions and slot.ready and (slot.outdated or unused):
                self._stop(slot)
        for environment in {slot.environment for slot in self.slots.values()}:
            self._stop_spare(environment, now)

    def _stop_spare(self, environment: str, now: float) -> None:
        """Stop idle coordinators beyond `standby_coordinators`: each keeps a process, and perhaps a node."""
        idle = [s for s in self.slots.values() if s.environment == environment and s.ready and not s.executions]
        idle.sort(key=lambda slot: slot.idle_since, reverse=True)
        for slot in idle[max(1, self._config.standby_coordinators) :]:
            if now > slot.idle_since + SPARE_TIMEOUT:
                self._stop(slot)

    def stop_all(self) -> None:
        """Stop all coordinators, including those that drive executions."""
        for slot in list(self.slots.values()):
            self._stop(slot)

    def _stop(self, slot: CoordinatorSlot) -> None:
        del self.slots[slot.name]
        self.group.kill(slot.name)

    def ping_all(self) -> None:
        """Ping all coordinators that are ready; those that stay silent for too long are killed."""
        self._limit = None  # the number of nodes may have changed
        self.group.ping_all()

    def status(self) -> tuple[CoordinatorStatus, ...]:
        """Return the status of all coordinators, by name."""
        silent = self.group.silent()
        slots = sorted(self.slots.values(), key=lambda slot: slot.name)
        return tuple(
            CoordinatorStatus(s.name, len(s.executions), s.ready, silent.get(s.name, 0.0), s.reserved) for s in slots
        )
