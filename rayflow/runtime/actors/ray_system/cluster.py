"""The cluster that this process is in: joining and leaving it, and what it has."""

# ruff: noqa: SLF001 - what Ray has no public name for is used here, so that it stands in one place

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as failures
from ray._private.authentication import authentication_token_setup
from ray.experimental import internal_kv
from ray.runtime_env import RuntimeEnv

from rayflow.errors import ClusterError
from rayflow.runtime.actors.ray_system.errors import text_of
from rayflow.runtime.actors.ray_system.pending_calls import PendingCalls

api: Any = ray  # typed in parts only
tokens: Any = authentication_token_setup

#: The calls of this process that wait for a reply.
replies = PendingCalls()


def joined() -> str:
    """Address of the cluster that this process is in, whoever joined it; "" if it is in none."""
    if not ray.is_initialized():
        return ""
    return "ray://" if api.util.client.ray.is_connected() else str(ray.get_runtime_context().gcs_address)


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
    if ours and "RAY_AUTH_MODE" not in os.environ and has_token():
        tokens._enable_token_auth()
    # The actors' output would be that of this driver's own ones only.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        ray.init(address, namespace=namespace, **({} if address.startswith("ray://") else quiet))
    except (OSError, RuntimeError, failures.RayError) as error:
        raise ClusterError(f"cannot join the Ray cluster at {address}: {text_of(error)}") from error


def leave() -> None:
    """Leave the cluster. Whoever waits for a reply is told."""
    ray.shutdown()
    replies.give_up()


def require_cluster() -> None:
    """Raise ClusterError if this process is in no cluster."""
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
    require_cluster()
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
    if not has_token():
        tokens.generate_and_save_token()
        tokens._get_default_token_path().chmod(0o600)
        tokens.AuthenticationTokenLoader.instance().reset_cache()


def has_token() -> bool:
    """Whether the user has a token for clusters."""
    return bool(tokens.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


class Exactly(RuntimeEnv):
    """A runtime environment that does not take over what the creating process's own has.

    Ray merges a new actor's environment over its creator's, field by field. A field that is null there is taken
    for not given by whoever sets the environment up; Ray's classes would leave it out.
    """

    without: tuple[str, ...] = ()

    def serialize(self) -> str:
        """Return the environment as JSON, with the fields in ``without`` set to null."""
        return json.dumps({**dict.fromkeys(self.without), **json.loads(super().serialize())}, sort_keys=True)


#: Variables that are settings of Ray's, and stay with whom they were given to.
_RAYS = ("RAY_", "__RAY_")


def drop_variables() -> None:
    """Take away the variables that this process has from its creator's environment: :func:`environment_of`."""
    for name, value in (job_runtime_env().get("env_vars") or {}).items():
        if not value:
            os.environ.pop(name, None)


def environment_of(wanted: Mapping[str, Any]) -> RuntimeEnv | None:
    """What Ray is told, so that an actor gets the wanted environment and nothing of its creator's.

    Ray merges environment variables, and none can be taken away: those of the creator are made empty here, and
    :func:`drop_variables` takes them away in the actor's process.
    """
    own = job_runtime_env()
    emptied = {name: "" for name in own.get("env_vars") or {} if not name.startswith(_RAYS)}
    if emptied:
        wanted = {**wanted, "env_vars": {**emptied, **wanted.get("env_vars", {})}}
    inherited = {key for key, value in own.items() if value} - {"env_vars", "config", *wanted}
    # Where rayflow itself came with the creator's environment, an actor without it could not be made at all.
    if not inherited or "runtime_resources" in Path(__file__).parts:
        return RuntimeEnv(**wanted) if wanted else None
    environment = Exactly(**wanted)
    environment.without = tuple(inherited)
    return environment
