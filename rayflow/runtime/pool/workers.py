"""The workers of one pool, as processes: started, adopted, watched, pinged, stopped.

It owns the actors and what is known of their lives; how many there are to be, and who may use them, is the pool
machine's. Everything is called on the pool's one thread; what arrives on others is posted to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from rayflow.core.pool.step_limits import lacking, needs_of
from rayflow.definition.options import PoolConfig
from rayflow.errors import ClusterError, RayflowError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorLost, ActorSpec, ActorSystem, ActorUnavailable, Reply, kill_async, send_to
from rayflow.runtime.actors.health import HealthMonitor
from rayflow.runtime.code.environment import Environment, Variables, make_available, merged
from rayflow.runtime.settings import Settings
from rayflow.runtime.worker.actor import Worker, WorkerSettings

log = logging.getLogger(__name__)

#: Seconds that a worker may take to stop by itself, what its setup made included, before it is killed.
_STOPPING = 15.0

#: Seconds that a worker which has stopped keeps its process, so that its last answers arrive.
_LAST_WORDS = 0.5

#: Seconds after which it is looked whether a worker that has not started can be placed at all, and between two
#: times that it is said that it cannot.
_PLACING, _SAY_AGAIN = 5.0, 60.0


class WorkerEvents(Protocol):
    """Who is told what becomes of workers: the pool."""

    def up(self, worker: str, busy_tokens: Sequence[str]) -> None:
        """A worker is ready; on these tokens something runs there."""

    def down(self, worker: str) -> None:
        """A worker died, hangs, or could not be started."""

    def freed(self, worker: str, token: str) -> None:
        """Nothing runs on a revoked token any more."""


class WorkerGroup:
    """See the module's docstring.

    Args:
        system: where actors are made and found.
        config: the pool's configuration; replaced when that changes.
        settings: shared by all actors of the namespace.
        told: the pool.
        post: runs an action on the pool's thread.
    """

    def __init__(
        self,
        system: ActorSystem,
        config: PoolConfig,
        settings: Settings,
        told: WorkerEvents,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self.config = config
        self.environments: dict[str, tuple[Environment, Variables]] = {}
        self._system = system
        self._settings = settings
        self._told = told
        self._post = post
        self._up: dict[str, None] = {}
        self._pings = HealthMonitor(system, settings.config.ping_timeout, post, self._fails, self._is_gone)
        self._starting: dict[str, float] = {}
        self._adopted: dict[str, float] = {}
        self._stopping: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._said = 0.0

    # --- starting ------------------------------------------------------------------------------------------
    def start(self, name: str, environment: str) -> None:
        """Start a worker."""
        try:
            self._spawn(name, *(self.environments.get(environment) or self._learn(environment)))
        except (RayflowError, OSError) as error:
            self._down(name, error)  # the machine has another one started, after a while

    def _spawn(self, name: str, env: Environment, variables: Variables) -> None:
        make_available(self._system, env)
        config = self.config
        actor = actor_names.worker(config.name, name)
        settings = WorkerSettings(
            config.concurrency,
            config.name,
            actor_names.PERSISTENCE,
            self._settings.allow_pickle,
            self._settings.config.large_value_bytes,
            setup=str(config.setup or ""),
            max_tasks=config.max_tasks_per_worker,
            pool_actor=actor_names.pool(config.name),
            own_variables=tuple(config.runtime_env.get("env_vars") or ()),
        )
        spec = ActorSpec(
            cls=Worker,
            name=actor,
            args=(actor, env, settings),
            threads=2 * config.concurrency + 2,  # a run and a collect for each slot
            groups={"watch": 2, "control": 4},
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            memory=config.memory,
            resources=config.resources,
            runtime_env=merged(env.runtime_env(), config.runtime_env),
        )
        self._starting[name] = time.monotonic()
        self._system.spawn(spec)
        self._ask(name, "ready", partial(self._came_up, name), variables, group="")

    def _learn(self, environment: str) -> tuple[Environment, Variables]:
        """The environment of that id, from the supervisor: the pool was restarted, or is not the default one."""
        supervisor = self._system.find(actor_names.SUPERVISOR)
        self.environments[environment] = supervisor.call("known_environment", environment, timeout=10)
        return self.environments[environment]

    def adopt(self, name: str, epoch: int) -> None:
        """Take up a worker of the pool's earlier life: fence that life there, and ask what is under way."""
        self._send(name, "fence_pool", epoch)
        # It may have been starting when the pool died: then its setup is waited for.
        self._starting[name] = time.monotonic()
        self._ask(name, "ready", partial(self._count, name), group="")
        self._adopted[name] = time.monotonic()
        self._send(name, "ping", then=lambda reply: self._post(partial(self._found, name)))

    def _found(self, name: str) -> None:
        self._adopted.pop(name, None)

    def _count(self, name: str, reply: Reply) -> None:
        def counted(answer: Reply) -> None:
            self._came_up(name, answer, [token for token, *_ in answer.value or ()])

        if reply.error is not None:
            self._came_up(name, reply)
        elif name in self._starting:
            self._ask(name, "census", counted)

    def _ask(self, name: str, method: str, then: Callable[[Reply], None], *args: Any, group: str = "control") -> None:
        """Ask one that is starting; again if only the call fails."""

        def reply(answer: Reply) -> None:
            if isinstance(answer.error, ActorUnavailable) and name in self._starting:
                self._ask(name, method, then, *args, group=group)
            else:
                then(answer)

        self._send(name, method, *args, then=lambda answer: self._post(partial(reply, answer)), group=group)

    def _came_up(self, name: str, reply: Reply, busy: Sequence[str] = ()) -> None:
        if name not in self._starting:
            return  # given up meanwhile
        if reply.error is not None:
            self._problems[actor_names.environment_of(name)] = str(reply.error)
            self._down(name, reply.error)
        else:
            self._came(name, busy)

    def _came(self, name: str, busy: Sequence[str]) -> None:
        self._starting.pop(name, None)
        self._problems.pop(actor_names.environment_of(name), None)
        self._up[name] = None

        self._watch(name)
        self._told.up(name, busy)

    def _watch(self, name: str) -> None:
        def ended(reply: Reply) -> None:
            self._post(partial(self._ended, name, reply.error))

        self._send(name, "watch", then=ended, group="watch")

    # --- ending --------------------------------------------------------------------------------------------
    def _ended(self, name: str, why: BaseException | None) -> None:
        if name not in self._up:
            return
        if isinstance(why, ActorUnavailable):  # the call failed, not the process; if it hangs as well, the pings tell
            self._watch(name)
        else:
            self._down(name, why)

    def _down(self, name: str, why: BaseException | None) -> None:
        if why is None:
            log.info("worker %s was stopped", name)
        else:
            log.warning("worker %s is down: %s", name, why)
        self._kill(name)

    def stop(self, name: str, *, at_once: bool) -> None:
        """Stop a worker that the machine has given up: it leaves what its setup made, then it is killed.

        Args:
            name: the worker.
            at_once: kill it, since something runs there that cannot be stopped.
        """
        if at_once or name not in self._up:
            self._kill(name)
            return
        self._forget(name)
        self._stopping[name] = time.monotonic() + _STOPPING
        self._send(name, "stop", 0.0, then=lambda _: self._post(partial(self._has_stopped, name)))

    def _has_stopped(self, name: str) -> None:
        # What it has answered to coordinators is on its way.
        if name in self._stopping:
            self._stopping[name] = time.monotonic() + _LAST_WORDS

    def _kill(self, name: str) -> None:
        self._forget(name)
        self._stopping.pop(name, None)
        kill_async(self._system, self._actor(name))
        self._told.down(name)

    def _forget(self, name: str) -> None:
        for known in (self._starting, self._adopted, self._up):
            known.pop(name, None)
        self._pings.forget(self._actor(name))

    # --- watching ------------------------------------------------------------------------------------------
    def names(self) -> list[str]:
        """The workers that are up."""
        return list(self._up)

    def tick(self) -> None:
        """End the processes of workers that were told to stop, and say what cannot be placed."""
        now = time.monotonic()
        for name in [name for name, until in self._stopping.items() if now > until]:
            self._kill(name)
        patience = self._settings.config.ping_timeout
        for name in [name for name, since in self._adopted.items() if now > since + patience]:
            self._down(name, ClusterError("it has not answered since the pool was restarted"))
        if now > self._said + _SAY_AGAIN and self._is_late(now):
            self._said = now
            if problem := self.problem():
                log.warning("pool %s: %s", self.config.name, problem)

    def problem(self) -> str:
        """Why workers do not start, in words; "" if they do, or have only begun to. From any thread."""
        if self._is_late(time.monotonic()):
            needs = needs_of(self.config)
            missing = lacking(needs, self._system.nodes()) or lacking(needs, self._system.free(), have="have left")
            if missing:
                return f"workers cannot be placed: {missing}"
        return next(iter(list(self._problems.values())), "")

    def _is_late(self, now: float) -> bool:
        return any(now > since + _PLACING for since in list(self._starting.values()))

    def ping_all(self) -> None:
        """Ping all workers; one that does not answer for long is given up."""
        for name in self.names():
            self.ping(name)

    def ping(self, name: str) -> None:
        """Ping a worker, unless it has not answered yet; then see for how long it has not."""
        if name in self._up:
            self._pings.ping(self._actor(name))

    def _fails(self, actor: str, why: str) -> None:
        self._down(actor_names.worker_in(actor), ClusterError(why))

    def _is_gone(self, actor: str) -> None:
        if (name := actor_names.worker_in(actor)) in self._up:
            self._down(name, ActorLost(actor))

    def _actor(self, name: str) -> str:
        return actor_names.worker(self.config.name, name)

    def revoke(self, worker: str, token: str) -> None:
        """Have a worker refuse a token; while a task still runs there the machine asks again, after a while."""

        def reply(answer: Reply) -> None:
            if answer.error is None and answer.value:
                self._post(partial(self._told.freed, worker, token))

        self._send(worker, "revoke_token", token, then=reply)

    def _send(
        self, worker: str, method: str, *args: Any, then: Callable[[Reply], None] | None = None, group: str = "control"
    ) -> None:
        send_to(self._system, self._actor(worker), method, *args, then=then, group=group)
