"""The driver: a process of its own that starts executions, signals and forks them, and is killed like the others.

It keeps nothing in memory that matters. What was accepted is in a file; what is not there is done again, under the same
ids and keys, by its next life. It ends when its time is up and everything it started has ended.

    python -m tests.faults.chaos.driver SETTINGS
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.errors import ExecutionAlreadyExists, InvalidTransition, ScheduleExists
from rayflow.storage.base import Filter
from tests.faults.chaos import expected, plan
from tests.faults.chaos.acts import Acts, insist
from tests.faults.chaos.flows import WORKFLOWS, job
from tests.faults.chaos.plan import SENDERS, Program
from tests.faults.chaos.settings import Settings, engine

#: Executions, children and those of schedules not counted, that are under way at once.
WINDOW = 14
#: Seconds between two rounds.
ROUND = 0.05


class Driver:
    """See the module's docstring.

    Args:
        settings: the run.
        cluster: an engine.
    """

    def __init__(self, settings: Settings, cluster: rf.DistributedEngine) -> None:
        self._settings = settings
        self._engine = cluster
        self._acts = Acts(settings.acts)
        self._next = 0
        self._open: dict[str, Program] = {}
        self._to_fork: list[Program] = []
        self._sent: dict[str, int] = {}

    def begin(self) -> None:
        """See what there is already, and make the schedules."""
        while self._acts.has("start", plan.program(self._settings.seed, self._next).id):
            self._watch(plan.program(self._settings.seed, self._next))
            self._next += 1
        for name, (spec, seed) in self._settings.schedules().items():
            if not self._acts.has("schedule", name):
                self._schedule(name, spec, seed)

    def _schedule(self, name: str, spec: rf.Schedule, seed: int) -> None:
        def create() -> None:
            # Where it exists, the life before made it and did not hear of it.
            with contextlib.suppress(ScheduleExists):
                self._engine.schedules.create(name, job.call(str(self._settings.ledger), seed), spec)

        insist(create)
        self._acts.accepted("schedule", name)

    def run(self) -> None:
        """Go round until the time is up and all is done."""
        while True:
            over = self._settings.over.exists()
            if not over and len(self._open) < WINDOW:
                self._start(plan.program(self._settings.seed, self._next))
            for program in list(self._open.values()):
                if program.kind == "signals":
                    self._signal(program)
            self._look()
            for program in self._to_fork:
                self._fork(program)
            self._to_fork = []
            if over and not self._open:
                return
            time.sleep(ROUND)

    # --- starting ------------------------------------------------------------------------------------------
    def _start(self, program: Program) -> None:
        args = expected.arguments(program, str(self._settings.ledger))
        insist(lambda: self._engine.start(WORKFLOWS[program.kind].options(id=program.id), *args))
        self._acts.accepted("start", program.id)
        self._next += 1
        self._watch(program)

    def _watch(self, program: Program) -> None:
        forked = self._acts.has("fork", program.fork_id)
        self._open[program.fork_id if forked else program.id] = program

    def _look(self) -> None:
        """Which of the open ones are over; what is to be forked then is open again as its fork."""
        ids = tuple(self._open)
        for record in insist(lambda: backend_of(self._engine).executions(Filter(ids=ids, limit=len(ids) + 1))):
            if record.status.terminal:
                program = self._open.pop(record.id)
                if program.kind == "fork" and record.id == program.id:
                    self._to_fork.append(program)

    def _fork(self, program: Program) -> None:
        def fork() -> None:
            # If it is there, this life or the one before made it and did not hear of it.
            with contextlib.suppress(ExecutionAlreadyExists):
                self._engine.fork(program.id, before=program.cut, id=program.fork_id)

        insist(fork)
        self._acts.accepted("fork", program.fork_id)
        self._open[program.fork_id] = program

    # --- signals -------------------------------------------------------------------------------------------
    def _signal(self, program: Program) -> None:
        """Send the next signal of one sender. Every third one is sent twice, by somebody who is not sure."""
        turn = self._sent.get(program.id, 0)
        while turn < SENDERS * program.size:
            number, sender = divmod(turn, SENDERS)
            turn += 1
            if self._acts.has("signal", program.id, sender, number):
                continue
            self._send(program.id, sender, number)
            self._acts.accepted("signal", program.id, sender, number)
            if turn % 3 == 0:
                self._send(program.id, sender, number)
            break
        self._sent[program.id] = turn

    def _send(self, name: str, sender: int, number: int) -> None:
        def send() -> None:
            try:
                self._engine.signal(name, "item", [sender, number], key=f"{sender}/{number}")
            except InvalidTransition:
                if not self._acts.has("signal", name, sender, number):
                    raise

        insist(send)


def main() -> int:
    """Drive."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    settings = Settings.load(sys.argv[1])
    with insist(lambda: engine(settings)) as cluster:
        driver = Driver(settings, cluster)
        driver.begin()
        Acts(settings.acts).accepted("ready", "driver", number=int(time.time() * 1000))
        driver.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
