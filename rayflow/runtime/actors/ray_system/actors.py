"""Making, finding, calling and killing actors."""

# ruff: noqa: SLF001 - what Ray has no public name for is used here, so that it stands in one place

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
from rayflow.runtime.actors.ray_system.pending_calls import Then, tell_elsewhere
from rayflow.runtime.actors.ray_system.tasks import run

#: A resource that only the head node has.
HEAD = "node:__internal_head__"
#: Bytes; Ray keeps a larger argument in its creator's memory, and an actor cannot be restarted without it.
LARGEST_ARGUMENT = 100_000
#: Handles that are kept at hand.
_HANDLES = 1_000
#: Calls of one actor that are kept ready, by method, group and label.
_READY_CALLS = 256


class RayActor:
    """A handle on an actor of the cluster.

    Args:
        name: the actor's name.
        handle: Ray's handle.
        lost: called when the actor turns out to be gone.
    """

    def __init__(self, name: str, handle: Any, lost: Callable[[RayActor], None]) -> None:
        self.name = name
        self._handle = handle
        self._lost = lost
        self._calls: dict[tuple[str, str, str], Callable[..., Any]] = {}

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """See :class:`~rayflow.runtime.actors.base.Actor`."""
        require_cluster()
        try:
            return ray.get(self._ready(method, group, "")(*args), timeout=timeout)
        except failures.RayError as error:
            # A GetTimeoutError that the method itself raised is both.
            if isinstance(error, failures.GetTimeoutError) and not isinstance(error, failures.RayTaskError):
                raise CallTimeout(self.name, method, timeout or 0.0) from None
            raise self.translated(error) from None

    def send(self, method: str, *args: Any, then: Then | None = None, group: str = "", label: str = "") -> None:
        """See :class:`~rayflow.runtime.actors.base.Actor`."""
        try:
            require_cluster()
            ref = self._ready(method, group, label)(*args)
        except Exception as error:
            told = self.translated(error)
            if then is not None:
                tell_elsewhere(then, Reply(error=told))
            elif not isinstance(told, ClusterError):
                raise  # nobody would be told of the caller's own mistake
            return
        if then is not None:
            settle = replies.expect(self.name, then, ref)  # Ray drops a reply whose reference nobody holds
            # Where ref.future() would end as well, 10 µs earlier.
            ref._on_completed(lambda value: settle(self._reply(value)))

    def _reply(self, value: Any) -> Reply:
        if isinstance(value, failures.RayError):
            return Reply(error=self.translated(value))
        return Reply(value=value)

    def translated(self, error: BaseException) -> BaseException:
        """See :func:`translated`; an actor that is gone is also forgotten."""
        told = translated(self.name, error)
        if isinstance(told, ActorLost) and told is not getattr(error, "cause", None):
            self._lost(self)
        return told

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
    """The actors of one of Ray's namespaces, in the cluster that this process has joined."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._known: dict[str, RayActor] = {}
        self._classes: dict[tuple[Any, ...], ActorClass[Any]] = {}

    def __reduce__(self) -> tuple[Callable[[str], RaySystem], tuple[str]]:
        return _arrived, (self.namespace,)

    @property
    def identity(self) -> str:
        """The namespace, and the name of the cluster's session: another one after the cluster was started anew."""
        require_cluster()
        name = internal_kv._internal_kv_get(b"session_name", namespace=b"session")
        if not name:
            raise ClusterError("this Ray cluster has no session name; rayflow does not know clusters of its version")
        return f"namespace {self.namespace} of Ray cluster {bytes(name).decode()}"

    @property
    def restarted(self) -> bool:
        """See ActorSystem."""
        return was_reconstructed()

    @property
    def separate(self) -> bool:
        """Yes."""
        return True

    @property
    def clock(self) -> SystemClock:
        """The machine's clock."""
        return REAL

    def spawn(self, spec: ActorSpec) -> Actor:
        """The actor of that name: the one there is, or a new one; it is not waited for.

        Raises:
            ClusterError: this process has joined no cluster, or an argument is too large for an actor.
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
        # Not by .options(), which makes an environment of its own from the one that it is given.
        handle = self._class(spec)._remote(args=[self, *spec.args], kwargs={}, **options)
        return self._remember(spec.name, handle)

    def find(self, name: str) -> Actor:
        """The actor of that name. Raises ActorLost if there is none.

        A handle is remembered until a call finds the actor gone, so the actor of one that is answered may be dead.
        """
        known = self._known.get(name)
        return known if known is not None else self._remember(name, self._get(name))

    def names(self) -> list[str]:
        """Names of all actors in the namespace."""
        require_cluster()
        listed = ray.util.list_named_actors(all_namespaces=True)
        return [entry["name"] for entry in listed if entry["namespace"] == self.namespace]

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Kill the actor's process; with ``restart`` let Ray make it anew. No error if it is gone."""
        self._known.pop(name, None)
        with suppress(ActorLost):
            handle = self._get(name)
            if not (restart and _killed_here(handle._actor_id.hex())):
                ray.kill(handle, no_restart=not restart)

    def hold(self, data: bytes) -> Any:
        """See ActorSystem: in Ray's object store, as an object of this process."""
        require_cluster()
        try:
            return ray.put(data)
        except failures.RayError:  # the object store is full, and its disk, too
            return None

    def fetch(self, handle: Any, timeout: float) -> bytes | None:
        """See ActorSystem."""
        require_cluster()
        try:
            data: bytes = ray.get(handle, timeout=timeout)
        except failures.RayError:  # its owner or its node died, or it is not here in time
            return None
        return data

    def provide(self, uri: str, fetch: Callable[[], bytes | None]) -> None:
        """See ActorSystem. It is kept for ten minutes, and then as long as an actor or job uses it."""
        require_cluster()
        if not packaging.package_exists(uri):
            data = fetch()
            if data is None:
                raise ClusterError(
                    f"the package {uri} is neither in this cluster nor in the store; submit the job again"
                )
            packaging.upload_package_to_gcs(uri, data)
        packaging.pin_runtime_env_uri(uri)

    def cpus(self) -> float:
        """CPUs of the cluster."""
        require_cluster()
        return float(api.cluster_resources().get("CPU", 0.0))

    def nodes(self) -> list[dict[str, float]]:
        """See ActorSystem."""
        require_cluster()
        return [_countable(node["Resources"]) for node in api.nodes() if node["Alive"]]

    def free(self) -> list[dict[str, float]]:
        """See ActorSystem."""
        require_cluster()
        left = api._private.state.available_resources_per_node()
        return [_countable(resources) for resources in left.values()]

    def run(self, spec: TaskSpec, then: Then) -> RunningTask:
        """See ActorSystem."""
        return run(self, spec, then)

    def _class(self, spec: ActorSpec) -> ActorClass[Any]:
        # One for each class: Ray exports every one that it is given.
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
            raise ActorLost(name, f"there is no actor of that name in namespace {self.namespace!r}") from None

    def _remember(self, name: str, handle: Any) -> RayActor:
        if len(self._known) >= _HANDLES:
            self._known.clear()
        actor = self._known[name] = RayActor(name, handle, self._forget)
        return actor

    def _forget(self, actor: RayActor) -> None:
        if self._known.get(actor.name) is actor:
            self._known.pop(actor.name, None)


def _arrived(namespace: str) -> RaySystem:
    """The system in an actor's process, whose log is ours to arrange."""
    logs.configure()
    drop_variables()
    return RaySystem(namespace)


def _countable(resources: Mapping[str, float]) -> dict[str, float]:
    """Without the resources by which Ray names nodes."""
    return {name: amount for name, amount in resources.items() if not name.startswith("node:")}


def _check_arguments(spec: ActorSpec) -> None:
    largest = max((len(cloudpickle.dumps(argument)) for argument in spec.args), default=0)
    if largest > LARGEST_ARGUMENT:
        raise ClusterError(
            f"an argument of actor {spec.name!r} takes {largest:,} bytes; at most {LARGEST_ARGUMENT:,} are kept with "
            "the actor, and it cannot be restarted without one that is not. Let the actor fetch it"
        )


def _killed_here(actor_id: str) -> bool:
    """Whether an actor's process was on this node, and was killed: one that is stopped takes Ray 5 s to kill."""
    told: dict[str, Any] = state.actors(actor_id=actor_id)
    if told.get("Address", {}).get("NodeID") != ray.get_runtime_context().get_node_id():
        return False
    try:
        process = psutil().Process(told["Pid"])
        if not process.cmdline()[0].startswith("ray::"):  # somebody else's by now
            return False
        process.kill()
    except (psutil().Error, IndexError, ValueError):
        return False
    return True
