"""The coordinators of a namespace: started ahead, watched, pinged, given up when they are of no use.

It owns which coordinators there are and whether they live; what they drive is the overseer's. Everything is called on
the supervisor's one thread; what arrives on others is posted to it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial

from rayflow.core.cluster.placement import CoordinatorSlot
from rayflow.core.cluster.recovery import CoordinatorStatus
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, ActorUnavailable, Reply, ask_all, kill_async, send_to
from rayflow.runtime.actors.health import HealthMonitor
from rayflow.runtime.code.environment import Environment, Variables, make_available
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.actor_specs import coordinator_spec

log = logging.getLogger(__name__)

#: Seconds for which a coordinator beyond the standby_coordinators is kept without work.
SPARE_FOR = 30.0

#: Seconds for which executions are under way without an idle coordinator before another standby is started: whoever
#: runs for longer than that is not to wait for a cold start when its coordinator dies, whoever is done sooner does not
#: pay for one.
BARE_FOR = 3.0

#: Seconds that a coordinator may take to start before nobody waits for it any more: perhaps its node hangs.
LATE = 15.0


class CoordinatorRegistry:
    """See the module's docstring.

    Args:
        system: where actors are made and found.
        settings: shared by all actors of the namespace.
        post: runs an action on the supervisor's thread.
        gone: told of a coordinator that is gone, with what it drove.
    """

    def __init__(
        self,
        system: ActorSystem,
        settings: Settings,
        post: Callable[[Callable[[], None]], None],
        gone: Callable[[str, set[str]], None],
    ) -> None:
        self.places: dict[str, CoordinatorSlot] = {}
        self.environments: dict[str, Environment] = {}
        #: The variables that engines have supplied, by the ids of environments.
        self.variables: dict[str, Variables] = {}
        self._system = system
        self._settings = settings
        self._config = settings.config
        self._post = post
        self._tell_gone = gone
        self._active: dict[str, float] = {}
        self._bare: dict[str, float] = {}
        patience = self._config.ping_timeout
        self._pings = HealthMonitor(system, patience, post, self._fails, self._gone)
        self._most: int | None = None

    @property
    def most(self) -> int:
        """Coordinators at most."""
        if self._most is None:
            self._most = self._config.max_coordinators or max(2, int(2 * self._system.cpus()))
        return self._most

    def adopt(self) -> dict[str, tuple[str, int]]:
        """Take up the coordinators that are there already; answers who drives which execution, and at which epoch."""
        owners: dict[str, tuple[str, int]] = {}
        names = [name for name in self._system.names() if actor_names.is_coordinator(name)]
        answers = self._census(names)
        # That a call fails does not mean that the process did.
        answers |= self._census([name for name in answers if isinstance(answers[name].error, ActorUnavailable)])
        self._learn([name for name, answer in answers.items() if answer.error is None])
        for name in names:
            answer = answers.get(name)
            if answer is None or answer.error is not None:
                kill_async(self._system, name)  # it hangs, or dies anyway; what it drives is taken up by others
                continue
            # It may have been starting when the supervisor died, so it is told to begin, whether it has or not.
            place = self.places[name] = CoordinatorSlot(
                name, actor_names.environment_of(name), idle_since=time.monotonic()
            )
            place.executions.update(answer.value)
            owners.update((held, (name, epoch)) for held, epoch in answer.value.items())
            self._begin(name)
        return owners

    def _learn(self, names: Sequence[str]) -> None:
        """Read back from coordinators what their environments are."""
        replies = ask_all(self._system, names, "environment", timeout=self._config.ping_timeout, group="control")
        for env, variables in (reply.value for reply in replies.values() if reply.error is None):
            self.environments.setdefault(env.id, env)
            if variables is not None:
                self.variables.setdefault(env.id, variables)

    def is_supplied(self, env: Environment) -> bool:
        """Whether processes of an environment can be started: its variables are known, or it has none."""
        return not env.variables or env.id in self.variables

    def _census(self, names: Sequence[str]) -> dict[str, Reply]:
        return ask_all(self._system, names, "census", timeout=self._config.ping_timeout, group="control")

    def _begin(self, name: str) -> None:
        variables = self.variables.get(actor_names.environment_of(name))
        send_to(
            self._system, name, "ready", variables, then=lambda reply: self._post(partial(self._started, name, reply))
        )

    def use(self, env: Environment) -> None:
        """There is work for this code environment."""
        self.environments[env.id] = env
        self._active[env.id] = time.monotonic()

    def keep_standbys(self, environment: str) -> None:
        """Have as many idle coordinators ready ahead as the configuration says."""
        if environment in self.environments and not self.is_supplied(self.environments[environment]):
            return
        current = [place for place in self.places.values() if not place.outdated]
        idle = [place for place in current if place.environment == environment and not place.executions]
        for _ in range(self._config.standby_coordinators - len(idle)):
            if len(current) < self.most:
                self.start(environment)

    def start(self, environment: str) -> None:
        """Start a coordinator."""
        name = actor_names.coordinator(environment, uuid.uuid4().hex[:6])
        env = self.environments[environment]
        make_available(self._system, env)
        self._system.spawn(coordinator_spec(name, env, self._settings))
        self.places[name] = CoordinatorSlot(name, environment, idle_since=time.monotonic())
        self._begin(name)

    def _started(self, name: str, reply: Reply) -> None:
        place = self.places.get(name)
        if place is None:
            return
        if isinstance(reply.error, ActorUnavailable):
            self._begin(name)
            return
        if reply.error is not None:
            log.error("coordinator %s did not start: %s", name, reply.error)
            kill_async(self._system, name)  # nobody counts on it any more
            self._gone(name)
            return
        place.ready = True
        place.idle_since = time.monotonic()
        self._watch(name)
        self.keep_standbys(place.environment)

    def _watch(self, name: str) -> None:
        send_to(self._system, name, "watch", then=lambda r: self._post(partial(self._watched, name, r)), group="watch")

    def _watched(self, name: str, reply: Reply) -> None:
        # That the call failed does not mean that the process did; if it hangs as well, the pings tell.
        if isinstance(reply.error, ActorUnavailable) and name in self.places:
            self._watch(name)
        else:
            self._gone(name)

    def tend(self) -> None:
        """See who is late in starting, and have another standby ready where there was none for a while."""
        now = time.monotonic()
        served: dict[str, bool] = {}
        for place in self.places.values():
            place.late = not place.ready and now > place.idle_since + LATE
            if not place.outdated:
                idle = not place.executions and not place.late
                served[place.environment] = served.get(place.environment, False) or idle
        for environment, idle in served.items():
            since = self._bare.setdefault(environment, now)
            if idle:
                self._bare[environment] = now
            elif now > since + BARE_FOR:
                self._bare[environment] = now
                self.keep_standbys(environment)

    def _gone(self, name: str) -> None:
        place = self.places.pop(name, None)
        self._pings.forget(name)
        if place is not None:
            self._tell_gone(name, place.executions)

    def drop_idle(self) -> None:
        """Give up coordinators of code environments that have had no work for long."""
        now = time.monotonic()
        for place in self.places.values():
            if place.executions:
                self._active[place.environment] = now
        for place in list(self.places.values()):
            idle = now - self._active.get(place.environment, 0.0)
            if (
                not place.executions
                and place.ready
                and (place.outdated or idle > self._config.environment_idle_timeout)
            ):
                self._give_up(place)
        for environment in {place.environment for place in self.places.values()}:
            self._drop_spare(environment, now)

    def _drop_spare(self, environment: str, now: float) -> None:
        """Stop idle coordinators beyond `standby_coordinators`: each keeps a process, and perhaps a node."""
        idle = [p for p in self.places.values() if p.environment == environment and p.ready and not p.executions]
        idle.sort(key=lambda place: place.idle_since, reverse=True)
        for place in idle[max(1, self._config.standby_coordinators) :]:
            if now > place.idle_since + SPARE_FOR:
                self._give_up(place)

    def give_up_all(self) -> None:
        """Give up all coordinators, whatever they drive."""
        for place in list(self.places.values()):
            self._give_up(place)

    def _give_up(self, place: CoordinatorSlot) -> None:
        del self.places[place.name]
        self._pings.forget(place.name)
        kill_async(self._system, place.name)

    # --- pings ---------------------------------------------------------------------------------------------
    def ping_all(self) -> None:
        """Ping coordinators; who does not answer for long is killed."""
        self._most = None  # nodes may have come or gone
        for name in [p.name for p in self.places.values() if p.ready]:
            self._pings.ping(name)

    def look(self) -> None:
        """See which coordinators have not answered for too long."""
        self._pings.look()

    def status(self) -> tuple[CoordinatorStatus, ...]:
        """All coordinators, by name."""
        silent = self._pings.silent()
        places = sorted(self.places.values(), key=lambda place: place.name)
        return tuple(
            CoordinatorStatus(p.name, len(p.executions), p.ready, silent.get(p.name, 0.0), p.reserved) for p in places
        )

    def _fails(self, name: str, why: str) -> None:
        log.error("coordinator %s is killed: %s", name, why)
        kill_async(self._system, name)  # taking over what it drives needs nothing of it
        self._gone(name)
