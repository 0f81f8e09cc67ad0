"""Journals of executions as files, and their replay with the current code.

A history is what a coordinator reads to resume an execution: its journal and some fields of its record. In a
repository, a history lets a test show that changed code can resume executions of the old code. It contains the recorded
input and the recorded results of the steps.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgpack

from rayflow.client.engine import Engine, backend_of
from rayflow.core.events import Ended, Entry
from rayflow.core.execution.journal import applied
from rayflow.core.interpreter.machine import Machine
from rayflow.core.interpreter.replay_check import describe, named
from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import CodeCache, CodeRef
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.options import ExecutionOptions
from rayflow.definition.workflow import Workflow
from rayflow.errors import ExecutionNotFound, IncompatibleVersion, InvalidArgument, NonDeterminismError, StorageError
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.codec.journal import decode_entry
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.model import ExecutionRecord, JournalRow
from rayflow.storage.urls import open_store, parse, resolve

T = TypeVar("T")
AnyWorkflow = WorkflowFunction[..., Any] | Workflow

#: Format name in each file.
FORMAT = "rayflow journal 1"


@dataclass(frozen=True, slots=True)
class History:
    """The recorded journal of one execution.

    Args:
        execution_id: the execution.
        workflow_id: its workflow.
        version: the workflow's version.
        checkpoints: the execution's option ``checkpoints``.
        code: the reference to the workflow's code.
        input: the encoded arguments.
        rows: the journal.

    Example:
        >>> history = History.of(engine, "doc-17")  # doctest: +SKIP
        >>> history.save("tests/journals/doc-17.json")  # doctest: +SKIP
        >>> replay(History.load("tests/journals/doc-17.json"), analyse)  # doctest: +SKIP
    """

    execution_id: str
    workflow_id: str
    version: str
    checkpoints: str
    code: Mapping[str, Any]
    input: bytes
    rows: tuple[JournalRow, ...]
    seed: int = 0

    @classmethod
    def of(cls, engine: Engine, execution_id: str) -> History:
        """Return the history of an execution in an engine's store, in any status. Raises ExecutionNotFound."""
        backend = backend_of(engine)
        return cls._create(backend.record(execution_id), backend.journal(execution_id))

    @classmethod
    def read(cls, store: str, execution_id: str) -> History:
        """Return the history of an execution in a store, which is opened read-only.

        Args:
            store: the store's URL.
            execution_id: the execution.

        Raises:
            StorageUnavailable: if the store does not exist or cannot be read.
            ExecutionNotFound: if the execution does not exist.
        """
        found = cls.read_all(store, ids=(execution_id,))
        if not found:
            raise ExecutionNotFound(execution_id)
        return found[0]

    @classmethod
    def read_all(
        cls, store: str, *, workflow: str | None = None, ids: Sequence[str] | None = None, limit: int = 100
    ) -> list[History]:
        """Return the histories of the newest executions in a store, see :meth:`read`.

        Args:
            store: the store's URL.
            workflow: only executions of this workflow id; None for all.
            ids: only these executions; None for all.
            limit: the largest number of histories.
        """
        query = Filter(ids=None if ids is None else tuple(ids), workflow_id=workflow, limit=limit)

        async def read(opened: Store) -> list[History]:
            records = await opened.executions(query)
            return [cls._create(record, await opened.journal(record.id)) for record in records]

        return _on_thread(lambda: asyncio.run(_with_store(resolve(store), read)))

    @classmethod
    def _create(cls, record: ExecutionRecord, rows: Sequence[JournalRow]) -> History:
        options = ExecutionOptions.model_validate_json(record.options)
        return cls(
            record.id,
            record.workflow_id,
            record.version,
            options.checkpoints,
            json.loads(record.code),
            record.input,
            tuple(rows),
            record.seed,
        )

    def save(self, path: str | Path) -> None:
        """Write the history to a file: as readable JSON, or as msgpack if the name ends in ``.msgpack``."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "execution_id": self.execution_id,
            "workflow_id": self.workflow_id,
            "version": self.version,
            "checkpoints": self.checkpoints,
            "code": dict(self.code),
            "input": self.input,
            "seed": self.seed,
            "journal": [{"seq": row.seq, "body": row.body} for row in self.rows],
        }
        if Path(path).suffix == ".msgpack":
            Path(path).write_bytes(msgpack.packb(data))
            return
        data["input"] = _text(self.input)
        data["journal"] = [
            {"seq": row.seq, "what": what, "body": _text(row.body)}
            for row, what in zip(self.rows, _shown(self.entries), strict=True)
        ]
        Path(path).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read a file that :meth:`save` has written.

        Raises:
            InvalidArgument: if it is another file, or if a newer rayflow has written it.
        """
        try:
            content = Path(path).read_bytes()
            packed = Path(path).suffix == ".msgpack"
            data = msgpack.unpackb(content) if packed else json.loads(content)
            if data["format"] != FORMAT:
                raise InvalidArgument(f"{path} has format {data['format']!r}, but this rayflow reads {FORMAT!r}")
            rows = tuple(JournalRow(row["seq"], _bytes(row["body"])) for row in data["journal"])
            given = {name: data[name] for name in ("execution_id", "workflow_id", "version", "checkpoints", "code")}
            return cls(**given, input=_bytes(data["input"]), rows=rows, seed=data.get("seed", 0))
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InvalidArgument):
                raise
            raise InvalidArgument(f"{path} was not written by History.save(): {error!r}") from error

    @property
    def entries(self) -> list[Entry]:
        """The journal's entries. Raises CorruptRecord if one is damaged."""
        return [decode_entry(self.execution_id, row.seq, row.body) for row in self.rows]


def replay(history: History, workflow: AnyWorkflow | None = None) -> None:
    """Assert that the current code repeats a recorded journal: the same calls in the same order, and the same end.

    No step runs, and nothing is written: the code receives the recorded results.

    Args:
        history: the journal.
        workflow: the workflow; None to import the one that the journal names.

    Raises:
        NonDeterminismError: if the code differs; the message names the expected and the actual call.
        IncompatibleVersion: if the code cannot be imported, or if it is another workflow or version.
        InvalidArgument: if the journal cannot be replayed: its execution ran with ``checkpoints="off"``, or its code
            was recorded by value and no ``workflow`` is given.

    Example:
        >>> for history in History.read_all("sqlite:///flows.db", workflow="analyse"):  # doctest: +SKIP
        ...     replay(history, analyse)
    """
    if history.checkpoints == "off":
        raise InvalidArgument(
            f"cannot replay execution {history.execution_id!r}: it ran with checkpoints='off' and recorded no results"
        )
    definition = _definition(history, workflow)
    codec = MsgpackCodec(lazy=True)  # a history has only the references of large values
    machine = Machine(
        lambda: definition.begin(*codec.decode(history.input)),
        execution_id=history.execution_id,
        workflow_id=history.workflow_id,
        payloads=codec,
        seed=history.seed,
        check=definition.bind,
    )
    # On a separate thread, as in a coordinator: the caller may run an event loop.
    _on_thread(lambda: _replay(machine, history.entries))


def _replay(machine: Machine, entries: Sequence[Entry]) -> None:
    try:
        machine.replay(applied(entries))
        _check_end(machine, entries)
    except NonDeterminismError as error:
        failure = None if machine.outcome is None else machine.outcome.failure
        if failure is not None:
            error.add_note(f"The workflow's code failed:\n{failure.traceback or failure}")
        raise
    finally:
        machine.evict()


def _check_end(machine: Machine, entries: Sequence[Entry]) -> None:
    last = entries[-1] if entries else None
    ended = last.event if last is not None and isinstance(last.event, Ended) else None
    seen = None if machine.outcome is None else machine.outcome.status
    if ended is not None and seen is None and machine.held_locks and ended.status is ExecutionStatus.FAILED:
        return  # it had lost a lock, which its code cannot know
    expected = None if ended is None else ended.status
    if expected != seen:
        position = 0 if last is None else last.seq
        raise NonDeterminismError(expected=_end(expected), seen=_end(seen), position=position)


def _end(status: ExecutionStatus | None) -> str:
    return "a waiting workflow" if status is None else f"the workflow's end ({status})"


def _definition(history: History, workflow: AnyWorkflow | None) -> WorkflowDefinition:
    found: Any = workflow
    if workflow is None:
        code = CodeRef.from_dict(history.code)
        if code.kind == "value":
            raise InvalidArgument(
                f"the code of execution {history.execution_id!r} ({code.place}) was recorded by value and is not "
                "in the journal: pass the workflow"
            )
        found = CodeCache().load(code, _no_blob)
    known = (getattr(found, "id", None), getattr(found, "version", None))
    if known != (history.workflow_id, history.version):
        raise IncompatibleVersion(
            f"execution {history.execution_id!r} ran workflow {history.workflow_id!r} version {history.version!r}, but "
            f"this is {known[0]!r} version {known[1]!r}: an execution continues with the version that it started with"
        )
    definition: WorkflowDefinition = found
    return definition


def _no_blob(digest: str) -> bytes:
    raise StorageError(f"cannot load blob {digest}: a history has no store")


def _shown(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield a description of each entry, for people."""
    issued = 0
    for entry in entries:
        calls = [named(issued + number, label) for number, label in enumerate(entry.issued, start=1)]
        issued += len(calls)
        kind, what = type(entry.event).__name__, describe(entry.event)
        happened = kind if what == kind else f"{kind}: {what}"
        yield f"{happened}; then {', '.join(calls)}" if calls else happened


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else base64.b64decode(data, validate=True)


async def _with_store(url: str, query: Callable[[Store], Awaitable[T]]) -> T:
    store = open_store(url)
    if parse(url).scheme == "memory":
        raise InvalidArgument("memory:// exists only in the engine that created it: use History.of(engine, id)")
    await store.open(read_only=True)
    try:
        return await query(store)
    finally:
        await store.close()


def _on_thread(job: Callable[[], T]) -> T:
    """Run a function on a separate thread, and return its result."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(job())
        except BaseException as error:  # noqa: BLE001 - raised to the caller
            done.set_exception(error)

    thread = threading.Thread(target=run, name="history", daemon=True)
    thread.start()
    return done.result()
