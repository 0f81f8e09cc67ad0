"""Who claims a store as its writer, as the text that the store keeps: to be told apart, and to be told to people."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from rayflow.errors import StorageUnavailable, WriterFenced

_MARK = "\x1f"


@dataclass(frozen=True, slots=True)
class WriterIdentity:
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
    def from_text(cls, text: str) -> WriterIdentity:
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


# --- the writer -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes a store. ``heartbeat`` is None when it said that it is gone."""

    epoch: int = 0
    nonce: str = ""
    heartbeat: float | None = None


def next_writer(current: Writer, nonce: str, *, now: float, fresh_for: float, take_over: bool, url: str) -> Writer:
    """The writer after a claim. See :meth:`~rayflow.storage.base.Store.claim_writer`.

    Raises:
        StorageUnavailable: another writer is alive.
    """
    alive = current.heartbeat is not None and now - current.heartbeat < fresh_for
    holder = WriterIdentity.from_text(current.nonce)
    if alive and holder.identity != WriterIdentity.from_text(nonce).identity and not take_over:
        age = now - (current.heartbeat or 0.0)
        raise StorageUnavailable(
            f"store {url} is being written by {holder}; its last sign of life is {age:.1f} s old. A store has one "
            f"writer: close the other one, wait until it has been silent for {fresh_for:g} s, or take over with "
            "take_over=True (--take-over), which stops the other one"
        )
    return Writer(current.epoch + 1, nonce, now)


def check_writer(current: Writer, epoch: int, url: str) -> None:
    """Check that ``epoch`` is the writer's. Raises Fenced."""
    if current.epoch != epoch:
        raise WriterFenced(
            f"store {url} was taken over by {WriterIdentity.from_text(current.nonce)}: it is at writer epoch "
            f"{current.epoch}; this writer's epoch {epoch} is over, and it writes no more"
        )
