"""Journals of executions as files, and whether today's code repeats them.

A history is what a coordinator reads when it takes an execution up: its row, as far as it matters for that, and its
journal. Kept in a repository, it shows in a test that changed code still goes on where the old one stopped. It holds
what the execution was given and what its steps answered, as they were recorded.
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

from rayflow.client.control import ExecutionCommands
from rayflow.core.events import Ended, Entry
from rayflow.core.execution.journal import applied
from rayflow.core.interpreter.machine import Machine
from rayflow.core.interpreter.replay_check import describe, named
from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import CodeCache, CodeRef
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.options import ExecutionOptions
from rayflow.definition.workflow import Workflow
from rayflow.errors import DefinitionError, ExecutionNotFound, IncompatibleVersion, NonDeterminismError, StorageError
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.codec.journal import decode_entry
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.model import ExecutionRecord, JournalRow
from rayflow.storage.urls import open_store, parse, resolve

T = TypeVar("T")
AnyWorkflow = WorkflowFunction[..., Any] | Workflow

#: The first words of each file.
FORMAT = "rayflow journal 1"


@dataclass(frozen=True, slots=True)
class History:
    """The recorded journal of one execution.

    Args:
        execution_id: whose.
        workflow_id: the execution's workflow.
        version: the workflow's version.
        checkpoints: how much of it was recorded.
        code: where its code was.
        input: its encoded arguments.
        rows: its journal.
        seed: of the execution's random numbers.

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

    # --- from executions -----------------------------------------------------------------------------------
    @classmethod
    def of(cls, engine: ExecutionCommands, execution_id: str) -> History:
        """That of an execution in an engine's store, whatever its status. Raises ExecutionNotFound."""
        return cls._made(engine.record(execution_id), engine.ask("journal", execution_id))

    @classmethod
    def read(cls, store: str, execution_id: str) -> History:
        """That of an execution in a store that no engine has to be open on; nothing is written.

        Args:
            store: the store's URL.
            execution_id: the execution.

        Raises:
            StorageUnavailable: there is no such store, or it cannot be read.
            ExecutionNotFound: there is no such execution.
        """
        found = cls.read_all(store, ids=(execution_id,))
        if not found:
            raise ExecutionNotFound(execution_id)
        return found[0]

    @classmethod
    def read_all(
        cls, store: str, *, workflow: str | None = None, ids: Sequence[str] | None = None, limit: int = 100
    ) -> list[History]:
        """Those of the newest executions in a store; see :meth:`read`.

        Args:
            store: the store's URL.
            workflow: only those of that workflow id.
            ids: only those of these executions.
            limit: at most so many.
        """
        query = Filter(ids=None if ids is None else tuple(ids), workflow_id=workflow, limit=limit)

        async def read(opened: Store) -> list[History]:
            records = await opened.executions(query)
            return [cls._made(record, await opened.journal(record.id)) for record in records]

        return _elsewhere(lambda: asyncio.run(_with_store(resolve(store), read)))

    @classmethod
    def _made(cls, record: ExecutionRecord, rows: Sequence[JournalRow]) -> History:
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

    # --- as a file -----------------------------------------------------------------------------------------
    def save(self, path: str | Path) -> None:
        """Write it to a file: as JSON that shows what happened, or as msgpack where the name ends so."""
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
        """Read what :meth:`save` wrote.

        Raises:
            DefinitionError: the file is none, or one of a newer rayflow.
        """
        try:
            content = Path(path).read_bytes()
            packed = Path(path).suffix == ".msgpack"
            data = msgpack.unpackb(content) if packed else json.loads(content)
            if data["format"] != FORMAT:
                raise DefinitionError(f"{path} is {data['format']!r}, and this rayflow reads {FORMAT!r}")
            rows = tuple(JournalRow(row["seq"], _bytes(row["body"])) for row in data["journal"])
            given = {name: data[name] for name in ("execution_id", "workflow_id", "version", "checkpoints", "code")}
            return cls(**given, input=_bytes(data["input"]), rows=rows, seed=data.get("seed", 0))
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DefinitionError):
                raise
            raise DefinitionError(f"{path} is no journal that History.save() wrote: {error!r}") from error

    @property
    def entries(self) -> list[Entry]:
        """The journal's entries. Raises CorruptRecord if one is not what was written."""
        return [decode_entry(self.execution_id, row.seq, row.body) for row in self.rows]


def replay(history: History, workflow: AnyWorkflow | None = None) -> None:
    """Assert that today's code repeats a recorded journal: the same calls in the same order, and the same end.

    Nothing is run, and nothing is written: the code gets the recorded results.

    Args:
        history: the journal.
        workflow: the code; None for what the journal names, if it can be imported.

    Raises:
        NonDeterminismError: it does something else; it names what was expected and what was seen.
        IncompatibleVersion: the code is not there, or is another workflow's or another version's.
        DefinitionError: the journal cannot be replayed: its execution ran with ``checkpoints="off"``, or its code
            was carried along by value and is not given.

    Example:
        >>> for history in History.read_all("sqlite:///flows.db", workflow="analyse"):  # doctest: +SKIP
        ...     replay(history, analyse)
    """
    if history.checkpoints == "off":
        raise DefinitionError(
            f"execution {history.execution_id!r} ran with checkpoints='off', so that its journal has nothing to repeat"
        )
    definition = _definition(history, workflow)
    codec = MsgpackCodec(lazy=True)  # of large values a history has the references
    machine = Machine(
        lambda: definition.begin(*codec.decode(history.input)),
        execution_id=history.execution_id,
        workflow_id=history.workflow_id,
        payloads=codec,
        seed=history.seed,
        check=definition.bind,
    )
    # On a thread of its own, as in a coordinator: here a loop may be running.
    _elsewhere(lambda: _replay(machine, history.entries))


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
        return  # it had lost a lock that its code takes for its own, which is not the code's doing
    expected = None if ended is None else ended.status
    if expected != seen:
        position = 0 if last is None else last.seq
        raise NonDeterminismError(expected=_end(expected), seen=_end(seen), position=position)


def _end(status: ExecutionStatus | None) -> str:
    return "the workflow to wait for more" if status is None else f"the workflow's end ({status})"


def _definition(history: History, workflow: AnyWorkflow | None) -> WorkflowDefinition:
    found: Any = workflow
    if workflow is None:
        code = CodeRef.from_dict(history.code)
        if code.kind == "value":
            raise DefinitionError(
                f"the code of execution {history.execution_id!r} ({code.place}) was carried along by value, and is not "
                "in its journal: give the workflow as well"
            )
        found = CodeCache().load(code, _no_blob)
    known = (getattr(found, "id", None), getattr(found, "version", None))
    if known != (history.workflow_id, history.version):
        raise IncompatibleVersion(
            f"execution {history.execution_id!r} ran workflow {history.workflow_id!r} version {history.version!r}, and "
            f"this is {known[0]!r} version {known[1]!r}: an execution goes on with the version that it began with"
        )
    definition: WorkflowDefinition = found
    return definition


def _no_blob(digest: str) -> bytes:
    raise StorageError(f"there is no store to look for blob {digest} in")


# --- files and stores ---------------------------------------------------------------------------------------
def _shown(entries: Sequence[Entry]) -> Iterator[str]:
    """What happened at each entry, for people."""
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
        raise DefinitionError("memory:// lives in the engine that made it: take History.of(engine, id)")
    await store.open(read_only=True)
    try:
        return await query(store)
    finally:
        await store.close()


def _elsewhere(job: Callable[[], T]) -> T:
    """What a job answers on a thread of its own."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(job())
        except BaseException as error:  # noqa: BLE001 - raised to who asked
            done.set_exception(error)

    thread = threading.Thread(target=run, name="history", daemon=True)
    thread.start()
    return done.result()
