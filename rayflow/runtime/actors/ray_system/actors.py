"""Ray actors: created, found, called and killed."""

# ruff: noqa: SLF001 - parts of Ray without a public name are used in this package only

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import cloudpickle
import ray
from ray import exceptions as failures
from ray._private import state
from ray._private.runtime_env import packaging
from ray.actor import ActorClass, ActorHandle
from ray.experimental import internal_kv

from rayflow.errors import ClusterError
from rayflow.runtime import logs
from rayflow.runtime.actors.base import Actor, ActorLost, ActorSpec, CallTimeout, Reply, RunningTask, TaskSpec
from rayflow.runtime.actors.clock import REAL, SystemClock
from rayflow.runtime.actors.ray_system.cluster import (
    api,
    drop_variables,
    environment_of,
    psutil,
    replies,
    require_cluster,
    was_reconstructed,
)
from rayflow.runtime.actors.ray_system.errors import translated
from rayflow.runtime.actors.ray_system.pending_calls import Then, reply_async
from rayflow.runtime.actors.ray_system.tasks import run

#: A resource that only the head node has.
HEAD = "node:__internal_head__"
#: Bytes. Ray keeps a larger argument in its creator's memory, and an actor cannot be restarted without it.
LARGEST_ARGUMENT = 100_000
#: Handles that are cached.
_HANDLES = 1_000
#: Bound calls of one actor that are cached, by method, group and label.
_READY_CALLS = 256


class RayActor:
    """A handle on an actor of the cluster.

    Args:
        lost: called when a call finds the actor dead.
    """

    def __init__(self, name: str, handle: Any, lost: Callable[[RayActor], None]) -> None:
        self.name = name
        self._handle = handle
        self._lost = lost
        self._calls: dict[tuple[str, str, str], Callable[..., Any]] = {}

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """Call and wait."""
        require_cluster()
        try:
            return ray.get(self._ready(method, group, "")(*args), timeout=timeout)
        except failures.RayError as error:
            # A GetTimeoutError that the method itself raised is both.
            if isinstance(error, failures.GetTimeoutError) and not isinstance(error, failures.RayTaskError):
                raise CallTimeout(self.name, method, timeout or 0.0) from None
            raise self.translated(error) from None

    def send(self, method: str, *args: Any, then: Then | None = None, group: str = "", label: str = "") -> None:
        """Call without waiting."""
        try:
            require_cluster()
            ref = self._ready(method, group, label)(*args)
        except Exception as error:
            translated_error = self.translated(error)
            if then is not None:
                reply_async(then, Reply(error=translated_error))
            elif not isinstance(translated_error, ClusterError):
                raise  # otherwise the caller's own mistake would go unnoticed
            return
        if then is not None:
            settle = replies.expect(self.name, then, ref)  # Ray drops a reply without a reference to it
            # As ref.future() does, but 10 µs faster.
            ref._on_completed(lambda value: settle(self._reply(value)))

    def _reply(self, value: Any) -> Reply:
        if isinstance(value, failures.RayError):
            return Reply(error=self.translated(value))
        return Reply(value=value)

    def translated(self, error: BaseException) -> BaseException:
        """Translate an error as :func:`translated` does, and forget a dead actor."""
        found = translated(self.name, error)
        if isinstance(found, ActorLost) and found is not getattr(error, "cause", None):
            self._lost(self)
        return found

    def _ready(self, method: str, group: str, label: str) -> Callable[..., Any]:
        key = (method, group, label)
        call = self._calls.get(key)
        if call is None:
            if len(self._calls) >= _READY_CALLS:
                self._calls.clear()
            options = {"name": label, "concurrency_group": group if isinstance(self._handle, ActorHandle) else ""}
            options = {option: value for option, value in options.items() if value}  # Ray Client knows no groups
            bound = getattr(self._handle, method)
            call = self._calls[key] = bound.options(**options).remote if options else bound.remote
        return call


class RaySystem:
    """The actors of one Ray namespace, in the cluster that this process has joined."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._known: dict[str, RayActor] = {}
        self._classes: dict[tuple[Any, ...], ActorClass[Any]] = {}

    def __reduce__(self) -> tuple[Callable[[str], RaySystem], tuple[str]]:
        return _unpickled, (self.namespace,)

    @property
    def identity(self) -> str:
        """Return the namespace and the name of the cluster's session, which changes with a restart of the cluster."""
        require_cluster()
        name = internal_kv._internal_kv_get(b"session_name", namespace=b"session")
        if not name:
            raise ClusterError("this Ray cluster has no session name; rayflow does not support its version of Ray")
        return f"namespace {self.namespace} of Ray cluster {bytes(name).decode()}"

    @property
    def restarted(self) -> bool:
        """Return, inside of an actor, whether Ray has restarted it."""
        return was_reconstructed()

    @property
    def separate(self) -> bool:
        """Return True."""
        return True

    @property
    def clock(self) -> SystemClock:
        """Return the machine's clock."""
        return REAL

    def spawn(self, spec: ActorSpec) -> Actor:
        """Return the actor of that name; create it if it does not exist. Does not wait for its start.

        Raises:
            ClusterError: if this process has not joined a cluster, or an argument is too large for an actor.
        """
        require_cluster()
        _check_arguments(spec)
        options: dict[str, Any] = {
            "name": spec.name,
            "namespace": self.namespace,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": -1 if spec.restart else 0,
            "max_task_retries": 0,
            "max_concurrency": spec.threads,
            "num_cpus": spec.num_cpus,
            "num_gpus": spec.num_gpus,
            "memory": spec.memory,
            "resources": {**spec.resources, **({HEAD: 0.001} if spec.pinned else {})},
            "runtime_env": environment_of(spec.runtime_env),
        }
        # Not by .options(), which makes another environment from the given one.
        handle = self._class(spec)._remote(args=[self, *spec.args], kwargs={}, **options)
        return self._remember(spec.name, handle)

    def find(self, name: str) -> Actor:
        """Return the actor of that name. Raises ActorLost if it does not exist.

        Handles are cached until a call finds the actor dead, so the returned actor may be dead.
        """
        known = self._known.get(name)
        return known if known is not None else self._remember(name, self._get(name))

    def names(self) -> list[str]:
        """Return the names of all actors in the namespace."""
        require_cluster()
        listed = ray.util.list_named_actors(all_namespaces=True)
        return [entry["name"] for entry in listed if entry["namespace"] == self.namespace]

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Kill the actor's process; with ``restart``, let Ray restart it. A dead actor is not an error."""
        self._known.pop(name, None)
        with suppress(ActorLost):
            handle = self._get(name)
            if not (restart and _killed_here(handle._actor_id.hex())):
                ray.kill(handle, no_restart=not restart)

    def put_object(self, data: bytes) -> Any:
        """Put bytes into Ray's object store, as an object of this process."""
        require_cluster()
        try:
            return ray.put(data)
        except failures.RayError:  # the object store and its disk are full
            return None

    def get_object(self, handle: Any, timeout: float) -> bytes | None:
        """Return the bytes behind a handle, or None."""
        require_cluster()
        try:
            data: bytes = ray.get(handle, timeout=timeout)
        except failures.RayError:  # its owner or node died, or it does not arrive in time
            return None
        return data

    def ensure_package(self, uri: str, fetch: Callable[[], bytes | None]) -> None:
        """Upload a package unless the cluster has it. Ray keeps it for ten minutes, or while it is in use."""
        require_cluster()
        if not packaging.package_exists(uri):
            data = fetch()
            if data is None:
                raise ClusterError(
                    f"code package {uri} is neither in this cluster nor in the store. Submit the job again"
                )
            packaging.upload_package_to_gcs(uri, data)
        packaging.pin_runtime_env_uri(uri)

    def cpus(self) -> float:
        """Return the CPUs of the cluster."""
        require_cluster()
        return float(api.cluster_resources().get("CPU", 0.0))

    def nodes(self) -> list[dict[str, float]]:
        """Return all resources of each live node."""
        require_cluster()
        return [_countable(node["Resources"]) for node in api.nodes() if node["Alive"]]

    def free(self) -> list[dict[str, float]]:
        """Return the resources of each live node that are not reserved."""
        require_cluster()
        left = api._private.state.available_resources_per_node()
        return [_countable(resources) for resources in left.values()]

    def run(self, spec: TaskSpec, then: Then) -> RunningTask:
        """Run a function once, as a Ray task."""
        return run(self, spec, then)

    def _class(self, spec: ActorSpec) -> ActorClass[Any]:
        # One for each class, because Ray exports each one that is passed to it.
        key = (spec.cls, *sorted(spec.groups.items()))
        if key not in self._classes:
            wrap = api.remote(concurrency_groups=dict(spec.groups)) if spec.groups else api.remote
            self._classes[key] = wrap(spec.cls)
        return self._classes[key]

    def _get(self, name: str) -> Any:
        require_cluster()
        try:
            return ray.get_actor(name, namespace=self.namespace)
        except ValueError:
            raise ActorLost(name, f"no actor has that name in namespace {self.namespace!r}") from None

    def _remember(self, name: str, handle: Any) -> RayActor:
        if len(self._known) >= _HANDLES:
            self._known.clear()
        actor = self._known[name] = RayActor(name, handle, self._forget)
        return actor

    def _forget(self, actor: RayActor) -> None:
        if self._known.get(actor.name) is actor:
            self._known.pop(actor.name, None)


def _unpickled(namespace: str) -> RaySystem:
    """Return the system in an actor's process, and configure the logs of that process."""
    logs.configure()
    drop_variables()
    return RaySystem(namespace)


def _countable(resources: Mapping[str, float]) -> dict[str, float]:
    """Return resources without those by which Ray names nodes."""
    return {name: amount for name, amount in resources.items() if not name.startswith("node:")}


def _check_arguments(spec: ActorSpec) -> None:
    largest = max((len(cloudpickle.dumps(argument)) for argument in spec.args), default=0)
    if largest > LARGEST_ARGUMENT:
        raise ClusterError(
            f"an argument of actor {spec.name!r} has {largest:,} bytes, at most {LARGEST_ARGUMENT:,} are allowed. Ray "
            "could not restart the actor without it. Let the actor fetch the data"
        )


def _killed_here(actor_id: str) -> bool:
    """Kill an actor's process if it is on this node, and return whether it was: Ray needs 5 s for a stopped one."""
    info: dict[str, Any] = state.actors(actor_id=actor_id)
    if info.get("Address", {}).get("NodeID") != ray.get_runtime_context().get_node_id():
        return False
    try:
        process = psutil().Process(info["Pid"])
        if not process.cmdline()[0].startswith("ray::"):  # another process has its pid by now
            return False
        process.kill()
    except (psutil().Error, IndexError, ValueError):
        return False
    return True
