"""Code environments: where an execution's code is found again, in a process that its driver never saw.

An environment is what a driver's imports depend on: its import paths (its script's folder, its working folder), or the
package of its ``working_dir`` by content hash when it was submitted with one, and what else its job's runtime
environment says: ``pip``, ``py_modules``, ``env_vars``. Coordinators and workers belong to one environment each, since
the modules and variables of one driver are not those of another, even where they have the same name.

The values of variables are secrets: they travel by calls of actors alone. What is stored has their names, and one
digest of all values.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rayflow.errors import ClusterError, CorruptRecord
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem
from rayflow.storage.codec.payloads import digest
from rayflow.storage.damage import check_environment
from rayflow.storage.model import ExecutionRecord

#: Fields of Ray's runtime environment that are recorded in another way, or belong to a job alone.
_APART = frozenset({"working_dir", "env_vars", "config"})


class Variables:
    """Environment variables with their values, which no log shows.

    Args:
        values: the values by name.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values = dict(values or {})

    def __repr__(self) -> str:
        return f"<{len(self._values)} variables>"

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(sorted(self._values))

    def digest(self, salt: bytes) -> str:
        """Return a digest of names and values that takes long to guess values from."""
        text = json.dumps(self._values, sort_keys=True).encode()
        return hashlib.scrypt(text, salt=salt, n=2**14, r=8, p=1, dklen=16).hex()

    def without(self, names: Iterable[str]) -> Variables:
        """Return the others."""
        dropped = set(names)
        return Variables({name: value for name, value in self._values.items() if name not in dropped})

    def apply(self) -> None:
        """Set the variables in this process."""
        os.environ.update(self._values)


@dataclass(frozen=True, slots=True)
class Environment:
    """One code environment.

    Args:
        paths: folders put in front of ``sys.path``, first one first.
        working_dir: URI of the driver's package, as Ray names it by content hash; "" without one.
        package: SHA-256 (hex) of that package, under which the store keeps it: a new cluster does not have it.
        python: the Python's minor version, like "3.11".
        fields: other fields of Ray's runtime environment, ``pip`` and ``py_modules`` among them, as JSON; "" for none.
        modules: URI and SHA-256 (hex) of each package of ``py_modules`` that the store keeps.
        variables: names of the environment variables.
        variables_digest: digest of their values, salted; "" without variables.
    """

    paths: tuple[str, ...] = ()
    working_dir: str = ""
    package: str = ""
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    fields: str = ""
    modules: tuple[tuple[str, str], ...] = ()
    variables: tuple[str, ...] = ()
    variables_digest: str = ""

    @property
    def id(self) -> str:
        """A short name, the same for the same content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:10]

    @property
    def title(self) -> str:
        """The id with the names of the variables, for people."""
        return f"{self.id} (variables {', '.join(self.variables)})" if self.variables else self.id

    def to_json(self) -> str:
        """As text, to be kept in the store."""
        known = asdict(self)
        for name in ("fields", "modules", "variables", "variables_digest"):  # earlier versions did not write these
            if not known[name]:
                del known[name]
        return json.dumps(known, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Environment:
        """The environment of that text."""
        known = json.loads(text)
        known["paths"] = tuple(known["paths"])
        known["modules"] = tuple((uri, digest) for uri, digest in known.get("modules", ()))
        known["variables"] = tuple(known.get("variables", ()))
        return cls(**known)

    def has_code_of(self, other: Environment) -> bool:
        """Whether both import from the same places, whatever else differs."""
        return (self.paths, self.working_dir) == (other.paths, other.working_dir)

    def runtime_env(self) -> dict[str, Any]:
        """What Ray is told when it makes an actor of this environment; no variables."""
        return {**json.loads(self.fields or "{}"), **({"working_dir": self.working_dir} if self.working_dir else {})}

    def packages(self) -> Iterator[tuple[str, str]]:
        """Yield URI and digest of each package that a cluster needs."""
        if self.package:
            yield self.working_dir, self.package
        yield from self.modules


def environment_of(record: ExecutionRecord) -> Environment:
    """The code environment of an execution. Raises CorruptRecord if its row is damaged."""
    check_environment(record)
    try:
        return Environment.from_json(record.environment)
    except (ValueError, TypeError) as error:
        raise CorruptRecord(record.id, f"the code environment in its row cannot be read: {error}") from error


def environment_id(text: str) -> str:
    """The id of an environment as text; "" if it cannot be read."""
    try:
        return Environment.from_json(text).id
    except (ValueError, TypeError, KeyError):
        return ""


def capture(
    runtime_env: Mapping[str, Any] | None = None, package_of: Callable[[str], bytes | None] = lambda uri: None
) -> tuple[Environment, dict[str, bytes]]:
    """The environment of this process without variables: the folders that it imports from, beyond its Python's own.

    Args:
        runtime_env: the runtime environment of its job, as Ray has made it. The ``working_dir`` lies in another folder
            on every node, so what is inside of it is recorded relative to it.
        package_of: returns the package of a URI; None if the cluster does not have it.

    Returns:
        The environment, and the packages to be stored, by their digests.
    """
    given = {name: value for name, value in (runtime_env or {}).items() if value and not name.startswith("_")}
    working_dir = str(given.get("working_dir", ""))
    found = {uri: data for uri in [working_dir, *_uris(given)] if uri and (data := package_of(uri)) is not None}
    digests = {uri: digest(data) for uri, data in found.items()}
    here = os.getcwd()
    folders = [os.path.abspath(entry or here) for entry in sys.path]
    folders = [folder for folder in folders if os.path.isdir(folder) and not _installed(folder)]
    if working_dir:
        folders = [os.path.relpath(folder, here) if _inside(folder, here) else folder for folder in folders]
    fields = {name: value for name, value in given.items() if name not in _APART}
    made = Environment(
        paths=tuple(dict.fromkeys(folders)),
        working_dir=working_dir,
        package=digests.get(working_dir, ""),
        fields=json.dumps(fields, sort_keys=True) if fields else "",
        modules=tuple((uri, digests[uri]) for uri in _uris(given) if uri in digests),
    )
    return made, {digests[uri]: data for uri, data in found.items()}


def variables_of(runtime_env: Mapping[str, Any]) -> Variables:
    """The variables of a job's runtime environment; those that are Ray's own settings stay Ray's."""
    given = runtime_env.get("env_vars") or {}
    return Variables({name: value for name, value in given.items() if not is_rays(name)})


def is_rays(variable: str) -> bool:
    """Whether an environment variable is a setting of Ray's."""
    return variable.startswith(("RAY_", "__RAY_"))


def _uris(runtime_env: Mapping[str, Any]) -> list[str]:
    return [str(uri) for uri in runtime_env.get("py_modules") or ()]


def supplied(env: Environment, variables: Variables | None) -> Variables:
    """The variables of an environment, if they were given, or it has none. Raises ClusterError."""
    if variables is None and env.variables:
        raise ClusterError(
            f"needs environment {env.title}: no engine has supplied the values of its variables since the cluster "
            "started. Open an engine with the same runtime environment"
        )
    return Variables() if variables is None else variables


def make_available(system: ActorSystem, env: Environment) -> None:
    """Ensure that actors of this environment can be started: a cluster that never had its packages receives them."""
    for uri, package in env.packages():
        system.ensure_package(uri, partial(system.find(actor_names.STORE).call, "blob", package))


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
