"""A project folder with workflows, and a way to run commands there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayflow.cli import main

ROOT = Path(__file__).parents[2]

#: As ``python -m rayflow``, where the shell that runs the tests may have told its children to ignore Ctrl-C.
_PROGRAM = """
import signal, sys
from rayflow.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
INTERRUPTIBLE = ("-c", _PROGRAM)

FLOWS = '''
import asyncio
import dataclasses
import datetime

import pydantic

import rayflow as rf


class Order(pydantic.BaseModel):
    item: str
    count: int = 1


@dataclasses.dataclass
class Window:
    begin: datetime.date
    days: int


@rf.step
async def loud(text: str) -> str:
    print(f"step says {text}")
    return text.upper()


@rf.workflow
async def shout(text: str) -> str:
    """Says it louder."""
    return await loud(text)


@rf.workflow
async def order(it: Order) -> str:
    return f"{type(it).__name__} {it.item} x{it.count}"


@rf.workflow
async def several(name: str, window: Window, factor: float = 1.0) -> str:
    return f"{name} {type(window).__name__} {window.begin.isoformat()} {window.days * factor:g}"


@rf.workflow
async def nothing() -> str:
    return "nothing needed"


@rf.workflow
async def many(*words: str, **numbers: int) -> list[object]:
    return [list(words), numbers]


@rf.workflow
async def broken(text: str = "no") -> None:
    raise ValueError(f"{text}\\nand more")


@rf.workflow
async def long() -> None:
    await asyncio.sleep(86_400)


class Box:
    inner = shout
    number = 3


def stamp(text: str) -> str:
    return f"<{text}>"


agent = rf.Agent("stamp", run=stamp)
declared = rf.Workflow("declared").add_step(
    rf.SequentialStep("stamping", agent=agent, input=lambda state: state["input"], output_key="stamped")
)
'''


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Project:
    """A folder with a module of workflows, ``name``.py, and a store, flows.db."""

    def __init__(self, folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.name = name
        self.file = folder / f"{name}.py"
        self.file.write_text(FLOWS)
        self.store = f"sqlite:///{folder / 'flows.db'}"
        self._capsys = capsys

    def __call__(self, *words: str) -> Outcome:
        """Run a command in this process."""
        self._capsys.readouterr()
        code = main(words)
        captured = self._capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    def run(self, target: str, *words: str) -> Outcome:
        """Run one of the project's workflows without Ray."""
        return self("run", f"{self.file.name}:{target}", "--local", *words)

    def spawn(self, *words: str, program: tuple[str, ...] = ("-m", "rayflow")) -> subprocess.Popen[str]:
        """Run a command in a separate process."""
        return subprocess.Popen(
            [sys.executable, *program, *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hurry(self) -> None:
        """Let executions of the workflow "long" end soon, including those that have started."""
        self.file.write_text(self.file.read_text().replace("86_400", "0"))
        sys.modules.pop(self.name, None)

    def files(self) -> set[str]:
        return {
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if "__pycache__" not in path.parts
        }
