"""Actors for the tests of the Ray seam. They are imported in the actors' processes, so nothing here imports pytest."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from rayflow.errors import CorruptRecord
from rayflow.runtime.actors import ray_system
from rayflow.runtime.actors.base import ActorSystem

#: Found in the pickled class if that holds the class's code, not only its name.
IN_THE_CODE = "this text stands in a method's code"


class OddError(Exception):
    """Its pickle cannot be read: it is made from two arguments and keeps one."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


class HoldsLock(Exception):
    """It cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Echo:
    """Replies, waits, fails and dies on request."""

    def __init__(self, system: ActorSystem, greeting: str = "hello") -> None:
        self.system = system
        self.greeting = greeting
        self._gate = threading.Event()

    def greet(self) -> str:
        return self.greeting

    def pid(self) -> int:
        return os.getpid()

    def say(self, value: Any) -> Any:
        return value

    def wait(self) -> str:
        """Return when the gate is opened."""
        self._gate.wait()
        return "opened"

    def open(self) -> None:
        self._gate.set()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self, how: str) -> None:
        raise {
            "plain": ValueError("three is not even"),
            "own": CorruptRecord("doc-17", "sequence 3 is missing"),
            "odd": OddError(7, "seven of nine"),
            "unpicklable": HoldsLock("cannot leave"),
        }[how]

    def code(self) -> str:
        return IN_THE_CODE

    def ask(self, other: str, method: str) -> Any:
        """Return the reply of another actor."""
        return self.system.find(other).call(method)

    def send_and_wait(self, other: str, value: Any) -> Any:
        """Return the reply of another actor to a send."""
        answers: list[Any] = []
        there = threading.Event()

        def then(reply: Any) -> None:
            answers.append(reply)
            there.set()

        self.system.find(other).send("say", value, then=then)
        there.wait(30)
        return answers[0].value

    def life(self) -> tuple[str, bool]:
        """Return the cluster's identity, and whether this actor was restarted."""
        return self.system.identity, ray_system.was_reconstructed()

    def place(self) -> dict[str, Any]:
        """Return where the process runs and what it received."""
        return {
            "cwd": str(Path.cwd()),
            "node": os.environ.get("RAY_NODE_ID", ""),
            "variable": os.environ.get("RAYFLOW_TEST_VARIABLE", ""),
            "working_dir": ray_system.job_working_dir(),
        }
