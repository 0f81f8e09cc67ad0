"""Who claims a store as its writer, as the text that the store keeps: to be told apart, and to be told to people."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

_MARK = "\x1f"


@dataclass(frozen=True, slots=True)
class Claimant:
    """A writer.

    Args:
        identity: what it is: a namespace of a cluster, or an engine of a process. It is one writer with all that have
            the same, which are its earlier lives.
        host: the machine on which it runs.
        pid: its process there.
        since: when it claimed the store, in seconds since the epoch.
    """

    identity: str
    host: str = ""
    pid: int = 0
    since: float = 0.0

    def to_text(self) -> str:
        """As a store keeps it."""
        return _MARK.join((self.identity, self.host, str(self.pid), f"{self.since:.0f}"))

    @classmethod
    def from_text(cls, text: str) -> Claimant:
        """What :meth:`to_text` wrote; any other text is an identity alone."""
        identity, *rest = text.split(_MARK)
        if len(rest) != 3 or not (rest[1].isdecimal() and rest[2].isdecimal()):
            return cls(text)
        return cls(identity, rest[0], int(rest[1]), float(rest[2]))

    def __str__(self) -> str:
        if not self.host:
            return repr(self.identity)
        since = dt.datetime.fromtimestamp(self.since, dt.UTC)
        return f"{self.identity} on {self.host} (process {self.pid}, since {since:%Y-%m-%d %H:%M:%S} UTC)"
