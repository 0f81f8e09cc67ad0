"""Writers of a store: their identity, their claims and their heartbeats."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from rayflow.errors import StorageUnavailable, WriterFenced

_MARK = "\x1f"


@dataclass(frozen=True, slots=True)
class WriterIdentity:
    """Identity of a writer, as the store keeps it and messages show it.

    Args:
        identity: the namespace of a cluster, or the engine of a process. Writers with the same identity are one writer
            before and after a restart.
        host: the writer's machine.
        pid: its process there.
        since: time of its claim, in seconds since the epoch.
    """

    identity: str
    host: str = ""
    pid: int = 0
    since: float = 0.0

    def to_text(self) -> str:
        """Return the text for the store."""
        return _MARK.join((self.identity, self.host, str(self.pid), f"{self.since:.0f}"))

    @classmethod
    def from_text(cls, text: str) -> WriterIdentity:
        """Return the identity of a text of :meth:`to_text`; any other text becomes the ``identity`` alone."""
        identity, *rest = text.split(_MARK)
        if len(rest) != 3 or not (rest[1].isdecimal() and rest[2].isdecimal()):
            return cls(text)
        return cls(identity, rest[0], int(rest[1]), float(rest[2]))

    def __str__(self) -> str:
        if not self.host:
            return repr(self.identity)
        since = dt.datetime.fromtimestamp(self.since, dt.UTC)
        return f"{self.identity} on {self.host} (process {self.pid}, since {since:%Y-%m-%d %H:%M:%S} UTC)"


@dataclass(frozen=True, slots=True)
class Writer:
    """Writer of a store with its epoch. ``heartbeat`` becomes None when the writer releases its claim."""

    epoch: int = 0
    nonce: str = ""
    heartbeat: float | None = None


def next_writer(current: Writer, nonce: str, *, now: float, fresh_for: float, take_over: bool, url: str) -> Writer:
    """Return the writer after a claim; see :meth:`~rayflow.storage.base.Store.claim_writer`.

    Raises:
        StorageUnavailable: another writer is alive.
    """
    alive = current.heartbeat is not None and now - current.heartbeat < fresh_for
    holder = WriterIdentity.from_text(current.nonce)
    if alive and holder.identity != WriterIdentity.from_text(nonce).identity and not take_over:
        age = now - (current.heartbeat or 0.0)
        raise StorageUnavailable(
            f"store {url} is being written by {holder}; its last heartbeat is {age:.1f} s old. A store has one "
            f"writer: close the other one, wait until it has been silent for {fresh_for:g} s, or take over with "
            "take_over=True (--take-over), which stops the other one"
        )
    return Writer(current.epoch + 1, nonce, now)


def check_writer(current: Writer, epoch: int, url: str) -> None:
    """Check that ``epoch`` is the writer's. Raises WriterFenced."""
    if current.epoch != epoch:
        raise WriterFenced(
            f"store {url} was taken over by {WriterIdentity.from_text(current.nonce)}: it is at writer epoch "
            f"{current.epoch}; this writer, of epoch {epoch}, can no longer write"
        )
