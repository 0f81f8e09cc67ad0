"""Code environments: where an execution's code is found again, in a process that its driver never saw.

An environment is what a driver's imports depend on: its import paths (its script's folder, its working folder),
or the package of its ``working_dir`` by content hash when it was submitted with one. Coordinators and workers
belong to one environment each, since the modules of one driver are not those of another, even where they have
the same name.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rayflow.errors import CorruptRecord
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem
from rayflow.storage.damage import check_environment
from rayflow.storage.model import ExecutionRecord


@dataclass(frozen=True, slots=True)
class Environment:
    """One code environment.

    Args:
        paths: folders put in front of ``sys.path``, first one first.
        working_dir: URI of the driver's package, as Ray names it by content hash; "" without one.
        package: SHA-256 (hex) of that package, under which the store keeps it: a new cluster does not have it.
        python: the Python's minor version, like "3.11".
    """

    paths: tuple[str, ...] = ()
    working_dir: str = ""
    package: str = ""
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def id(self) -> str:
        """A short name, the same for the same content."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def to_json(self) -> str:
        """As text, to be kept in the store."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Environment:
        """The environment of that text."""
        fields = json.loads(text)
        return cls(**{**fields, "paths": tuple(fields["paths"])})

    def runtime_env(self) -> dict[str, Any]:
        """What Ray is told when it makes an actor of this environment."""
        return {"working_dir": self.working_dir} if self.working_dir else {}


def environment_of(record: ExecutionRecord) -> Environment:
    """The code environment of an execution. Raises CorruptRecord if its row is damaged."""
    check_environment(record)
    try:
        return Environment.from_json(record.environment)
    except (ValueError, TypeError) as error:
        raise CorruptRecord(record.id, f"the code environment in its row cannot be read: {error}") from error


def capture(*, working_dir: str = "", package: str = "") -> Environment:
    """The environment of this process: the folders that it imports from, beyond its Python's own.

    Args:
        working_dir: URI of the package that Ray unpacked for this job. It lies in another folder on every node,
            so what is inside of it is recorded relative to it.
        package: SHA-256 (hex) of that package.
    """
    here = os.getcwd()
    folders = [os.path.abspath(entry or here) for entry in sys.path]
    folders = [folder for folder in folders if os.path.isdir(folder) and not _installed(folder)]
    if working_dir:
        folders = [os.path.relpath(folder, here) if _inside(folder, here) else folder for folder in folders]
    return Environment(paths=tuple(dict.fromkeys(folders)), working_dir=working_dir, package=package)


def make_available(system: ActorSystem, env: Environment) -> None:
    """See to it that actors of this environment can be made: a cluster that never saw its package gets it."""
    if env.package:
        system.ensure_package(env.working_dir, lambda: system.find(actor_names.STORE).call("blob", env.package))


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A runtime environment of the user's on top of that of the code."""
    variables = {**base.get("env_vars", {}), **own.get("env_vars", {})}
    return {**base, **own, **({"env_vars": variables} if variables else {})}


def _inside(folder: str, root: str) -> bool:
    return os.path.commonpath([folder, os.path.abspath(root)]) == os.path.abspath(root)


def _installed(folder: str) -> bool:
    # What is installed is there on every node anyway, and would tie executions to one path of it.
    return any(_inside(folder, prefix) for prefix in (sys.prefix, sys.base_prefix))


def apply(environment: Mapping[str, Any] | Environment) -> None:
    """Make this process find the environment's code. May be called again."""
    given = environment if isinstance(environment, Environment) else Environment(**dict(environment))
    folders = [os.path.abspath(p) for p in given.paths]  # relative ones lie in the working_dir, Ray's cwd
    if given.working_dir:
        folders.append(os.getcwd())
    sys.path[:] = [*folders, *(p for p in sys.path if os.path.abspath(p) not in folders)]
    importlib.invalidate_caches()
