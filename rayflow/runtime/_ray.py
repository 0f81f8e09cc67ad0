"""The one file that imports ray: making, finding, calling and killing actors, joining a cluster, and Ray's errors.

What leaves this file is rayflow's: an exception that a method raised comes back as itself, everything else as
:class:`ActorLost`, :class:`ActorUnavailable`, :class:`CallTimeout` or their base, ClusterError.
"""

# ruff: noqa: SLF001 - what Ray has no public name for is used here, so that it stands in one place

from __future__ import annotations

import importlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import ray
from ray import exceptions as failures
from ray._private.authentication import authentication_token_setup
from ray._private.runtime_env import packaging
from ray.actor import ActorClass, ActorHandle
from ray.experimental import internal_kv
from ray.runtime_env import RuntimeEnv

from rayflow.errors import ClusterError
from rayflow.runtime import logs
from rayflow.runtime.replies import Replies, Then, tell_elsewhere
from rayflow.runtime.system import Actor, ActorLost, ActorSpec, ActorUnavailable, CallTimeout, Reply

_api: Any = ray  # typed in parts only
_tokens: Any = authentication_token_setup

#: A resource that only the head node has.
HEAD = "node:__internal_head__"
#: Bytes; Ray keeps a larger argument in its creator's memory, and an actor cannot be restarted without it.
LARGEST_ARGUMENT = 100_000
#: Calls of one actor that are kept ready, by method, group and label.
_READY_CALLS = 256

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: Marks under lines of code, some of which Ray has taken out.
_CARETS = re.compile(r"^[ ~^]*\^\n", re.MULTILINE)


def _text(error: BaseException) -> str:
    return _COLOURS.sub("", str(error)).strip()


def _raised(name: str, error: failures.RayTaskError) -> BaseException:
    """What the method raised, as it was, with the traceback of over there as a note."""
    cause: BaseException = error.cause
    trace = _CARETS.sub("", _text(error))
    if isinstance(cause, failures.RayError):  # in its place
        return _cannot_be_sent(name, trace)
    cause.add_note(f"\nIn actor {name!r}:\n{trace}")
    return cause


def _cannot_be_sent(name: str, text: str) -> ClusterError:
    return ClusterError(f"actor {name!r} failed with an exception that cannot be sent to another process: {text}")


def translated(name: str, error: BaseException) -> BaseException:
    """What a caller of the named actor gets for an error of Ray's; any other exception stays as it is."""
    match error:
        case failures.RayTaskError():
            return _raised(name, error)
        case failures.UnserializableException():
            return _cannot_be_sent(name, _text(error))
        case failures.ActorUnavailableError() | failures.PendingCallsLimitExceeded():
            return ActorUnavailable(name, _text(error))
        case failures.RayError() if isinstance(error, _GONE):
            return ActorLost(name, _text(error))
        case failures.RayError():
            return ClusterError(f"calling actor {name!r} failed: {_text(error)}")
    return error


_GONE = (
    failures.RayActorError,
    failures.ObjectLostError,
    failures.NodeDiedError,
    failures.ActorUnschedulableError,
    failures.RuntimeEnvSetupError,
)

_replies = Replies()


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
        """See :class:`~rayflow.runtime.system.Actor`."""
        _require_cluster()
        try:
            return ray.get(self._ready(method, group, "")(*args), timeout=timeout)
        except failures.RayError as error:
            # A GetTimeoutError that the method itself raised is both.
            if isinstance(error, failures.GetTimeoutError) and not isinstance(error, failures.RayTaskError):
                raise CallTimeout(self.name, method, timeout or 0.0) from None
            raise self.translated(error) from None

    def send(self, method: str, *args: Any, then: Then | None = None, group: str = "", label: str = "") -> None:
        """See :class:`~rayflow.runtime.system.Actor`."""
        try:
            _require_cluster()
            ref = self._ready(method, group, label)(*args)
        except Exception as error:
            told = self.translated(error)
            if then is not None:
                tell_elsewhere(then, Reply(error=told))
            elif not isinstance(told, ClusterError):
                raise  # nobody would be told of the caller's own mistake
            return
        if then is not None:
            settle = _replies.expect(self.name, then, ref)  # Ray drops a reply whose reference nobody holds
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


class _Exactly(RuntimeEnv):
    """A runtime environment that does not take over what the creating process's own has.

    Ray merges a new actor's environment over its creator's, field by field. A field that is null there is taken
    for not given by whoever sets the environment up; Ray's classes would leave it out.
    """

    without: tuple[str, ...] = ()

    def serialize(self) -> str:
        return json.dumps({**dict.fromkeys(self.without), **json.loads(super().serialize())}, sort_keys=True)


def _environment(wanted: Mapping[str, Any]) -> RuntimeEnv | None:
    """What Ray is told, so that an actor gets the wanted environment and nothing of its creator's.

    Environment variables are the exception: Ray merges them, and none can be taken away.
    """
    inherited = {key for key, value in job_runtime_env().items() if value} - {"env_vars", "config", *wanted}
    # Where rayflow itself came with the creator's environment, an actor without it could not be made at all.
    if not inherited or "runtime_resources" in Path(__file__).parts:
        return RuntimeEnv(**wanted) if wanted else None
    environment = _Exactly(**wanted)
    environment.without = tuple(inherited)
    return environment


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
        """The name of the cluster's session: another one after the cluster was started anew."""
        _require_cluster()
        name = internal_kv._internal_kv_get(b"session_name", namespace=b"session")
        if not name:
            raise ClusterError("this Ray cluster has no session name; rayflow does not know clusters of its version")
        return bytes(name).decode()

    def spawn(self, spec: ActorSpec) -> Actor:
        """The actor of that name: the one there is, or a new one; it is not waited for.

        Raises:
            ClusterError: this process has joined no cluster, or an argument is too large for an actor.
        """
        _require_cluster()
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
            "runtime_env": _environment(spec.runtime_env),
        }
        if spec.pinned:
            options["resources"] = {HEAD: 0.001}
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
        _require_cluster()
        listed = ray.util.list_named_actors(all_namespaces=True)
        return [entry["name"] for entry in listed if entry["namespace"] == self.namespace]

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Kill the actor's process; with ``restart`` let Ray make it anew. No error if it is gone."""
        self._known.pop(name, None)
        with suppress(ActorLost):
            ray.kill(self._get(name), no_restart=not restart)

    def provide(self, uri: str, fetch: Callable[[], bytes | None]) -> None:
        """See ActorSystem. It is kept for ten minutes, and then as long as an actor or job uses it."""
        _require_cluster()
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
        _require_cluster()
        return float(_api.cluster_resources().get("CPU", 0.0))

    def _class(self, spec: ActorSpec) -> ActorClass[Any]:
        # One for each class: Ray exports every one that it is given.
        key = (spec.cls, *sorted(spec.groups.items()))
        if key not in self._classes:
            wrap = _api.remote(concurrency_groups=dict(spec.groups)) if spec.groups else _api.remote
            self._classes[key] = wrap(spec.cls)
        return self._classes[key]

    def _get(self, name: str) -> Any:
        _require_cluster()
        try:
            return ray.get_actor(name, namespace=self.namespace)
        except ValueError:
            raise ActorLost(name, f"there is no actor of that name in namespace {self.namespace!r}") from None

    def _remember(self, name: str, handle: Any) -> RayActor:
        actor = self._known[name] = RayActor(name, handle, self._forget)
        return actor

    def _forget(self, actor: RayActor) -> None:
        if self._known.get(actor.name) is actor:
            self._known.pop(actor.name, None)


def _arrived(namespace: str) -> RaySystem:
    """The system in an actor's process, whose log is ours to arrange."""
    logs.configure()
    return RaySystem(namespace)


def _check_arguments(spec: ActorSpec) -> None:
    largest = max((len(cloudpickle.dumps(argument)) for argument in spec.args), default=0)
    if largest > LARGEST_ARGUMENT:
        raise ClusterError(
            f"an argument of actor {spec.name!r} takes {largest:,} bytes; at most {LARGEST_ARGUMENT:,} are kept with "
            "the actor, and it cannot be restarted without one that is not. Let the actor fetch it"
        )


def joined() -> str:
    """Address of the cluster that this process is in, whoever joined it; "" if it is in none."""
    if not ray.is_initialized():
        return ""
    return "ray://" if _api.util.client.ray.is_connected() else str(ray.get_runtime_context().gcs_address)


def join(address: str, *, namespace: str | None = None, ours: bool = False) -> None:
    """Join a cluster, in which this process is not yet. ``cluster.connect`` decides which, and whether.

    Args:
        address: ``host:port`` of the cluster, or ``ray://host:port``.
        namespace: Ray's namespace of this driver; None for one of its own.
        ours: the cluster was found on this machine, so the user's token may be shown to it.

    Raises:
        ClusterError: Ray cannot join it.
    """
    # Ray's own rule: a cluster that was found, not named, is shown the token, if there is one.
    if ours and "RAY_AUTH_MODE" not in os.environ and _has_token():
        _tokens._enable_token_auth()
    # The actors' output would be that of this driver's own ones only.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        ray.init(address, namespace=namespace, **({} if address.startswith("ray://") else quiet))
    except (OSError, RuntimeError, failures.RayError) as error:
        raise ClusterError(f"cannot join the Ray cluster at {address}: {_text(error)}") from error


def leave() -> None:
    """Leave the cluster. Whoever waits for a reply is told."""
    ray.shutdown()
    _replies.give_up()


def _require_cluster() -> None:
    # Ray would otherwise start a cluster of its own here.
    if not ray.is_initialized():
        raise ClusterError("this process is in no Ray cluster: open an engine, or call ray.init()")


def job_runtime_env() -> dict[str, Any]:
    """The runtime environment of this process: in a driver its job's, in an actor its own."""
    return dict(ray.get_runtime_context().runtime_env)


def job_working_dir() -> str:
    """URI of the package that this process runs in, as Ray names it by content hash; "" if it is in none."""
    return str(job_runtime_env().get("working_dir") or "")


def get_package(uri: str) -> bytes | None:
    """The package of a ``working_dir``, by its ``gcs://`` URI; None if the cluster does not have it (any more)."""
    _require_cluster()
    data: bytes | None = internal_kv._internal_kv_get(uri)
    return data


def was_reconstructed() -> bool:
    """Inside an actor: whether Ray has made it anew since it was spawned."""
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def psutil() -> Any:
    """The psutil that Ray brings along, and puts on the import path."""
    return importlib.import_module("psutil")


def ensure_token() -> None:
    """Make the token by which the user's processes and clusters know each other, if there is none yet."""
    if not _has_token():
        _tokens.generate_and_save_token()
        _tokens._get_default_token_path().chmod(0o600)
        _tokens.AuthenticationTokenLoader.instance().reset_cache()


def _has_token() -> bool:
    return bool(_tokens.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
