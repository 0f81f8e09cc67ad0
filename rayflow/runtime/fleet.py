"""The coordinators of a namespace: started ahead, watched, pinged, given up when they are of no use.

It owns which coordinators there are and whether they live; what they drive is the overseer's. Everything is called on
the supervisor's one thread; what arrives on others is posted to it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rayflow.core.placement import Place
from rayflow.errors import ClusterError
from rayflow.runtime import naming
from rayflow.runtime.environment import Environment, make_available
from rayflow.runtime.pings import Ping
from rayflow.runtime.settings import Settings
from rayflow.runtime.specs import coordinator_spec
from rayflow.runtime.system import ActorLost, ActorSystem, Reply, kill_aside, send_to

log = logging.getLogger(__name__)

#: Seconds for which a coordinator beyond the standbys is kept without work.
SPARE_FOR = 30.0


@dataclass(slots=True)
class _Pinged:
    """What is known of an actor's pings."""

    answered: float
    asked: float = 0.0
    waiting: bool = False


class Fleet:
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
        self.places: dict[str, Place] = {}
        self.environments: dict[str, Environment] = {}
        self._system = system
        self._settings = settings
        self._config = settings.config
        self._post = post
        self._tell_gone = gone
        self._active: dict[str, float] = {}
        self._pings: dict[str, _Pinged] = {}
        self._persistence = Ping(system, naming.PERSISTENCE, self._config.ping_timeout)
        self._most: int | None = None

    @property
    def most(self) -> int:
        """Coordinators at most."""
        if self._most is None:
            self._most = self._config.max_coordinators or max(2, int(2 * self._system.cpus()))
        return self._most

    def adopt(self) -> dict[str, str]:
        """Take up the coordinators that are there already; answers who drives which execution."""
        owners: dict[str, str] = {}
        for name in self._system.names():
            if naming.is_coordinator(name):
                owners.update(dict.fromkeys(self._adopt(name), name))
        return owners

    def _adopt(self, name: str) -> list[str]:
        try:
            held = self._system.find(name).call("census", timeout=self._config.ping_timeout, group="control")
        except ClusterError:
            self._system.kill(name)
            return []
        # It may have been starting when the supervisor died, so it is told to begin, whether it has or not.
        place = self.places[name] = Place(name, naming.environment_of(name), idle_since=time.monotonic())
        place.executions.update(held)
        self._begin(name)
        return list(held)

    def _begin(self, name: str) -> None:
        send_to(self._system, name, "ready", then=lambda reply: self._post(partial(self._started, name, reply)))

    def use(self, env: Environment) -> None:
        """There is work for this code environment."""
        self.environments[env.id] = env
        self._active[env.id] = time.monotonic()

    def keep_standbys(self, environment: str) -> None:
        """Have as many idle coordinators ready ahead as the configuration says."""
        current = [place for place in self.places.values() if not place.outdated]
        idle = [place for place in current if place.environment == environment and not place.executions]
        for _ in range(self._config.standbys - len(idle)):
            if len(current) < self.most:
                self.start(environment)

    def start(self, environment: str) -> None:
        """Start a coordinator."""
        name = naming.coordinator(environment, uuid.uuid4().hex[:6])
        env = self.environments[environment]
        make_available(self._system, env)
        self._system.spawn(coordinator_spec(name, env, self._settings))
        self.places[name] = Place(name, environment, idle_since=time.monotonic())
        self._begin(name)

    def _started(self, name: str, reply: Reply) -> None:
        place = self.places.get(name)
        if place is None:
            return
        if reply.error is not None:
            log.error("coordinator %s did not start: %s", name, reply.error)
            self._gone(name)
            return
        place.ready = True
        place.idle_since = time.monotonic()
        self._watch(name)
        self.keep_standbys(place.environment)

    def _watch(self, name: str) -> None:
        self._pings[name] = _Pinged(time.monotonic())
        send_to(self._system, name, "watch", then=lambda _: self._post(partial(self._gone, name)), group="watch")

    def _gone(self, name: str) -> None:
        place = self.places.pop(name, None)
        self._pings.pop(name, None)
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
            if not place.executions and place.ready and (place.outdated or idle > self._config.environment_idle):
                self._give_up(place)
        for environment in {place.environment for place in self.places.values()}:
            self._drop_spare(environment, now)

    def _drop_spare(self, environment: str, now: float) -> None:
        """Give up idle coordinators beyond the standbys: each keeps a process, and perhaps a node that could go."""
        idle = [p for p in self.places.values() if p.environment == environment and p.ready and not p.executions]
        idle.sort(key=lambda place: place.idle_since, reverse=True)
        for place in idle[max(1, self._config.standbys) :]:
            if now > place.idle_since + SPARE_FOR:
                self._give_up(place)

    def give_up_all(self) -> None:
        """Give up all coordinators, whatever they drive."""
        for place in list(self.places.values()):
            self._give_up(place)

    def _give_up(self, place: Place) -> None:
        del self.places[place.name]
        self._pings.pop(place.name, None)
        kill_aside(self._system, place.name)

    # --- pings ---------------------------------------------------------------------------------------------
    def ping_all(self) -> None:
        """Ping coordinators and the store's actor; what does not answer for long is killed."""
        self._most = None  # nodes may have come or gone
        for name in [p.name for p in self.places.values() if p.ready]:
            self._ping(name)
        self._persistence.ping()

    def _ping(self, name: str) -> None:
        now = time.monotonic()
        known = self._pings.setdefault(name, _Pinged(now))
        if known.waiting:
            if now - known.asked > self._config.ping_timeout:
                self._hangs(name, now - known.answered)
            return
        known.waiting, known.asked = True, now

        def pong(reply: Reply) -> None:
            self._post(partial(self._ponged, name, reply))

        send_to(self._system, name, "ping", then=pong, group="control")

    def _hangs(self, name: str, seconds: float) -> None:
        log.error("%s has not answered for %.1f s; it is killed", name, seconds)
        self._pings.pop(name, None)
        kill_aside(self._system, name)  # taking over what it drives needs nothing of it
        self._gone(name)

    def _ponged(self, name: str, reply: Reply) -> None:
        known = self._pings.get(name)
        if known is None:
            return
        known.waiting = False
        if reply.error is None:
            known.answered = time.monotonic()
        elif name in self.places and not isinstance(reply.error, ActorLost):
            log.error("coordinator %s is broken: %s", name, reply.error)
            self._system.kill(name)
