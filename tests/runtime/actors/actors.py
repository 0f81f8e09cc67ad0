"""Actors for the tests of actor systems, and helpers to wait for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

from rayflow.runtime.actors.base import Actor, ActorSpec, ActorSystem, Reply
from rayflow.runtime.actors.thread_system import ThreadSystem

PATIENCE = 20.0


class Counter:
    """An actor with a state, a gate, and a friend."""

    made: ClassVar[list[Counter]] = []

    def __init__(self, system: ActorSystem, start: int = 0) -> None:
        self.system = system
        self.count = start
        self.reached = threading.Event()
        self.gate = threading.Event()
        self.after: list[object] = []
        self.left = threading.Event()
        self.stopped = threading.Event()
        self.made.append(self)

    def add(self, n: int) -> int:
        self.count += n
        return self.count

    def echo(self, data: bytes) -> bytes:
        return data

    def hold(self) -> str:
        self.reached.set()
        assert self.gate.wait(PATIENCE)
        return "held"

    def hold_then_call(self, name: str) -> object:
        try:
            self.hold()
            try:
                self.after.append(self.system.find(name).call("add", 100))
            except Exception as error:  # noqa: BLE001 - an actor that continues after any error
                self.after.append(error)
            self.after.append("went on")
        finally:
            self.left.set()
        return "done"

    def fail(self, error: BaseException) -> None:
        raise error

    def thread(self) -> str:
        return threading.current_thread().name

    def ask(self, name: str, *args: int) -> object:
        return self.system.find(name).call("add", *args)

    def make(self, name: str) -> tuple[str, list[str], float, str]:
        other = self.system.spawn(ActorSpec(Counter, name))
        found = self.system.names()
        self.system.kill(name)
        return other.name, found, self.system.cpus(), self.system.identity

    def stop(self) -> None:
        self.gate.set()
        self.stopped.set()


class Answers:
    """Replies, in the order in which they came."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.threads: list[threading.Thread] = []
        self._came = threading.Condition()

    def __call__(self, reply: Reply) -> None:
        with self._came:
            self.replies.append(reply)
            self.threads.append(threading.current_thread())
            self._came.notify_all()

    def wait(self, count: int = 1) -> list[Reply]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.replies) >= count, PATIENCE)
            return list(self.replies)


@contextlib.contextmanager
def threads() -> Iterator[ThreadSystem]:
    """A system that is closed with the block, and all that waits at a gate let go."""
    Counter.made = []
    made = ThreadSystem()
    try:
        yield made
    finally:
        made.close()
        for actor in Counter.made:  # also of those that were killed
            actor.gate.set()


def counter(system: ThreadSystem, name: str = "a", **given: Any) -> tuple[Actor, Counter]:
    """A new counter: its handle, and itself."""
    handle = system.spawn(ActorSpec(Counter, name, **given))
    return handle, Counter.made[-1]
