"""The one package that imports ray: actors, tasks, joining a cluster, and Ray's errors.

What leaves it is rayflow's: an exception that a method raised comes back as itself, everything else as
:class:`ActorLost`, :class:`ActorUnavailable`, :class:`CallTimeout`, :class:`TaskCrashed` or their base, ClusterError.
"""

from rayflow.runtime.actors.ray_system.actors import HEAD, LARGEST_ARGUMENT, RaySystem
from rayflow.runtime.actors.ray_system.cluster import (
    api,
    ensure_token,
    get_package,
    has_token,
    job_runtime_env,
    job_working_dir,
    join,
    joined,
    leave,
    psutil,
    tokens,
    was_reconstructed,
)
from rayflow.runtime.actors.ray_system.errors import translated

__all__ = [
    "HEAD",
    "LARGEST_ARGUMENT",
    "RaySystem",
    "api",
    "ensure_token",
    "get_package",
    "has_token",
    "job_runtime_env",
    "job_working_dir",
    "join",
    "joined",
    "leave",
    "psutil",
    "tokens",
    "translated",
    "was_reconstructed",
]
