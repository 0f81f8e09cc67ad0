"""Actor system on Ray: the only package that imports ray.

Its errors are rayflow's: an exception that an actor's method raised is raised again as it is; every other error is an
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
