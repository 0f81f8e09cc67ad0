"""Workers of one pool: started, adopted, watched, pinged and stopped.

The group owns the worker actors and the records of their lives; the pool machine decides how many there are and who
may use them. All methods run on the pool's thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from rayflow.core.pool.step_limits import missing_resources, resource_needs
from rayflow.definition.options import PoolConfig
from rayflow.errors import ClusterError, RayflowError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.actor_group import ActorGroup
from rayflow.runtime.actors.base import ActorSpec, ActorSystem, Reply, send_to
from rayflow.runtime.code.environment import Environment, Variables, make_available, merged
from rayflow.runtime.settings import Settings
from rayflow.runtime.worker.actor import Worker, WorkerSettings

log = logging.getLogger(__name__)

#: Seconds that a worker may take to stop, including the end of its setup, before it is killed.
_STOP_TIMEOUT = 15.0

#: Seconds for which the process of a stopped worker is kept, so that its last replies arrive.
_REPLY_GRACE = 0.5

#: Seconds after which a worker that has not started is reported as not placeable, and between two such warnings.
_START_TIMEOUT, _WARNING_INTERVAL = 5.0, 60.0


class WorkerEvents(Protocol):
    """Receiver of what happens to workers: the pool."""

    def up(self, worker: str, busy_tokens: Sequence[str]) -> None:
        """Receive that a worker is ready, and on which tokens it already runs tasks."""

    def down(self, worker: str) -> None:
        """Receive that a worker died, hangs, or could not be started."""

    def freed(self, worker: str, token: str) -> None:
        """Receive that no task runs on a revoked token."""


class WorkerGroup:
    """The workers of one pool.

    Args:
        config: the pool's configuration; replaced when it changes.
    """

    def __init__(
        self,
        system: ActorSystem,
        config: PoolConfig,
        settings: Settings,
        events: WorkerEvents,
        submit: Callable[[Callable[[], None]], None],
    ) -> None:
        self.config = config
        self.environments: dict[str, tuple[Environment, Variables]] = {}
        self._system = system
        self._settings = settings
        self._events = events
        self._submit = submit
        #: The members are known by their actor names; everywhere else, a worker has its name in the pool.
        self.group = ActorGroup(
            "worker", system, settings.config.ping_timeout, submit, started=self._started, ended=self._ended
        )
        self._adopted: dict[str, float] = {}
        self._stopping: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._warned_at = 0.0

    def start(self, name: str, environment: str) -> None:
        """Start a worker."""
        try:
            self._spawn(name, *(self.environments.get(environment) or self._fetch_environment(environment)))
        except (RayflowError, OSError) as error:
            self.group.end(self._actor(name), error)  # the machine starts another worker after a pause

    def _spawn(self, name: str, env: Environment, variables: Variables) -> None:
        make_available(self._system, env)
        config = self.config
        actor = self._actor(name)
        settings = WorkerSettings(
            config.concurrency,
            config.name,
            actor_names.STORE,
            self._settings.allow_pickle,
            self._settings.config.large_value_bytes,
            setup=str(config.setup or ""),
            max_tasks=config.max_tasks_per_worker,
            pool_actor=actor_names.pool(config.name),
            own_variables=tuple(config.runtime_env.get("env_vars") or ()),
        )
        self.group.start(
            ActorSpec(
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
            ),
            variables,
        )

    def _fetch_environment(self, environment: str) -> tuple[Environment, Variables]:
        """Ask the supervisor for a code environment that this pool does not know, and for its variables."""
        supervisor = self._system.find(actor_names.SUPERVISOR)
        self.environments[environment] = supervisor.call("known_environment", environment, timeout=10)
        return self.environments[environment]

    def adopt(self, name: str, epoch: int) -> None:
        """Take over a worker from before the pool's restart: fence the earlier epoch, and ask what it runs."""
        self._send(name, "fence_pool", epoch)
        self.group.adopt(self._actor(name), census=True)  # it may still be running its setup
        self._adopted[name] = time.monotonic()
        self._send(name, "ping", then=lambda _: self._submit(partial(self._replied, name)))

    def _replied(self, name: str) -> None:
        self._adopted.pop(name, None)

    def _started(self, actor: str, census: Any) -> None:
        name = actor_names.worker_in(actor)
        self._problems.pop(actor_names.environment_of(name), None)
        # Only the census of an adopted worker is a list of rows.
        self._events.up(name, [token for token, *_ in census] if isinstance(census, list) else ())

    def _ended(self, actor: str, why: BaseException | None, had_started: bool) -> None:  # noqa: FBT001 - a callback
        name = actor_names.worker_in(actor)
        if why is not None and not had_started:
            self._problems[actor_names.environment_of(name)] = str(why)
        self._adopted.pop(name, None)
        self._stopping.pop(name, None)
        self._events.down(name)

    def stop(self, name: str, *, at_once: bool) -> None:
        """Stop a worker that the pool machine has dropped: its setup ends first, then it is killed.

        Args:
            name: the worker.
            at_once: kill it without waiting, because a task that cannot be stopped runs there.
        """
        actor = self._actor(name)
        if at_once or actor not in self.group.running:
            self.group.end(actor, None)
            return
        self.group.forget(actor)
        self._stopping[name] = time.monotonic() + _STOP_TIMEOUT
        self._send(name, "stop", 0.0, then=lambda _: self._submit(partial(self._has_stopped, name)))

    def _has_stopped(self, name: str) -> None:
        if name in self._stopping:
            self._stopping[name] = time.monotonic() + _REPLY_GRACE

    def names(self) -> list[str]:
        """Return the workers that are ready."""
        return [actor_names.worker_in(actor) for actor in list(self.group.running)]

    def tick(self) -> None:
        """Kill workers whose time to stop or to reply is up, and warn about those that cannot be placed."""
        now = time.monotonic()
        for name in [name for name, until in self._stopping.items() if now > until]:
            self.group.end(self._actor(name), None)
        timeout = self._settings.config.ping_timeout
        for name in [name for name, since in self._adopted.items() if now > since + timeout]:
            self.group.end(self._actor(name), ClusterError("no reply to a ping since the pool was restarted"))
        if now > self._warned_at + _WARNING_INTERVAL and self._is_late(now):
            self._warned_at = now
            if problem := self.problem():
                log.warning("pool %s: %s", self.config.name, problem)

    def problem(self) -> str:
        """Return why workers do not start; "" if they do, or have just begun to. Any thread may call this."""
        if self._is_late(time.monotonic()):
            needs = resource_needs(self.config)
            missing = missing_resources(needs, self._system.nodes()) or missing_resources(
                needs, self._system.free(), have="have left"
            )
            if missing:
                return f"workers cannot be placed: {missing}"
        return next(iter(list(self._problems.values())), "")

    def _is_late(self, now: float) -> bool:
        return any(now > since + _START_TIMEOUT for since in list(self.group.starting.values()))

    def ping_all(self) -> None:
        """Ping all workers; those that stay silent for too long are killed."""
        self.group.ping_all()

    def ping(self, name: str) -> None:
        """Ping one worker."""
        self.group.ping(self._actor(name))

    def _actor(self, name: str) -> str:
        return actor_names.worker(self.config.name, name)

    def revoke(self, worker: str, token: str) -> None:
        """Make a worker refuse a token. While a task still runs on it, the machine repeats this after a pause."""

        def replied(reply: Reply) -> None:
            if reply.error is None and reply.value:
                self._submit(partial(self._events.freed, worker, token))

        self._send(worker, "revoke_token", token, then=replied)

    def _send(
        self, worker: str, method: str, *args: Any, then: Callable[[Reply], None] | None = None, group: str = "control"
    ) -> None:
        send_to(self._system, self._actor(worker), method, *args, then=then, group=group)
