"""An engine in a process of its own, which is in a cluster that the test's process is not in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import Any

import rayflow as rf
from rayflow.definition.code import reference
from rayflow.definition.options import Checkpoints
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import call_all
from rayflow.runtime.messages import BatchMessage, BatchReply, TaskMessage, pack, unpack
from rayflow.storage.codec.payloads import MsgpackCodec
from tests.faults.nodes.node_flows import noted, noted_chain

#: Seconds that an actor may take to say which process it is.
ANSWERS = 3.0


class Hands:
    """What a test does with an engine on a cluster.

    Args:
        store: the store's URL.
        address: the cluster's address.
        options: of the engine.
    """

    def __init__(self, store: str, address: str, options: Mapping[str, Any]) -> None:
        self._engine = rf.DistributedEngine(store=store, address=address, **options)

    def recovered(self) -> list[str]:
        """What opening the engine took up."""
        return self._engine.recovered

    def start(self, id: str, ledger: str, pause: float, checkpoints: Checkpoints = "sync") -> None:
        """Start a chain of noted steps, which goes on until it is told to end."""
        self._engine.start(noted_chain.options(id=id, checkpoints=checkpoints), ledger, pause)

    def result(self, id: str, timeout: float) -> list[str]:
        """Wait for its result."""
        found: list[str] = self._engine.handle(id).result(timeout=timeout)
        return found

    def status(self, id: str) -> rf.ExecutionSnapshot:
        """Its snapshot."""
        return self._engine.status(id)

    def recorded(self, id: str) -> dict[int, str]:
        """The results that are recorded, by the steps' numbers in the chain."""
        return {step.seq - 1: step.result[0] for step in self.status(id).steps if step.status == "completed"}

    def pids(self) -> dict[str, int]:
        """The processes of all actors that say."""
        system = self._engine._system
        found = call_all(system, system.names(), "pid", timeout=ANSWERS, group="control")
        return {name: reply.value for name, reply in found.items() if reply.error is None}

    def metrics(self) -> rf.DistributedMetrics:
        """The engine's metrics."""
        return self._engine.metrics()

    def recovery(self) -> rf.RecoveryStatus:
        """What the recovery knows."""
        return self._engine.recovery.status()

    def workers(self) -> int:
        """How many workers of the default pool are up."""
        return self._engine.pools.get().status().workers

    def send(self, id: str, epoch: int, ledger: str, pid: int) -> str:
        """Send a worker a task of an execution, as a coordinator of that epoch would.

        Args:
            id: the execution.
            epoch: the coordinator's.
            ledger: where the task would leave its line.
            pid: the worker's process.

        Returns:
            What became of it: "ran", "failed" or "refused".
        """
        system = self._engine._system
        [name] = [name for name, process in self.pids().items() if process == pid]
        pool_epoch = system.find(actor_names.pool("default")).call("ping", group="control")
        code = reference(noted)
        assert code is not None
        payload = MsgpackCodec().encode(((ledger, 0, 0.0), {}))
        task = TaskMessage(id, "noted_chain", epoch, 1, 99, "noted", code.to_dict(), "", payload, 60.0, f"key/{epoch}")
        batch = BatchMessage(f"batch/{id}/{epoch}", f"token/{id}/{epoch}", pool_epoch, "nobody", (task,), 0.0)
        reply: BatchReply = unpack(system.find(name).call("run", pack(batch), timeout=30))
        [outcome] = reply.outcomes
        return "ran" if outcome.result else "failed" if outcome.failure else "refused"

    def shutdown(self) -> None:
        """Stop the namespace's actors."""
        self._engine.shutdown()


class Driver(BaseManager):
    """The process. :meth:`open` opens an engine there."""

    Hands: Any

    @classmethod
    def begun(cls, environ: Mapping[str, str]) -> Driver:
        """A driver in that environment."""
        driver = cls(ctx=get_context("spawn"))
        driver.start(initializer=_enter, initargs=(dict(environ),))
        return driver

    def open(self, store: str, address: str, **options: Any) -> Any:
        """An engine there: a stand-in for :class:`Hands`."""
        return self.Hands(store, address, options)


def _enter(environ: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)


Driver.register("Hands", Hands)
