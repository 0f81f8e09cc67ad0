"""Ray cluster of this process: joined and left, with its tokens, packages and runtime environments."""

# ruff: noqa: SLF001 - parts of Ray without a public name are used in this package only

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

#: The pending calls of this process.
replies = PendingCalls()


def joined() -> str:
    """Return the address of the cluster that this process is in; "" if it is in none."""
    if not ray.is_initialized():
        return ""
    return "ray://" if api.util.client.ray.is_connected() else str(ray.get_runtime_context().gcs_address)


def join(address: str, *, namespace: str | None = None, ours: bool = False) -> None:
    """Join a cluster. ``cluster.connect`` decides which one, and ensures that this process is not in a cluster.

    Args:
        address: ``host:port`` of the cluster, or ``ray://host:port``.
        namespace: Ray's namespace of this driver; None for a new one.
        ours: whether the cluster was found on this machine, so that it may receive the user's token.

    Raises:
        ClusterError: if Ray cannot join it.
    """
    # As Ray does: a cluster that was found, not named, receives the token, if there is one.
    if ours and "RAY_AUTH_MODE" not in os.environ and has_token():
        tokens._enable_token_auth()
    # With log_to_driver, only the output of this driver's own actors would appear.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        ray.init(address, namespace=namespace, **({} if address.startswith("ray://") else quiet))
    except (OSError, RuntimeError, failures.RayError) as error:
        raise ClusterError(f"cannot join the Ray cluster at {address}: {text_of(error)}") from error


def leave() -> None:
    """Leave the cluster. Pending calls receive ActorUnavailable."""
    ray.shutdown()
    replies.abandon()


def require_cluster() -> None:
    """Raise ClusterError if this process has not joined a cluster."""
    # Otherwise Ray would start a cluster here.
    if not ray.is_initialized():
        raise ClusterError("this process has not joined a Ray cluster. Open an engine, or call ray.init()")


def job_runtime_env() -> dict[str, Any]:
    """Return the runtime environment of this process: that of its job in a driver, its own in an actor."""
    return dict(ray.get_runtime_context().runtime_env)


def job_working_dir() -> str:
    """Return the URI of the package that this process runs in, which Ray names by its hash; "" without one."""
    return str(job_runtime_env().get("working_dir") or "")


def get_package(uri: str) -> bytes | None:
    """Return the package of a ``working_dir``, by its ``gcs://`` URI; None if the cluster does not have it."""
    require_cluster()
    data: bytes | None = internal_kv._internal_kv_get(uri)
    return data


def was_reconstructed() -> bool:
    """Return, inside of an actor, whether Ray has restarted it since it was created."""
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def psutil() -> Any:
    """Return the psutil module that is shipped with Ray."""
    return importlib.import_module("psutil")


def ensure_token() -> None:
    """Create the token by which the user's processes and clusters authenticate, unless it exists."""
    if not has_token():
        tokens.generate_and_save_token()
        tokens._get_default_token_path().chmod(0o600)
        tokens.AuthenticationTokenLoader.instance().reset_cache()


def has_token() -> bool:
    """Return whether the user has a token for clusters."""
    return bool(tokens.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


class IsolatedRuntimeEnv(RuntimeEnv):
    """A runtime environment that inherits nothing from the creating process.

    Ray merges a new actor's environment over its creator's, field by field. A field that is null there counts as not
    given when the environment is set up; Ray's own class would leave such a field out.
    """

    without: tuple[str, ...] = ()

    def serialize(self) -> str:
        """Return the environment as JSON, with the fields in ``without`` set to null."""
        return json.dumps({**dict.fromkeys(self.without), **json.loads(super().serialize())}, sort_keys=True)


#: Prefixes of variables that are settings of Ray. They are not passed on to actors.
_RAY_PREFIXES = ("RAY_", "__RAY_")


def drop_variables() -> None:
    """Remove the variables that :func:`environment_of` emptied from this process."""
    for name, value in (job_runtime_env().get("env_vars") or {}).items():
        if not value:
            os.environ.pop(name, None)


def environment_of(wanted: Mapping[str, Any]) -> RuntimeEnv | None:
    """Return the runtime environment for Ray by which an actor inherits nothing from its creator.

    Ray merges environment variables and removes none: here the creator's variables become empty strings, and
    :func:`drop_variables` removes them in the actor's process.
    """
    own = job_runtime_env()
    emptied = {name: "" for name in own.get("env_vars") or {} if not name.startswith(_RAY_PREFIXES)}
    if emptied:
        wanted = {**wanted, "env_vars": {**emptied, **wanted.get("env_vars", {})}}
    inherited = {key for key, value in own.items() if value} - {"env_vars", "config", *wanted}
    # Where rayflow itself is part of the creator's environment, an actor without that could not start.
    if not inherited or "runtime_resources" in Path(__file__).parts:
        return RuntimeEnv(**wanted) if wanted else None
    environment = IsolatedRuntimeEnv(**wanted)
    environment.without = tuple(inherited)
    return environment
