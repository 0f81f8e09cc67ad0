"""Common part of the actor systems whose actors are all objects of one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


class InProcessSystem:
    """What :class:`~rayflow.runtime.actors.base.ActorSystem` requires where there is only one process."""

    @property
    def separate(self) -> bool:
        """Return False: all actors run the code that this process has imported."""
        return False

    @property
    def restarted(self) -> bool:
        """Return False: the caller is not an actor."""
        return False

    def cpus(self) -> float:
        """Return the CPUs of this machine."""
        return float(os.cpu_count() or 1)

    def nodes(self) -> list[dict[str, float]]:
        """Return an empty list: resources are not counted here."""
        return []

    def free(self) -> list[dict[str, float]]:
        """Return an empty list: resources are not counted here."""
        return []

    def put_object(self, data: bytes) -> Any:
        """Return the bytes: in one process they are their own handle."""
        return data

    def get_object(self, handle: Any, timeout: float) -> bytes | None:
        """Return the bytes behind a handle."""
        data: bytes = handle
        return data

    def ensure_package(self, uri: str, fetch: Callable[[], bytes | None]) -> None:
        """Do nothing: the code of all actors is in this process."""
