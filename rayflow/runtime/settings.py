"""Settings that all actors of a namespace share, fixed when the supervisor starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayflow.definition.options import EngineConfig


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a namespace.

    Args:
        config: the engine's configuration.
    """

    url: str
    config: EngineConfig = field(default_factory=EngineConfig)

    @property
    def allow_pickle(self) -> bool:
        """Return whether payloads may hold pickles, and code may travel by value."""
        return self.config.allow_pickle
