"""A worker on threads, with a store and a coordinator that are just good enough for it."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from rayflow.core.pool.slots import Key
from rayflow.definition.code import CodeCache
from rayflow.definition.context import Target
from rayflow.runtime.actors.base import Actor, ActorSpec, ActorSystem, Reply
from rayflow.runtime.actors.thread_system import ThreadSystem
from rayflow.runtime.messages import BatchMessage, BatchReply, TaskMessage, TaskOutcome, pack, unpack
from rayflow.runtime.worker.actor import Worker, WorkerSettings
from rayflow.runtime.worker.heartbeat import Heartbeat
from rayflow.storage.codec.payloads import MsgpackCodec
from tests.runtime.worker.worker_steps import PATIENCE, STAGE

CODEC = MsgpackCodec()

#: Seconds of patience in which the tasks before one that waits at a gate are done, also on a busy machine.
ENOUGH = 1.0

_numbers = itertools.count(1)


class Blobs:
    """The store, as a worker sees it."""

    def __init__(self, system: ActorSystem, blobs: dict[str, bytes]) -> None:
        self.blobs = blobs

    def blob(self, digest: str) -> bytes | None:
        return self.blobs.get(digest)


class Listener:
    """The coordinator, as a worker sees it."""

    def __init__(self, system: ActorSystem, bench: Bench) -> None:
        self.bench = bench

    def output(self, execution_id: str, seq: int, step: str, lines: tuple[str, ...]) -> None:
        self.bench.heard.append((execution_id, seq, step, lines))
        self.bench.news.set()

    def heartbeat(self, key: Key, epoch: int, beat: tuple[bytes | None, bool]) -> None:
        self.bench.beats.put((key, epoch, Heartbeat(*beat)))

    def begun(self, execution_id: str, seq: int, attempt: int, epoch: int, at: float) -> None:
        self.bench.begun.append((execution_id, seq, attempt, epoch, at))


class Pool:
    """The pool, as a worker sees it."""

    def __init__(self, system: ActorSystem, bench: Bench) -> None:
        self.bench = bench

    def worn(self, worker: str) -> None:
        self.bench.worn.put(worker)


class Pending:
    """A call that was sent and will be answered."""

    def __init__(self, actor: Actor, method: str, request: Any) -> None:
        self._reply = Reply()
        self._came = threading.Event()
        actor.send(method, pack(request), then=self._then)

    def _then(self, reply: Reply) -> None:
        self._reply = reply
        self._came.set()

    @property
    def answered(self) -> bool:
        return self._came.is_set()

    def reply(self) -> BatchReply:
        assert self._came.wait(PATIENCE), "no answer"
        if self._reply.error is not None:
            raise self._reply.error
        found = unpack(self._reply.value)
        assert isinstance(found, BatchReply)
        return found


class Bench:
    """One worker, with its store, coordinator and pool."""

    def __init__(
        self, system: ThreadSystem, settings: WorkerSettings, environment: Mapping[str, Any], name: str
    ) -> None:
        self.system = system
        self.blobs: dict[str, bytes] = {}
        self.heard: list[Any] = []
        self.news = threading.Event()
        self.beats: queue.SimpleQueue[tuple[Key, int, Heartbeat]] = queue.SimpleQueue()
        self.begun: list[tuple[str, int, int, int, float]] = []
        self.worn: queue.SimpleQueue[str] = queue.SimpleQueue()
        system.spawn(ActorSpec(Blobs, "store", (self.blobs,)))
        system.spawn(ActorSpec(Listener, "coordinator", (self,)))
        system.spawn(ActorSpec(Pool, "pool", (self,)))
        spec = ActorSpec(Worker, name, (name, environment, settings), threads=16, groups={"watch": 2, "control": 4})
        self.worker = system.spawn(spec)

    def task(self, owner: Any, *args: Any, part: str = "", **given: Any) -> TaskMessage:
        """Return a task; names that are not fields of ``TaskMessage`` are keyword arguments of the step."""
        own = {name: given.pop(name) for name in list(given) if name in TaskMessage._fields}
        target = CodeCache().target_ref(Target(owner, part))
        if target.blob is not None:
            self.blobs[target.ref.digest] = target.blob
        fields: dict[str, Any] = {
            "execution_id": "e1",
            "workflow_id": "flow",
            "epoch": 1,
            "seq": next(_numbers),
            "attempt": 1,
            "step": getattr(owner, "name", "step"),
            "code": target.ref.to_dict(),
            "part": target.part,
            "payload": CODEC.encode((args, given)),
            "timeout": None,
            "idempotency_key": "key-1",
        }
        return TaskMessage(**(fields | own))

    def batch(
        self,
        *tasks: TaskMessage,
        patience: float = PATIENCE,
        pool_epoch: int = 1,
        id: str = "",
        tell_begin: bool = False,
    ) -> BatchMessage:
        """Tasks as one batch."""
        number = next(_numbers)
        return BatchMessage(id or f"b{number}", f"t{number}", pool_epoch, "coordinator", tasks, patience, tell_begin)

    def send(self, *tasks: TaskMessage, **batch: Any) -> Pending:
        """Send tasks as one batch."""
        return Pending(self.worker, "run", self.batch(*tasks, **batch))

    def run(self, *tasks: TaskMessage, **batch: Any) -> BatchReply:
        """Send tasks as one batch and wait for the answer."""
        return self.send(*tasks, **batch).reply()

    def outcome(self, owner: Any, *args: Any, **given: Any) -> TaskOutcome:
        """How one task ends."""
        [outcome] = self.run(self.task(owner, *args, **given)).outcomes
        return outcome

    def result(self, owner: Any, *args: Any, **given: Any) -> Any:
        """Return the result of one task."""
        outcome = self.outcome(owner, *args, **given)
        assert outcome.failure is None, outcome.failure
        return value(outcome)

    def collecting(self, batch_id: str, seconds: float = PATIENCE) -> Pending:
        """Ask for the rest of a batch that was answered early."""
        return Pending(self.worker, "collect", (batch_id, seconds))

    def collect(self, batch_id: str, seconds: float = PATIENCE) -> BatchReply:
        """The rest of a batch that was answered early."""
        return self.collecting(batch_id, seconds).reply()

    def heartbeat(self) -> Any:
        """The progress of the next heartbeat that the coordinator hears."""
        progress = self.beats.get(timeout=PATIENCE)[-1].progress
        return None if progress is None else CODEC.decode(progress)


def value(outcome: TaskOutcome) -> Any:
    """The result in an outcome."""
    assert outcome.result is not None, outcome.failure
    return CODEC.decode(outcome.result)


def keys(*tasks: TaskMessage) -> list[tuple[str, int, int]]:
    """Return the keys of these attempts."""
    return [(task.execution_id, task.seq, task.attempt) for task in tasks]


def reach(gate: str) -> None:
    """Wait until a step is at that gate."""
    assert STAGE.gate(gate).reached.wait(PATIENCE), f"no step came to gate {gate!r}"


def ended(reply: BatchReply) -> list[tuple[str, int, int]]:
    """Return the keys of the attempts that a reply has outcomes of."""
    return [(outcome.execution_id, outcome.seq, outcome.attempt) for outcome in reply.outcomes]


@contextlib.contextmanager
def bench(
    concurrency: int = 2,
    *,
    environment: Mapping[str, Any] | None = None,
    name: str = "w1",
    system: ThreadSystem | None = None,
    **settings: Any,
) -> Iterator[Bench]:
    """A worker that ends with the block, and all that waits at a gate with it."""
    STAGE.clear()
    system = system or ThreadSystem()
    try:
        yield Bench(
            system,
            WorkerSettings(concurrency, "default", "store", pool_actor="pool", **settings),
            environment or {},
            name,
        )
    finally:
        for gate in list(STAGE.gates.values()):
            gate.opened.set()
        system.close()
