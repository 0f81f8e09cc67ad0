"""Client side of the store actor, the supervisor and the coordinators of one namespace.

Engines and handles reach actors through this class alone. A call that may safely run twice is sent again while its
actor restarts; a call that must run once raises instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from rayflow.core.cluster.metrics import PoolStatus
from rayflow.core.cluster.recovery import OverdueItem, RecoveryStatus
from rayflow.core.execution.actions import LiveTask
from rayflow.core.locks.machine import Lock
from rayflow.definition.options import PoolConfig
from rayflow.errors import ExecutionNotFound, RayflowError, WorkflowNotRegistered
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import Actor, ActorSystem, RetryingActor
from rayflow.runtime.code.environment import Variables
from rayflow.runtime.coordinator.progress import Progress
from rayflow.runtime.large_values import put_value, read_value
from rayflow.runtime.settings import Settings
from rayflow.runtime.store.completions import Completions
from rayflow.storage.base import Filter
from rayflow.storage.codec.large_values import Reference
from rayflow.storage.model import (
    DeadLetter,
    DefinitionRecord,
    ExecutionRecord,
    InboxRow,
    JournalRow,
    PoolRecord,
    ScheduleRecord,
    StepNote,
)
from rayflow.storage.operations import Answer, Operation, Rejected
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter

T = TypeVar("T")

#: Seconds that a coordinator may take to answer.
_COORDINATOR_TIMEOUT = 5.0


class Backend:
    """Typed calls to the actors of one namespace.

    Args:
        system: where the actors are.

    Attributes:
        system: as given.
        clock: the time that executions go by.
        closed: whether the engine was closed; calls then raise.
    """

    def __init__(self, system: ActorSystem) -> None:
        self.system = system
        self.clock = system.clock
        self.closed = False

    # --- executions ----------------------------------------------------------------------------------------
    def execution(self, execution_id: str) -> ExecutionRecord | None:
        """Return an execution's record, or None."""
        found: ExecutionRecord | None = self._store("execution", execution_id)
        return found

    def record(self, execution_id: str) -> ExecutionRecord:
        """Return an execution's record. Raises ExecutionNotFound."""
        found = self.execution(execution_id)
        if found is None:
            raise ExecutionNotFound(execution_id)
        return found

    def executions(self, query: Filter) -> list[ExecutionRecord]:
        """Return the records that match."""
        found: list[ExecutionRecord] = self._store("executions", query)
        return found

    def journal(self, execution_id: str) -> list[JournalRow]:
        """Return an execution's journal."""
        rows: list[JournalRow] = self._store("journal", execution_id)
        return rows

    def inbox(self, execution_id: str) -> list[InboxRow]:
        """Return the inbox rows of an execution that are not applied."""
        rows: list[InboxRow] = self._store("inbox", execution_id)
        return rows

    def notes(self, execution_id: str) -> list[StepNote]:
        """Return the newest note of each step of an execution that has one."""
        found: list[StepNote] = self._store("notes", execution_id)
        return found

    def write(self, operations: Sequence[Operation]) -> Sequence[Answer]:
        """Apply operations. Raises the error of one that was rejected."""
        answers = self.apply(operations)
        for answer in answers:
            if isinstance(answer, Rejected):
                raise answer.error
        return answers

    def apply(self, operations: Sequence[Operation]) -> Sequence[Answer]:
        """Apply operations and return all answers, rejections included. An operation applied before is recognised."""
        answers: Sequence[Answer] = self._store("start", list(operations))
        return answers

    def submit(self, records: Sequence[ExecutionRecord], *, code: str = "") -> None:
        """Have started executions driven.

        Args:
            records: the executions.
            code: fingerprint of the code that this process has now; "" for the fingerprints of the records.
        """
        if records:
            self._supervisor.send("submit", list(records), code)

    def notify(self, ids: Sequence[str], *, code: str = "") -> None:
        """Have the inboxes of executions read.

        Args:
            ids: the executions.
            code: fingerprint of the code that this process has now, for parked executions; "" if it is unknown.
        """
        if ids:
            self._supervisor.send("notify", tuple(ids), code)

    def completions(self, cursor: tuple[str, int], timeout: float) -> Completions:
        """Wait until an execution ends after the cursor, at most ``timeout`` seconds, and return those that did."""
        found: Completions = self._store("completions", cursor, timeout, timeout=4 * timeout, group="completions")
        return found

    # --- definitions, values -------------------------------------------------------------------------------
    def put_blob(self, digest: str, data: bytes) -> None:
        """Keep bytes by their digest."""
        self._store("put_blob", digest, data)

    def blob(self, digest: str) -> bytes | None:
        """Return the bytes of a digest, or None."""
        found: bytes | None = self._store("blob", digest)
        return found

    def put_value(self, reference: Reference, data: bytes) -> None:
        """Keep the payload of a large value."""
        put_value(self._actor(actor_names.STORE), reference, data)

    def read_value(self, reference: Reference) -> bytes:
        """Return the payload of a large value."""
        return read_value(self._actor(actor_names.STORE), reference, "")

    def save_definition(self, record: DefinitionRecord) -> None:
        """Save a workflow's definition."""
        self._store("save_definition", record)

    def definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord:
        """Return a saved workflow: that version, or the one saved last. Raises WorkflowNotRegistered."""
        saved = self.find_definition(workflow_id, version)
        if saved is None:
            known = sorted({f"{each.workflow_id} (version {each.version})" for each in self.definitions()})
            what = workflow_id if version is None else f"{workflow_id} (version {version})"
            raise WorkflowNotRegistered(what, known=tuple(known))
        return saved

    def find_definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord | None:
        """Return a saved workflow, or None: that version, or the one saved last."""
        found: DefinitionRecord | None = self._store("definition", workflow_id, version)
        return found

    def definitions(self) -> list[DefinitionRecord]:
        """Return all saved workflows."""
        found: list[DefinitionRecord] = self._store("definitions")
        return found

    def delete_definition(self, workflow_id: str) -> bool:
        """Delete a saved workflow; return whether there was one."""
        gone: bool = self._store_once("delete_definition", workflow_id)
        return gone

    def versions(self) -> list[tuple[str, str, int]]:
        """Return workflow id, version and number of unfinished executions."""
        found: list[tuple[str, str, int]] = self._store("versions")
        return found

    # --- locks, schedules, dead letters, retention -----------------------------------------------------------
    def locks(self, names: Sequence[str] | None = None) -> list[Lock]:
        """Return the locks of these names; None for all that are held or waited for."""
        found: list[Lock] = self._store("locks", names)
        return found

    def schedules(self) -> list[ScheduleRecord]:
        """Return all schedules, by name."""
        found: list[ScheduleRecord] = self._store("schedules")
        return found

    def save_schedule(self, record: ScheduleRecord) -> None:
        """Save a schedule."""
        self._store_once("save_schedule", record)

    def delete_schedule(self, name: str) -> bool:
        """Delete a schedule; return whether there was one."""
        gone: bool = self._store_once("delete_schedule", name)
        return gone

    def dead_letters(
        self, execution_id: str | None, workflow_id: str | None, limit: int, step: int | None = None
    ) -> list[DeadLetter]:
        """Return the dead letters that match, newest first."""
        found: list[DeadLetter] = self._store("dead_letters", execution_id, workflow_id, limit, step)
        return found

    def delete_dead_letter(self, execution_id: str, step: int) -> bool:
        """Delete a dead letter; return whether there was one."""
        deleted: int = self._store_once("delete_dead_letters", [(execution_id, step)])
        return deleted > 0

    def purge(self, over: PurgeFilter, *, dry_run: bool) -> PurgeBatch:
        """Delete finished executions in one transaction, or only select them; return which."""
        found: PurgeBatch = self._store_once("collect", over, dry_run)  # a second time would not count the first
        return found

    def reclaim(self) -> bool:
        """Give back some of the disk space of deleted executions; return whether there is more."""
        more: bool = self._store("reclaim")
        return more

    def totals(self) -> dict[str, float]:
        """Return the store's counters."""
        found: dict[str, float] = self._store("totals")
        return found

    # --- pools ---------------------------------------------------------------------------------------------
    def pools(self) -> list[PoolRecord]:
        """Return all saved pools, by name."""
        found: list[PoolRecord] = self._store("pools")
        return found

    def pool(self, name: str) -> PoolRecord | None:
        """Return a saved pool, or None."""
        found: PoolRecord | None = self._store("pool", name)
        return found

    def pool_status(self, name: str) -> PoolStatus:
        """Return what a pool does now."""
        now: PoolStatus = self._actor(actor_names.pool(name)).call("status", group="control")
        return now

    def save_pool(self, config: PoolConfig) -> None:
        """Make or change a pool, and wait until the pool actor has the configuration."""
        self._once(actor_names.SUPERVISOR, "save_pool", config.model_dump_json())
        self._actor(actor_names.pool(config.name)).call("configure")

    def delete_pool(self, name: str) -> None:
        """Delete a pool and its workers."""
        self._once(actor_names.SUPERVISOR, "delete_pool", name)

    # --- actors --------------------------------------------------------------------------------------------
    def open_store(self, *, take_over: bool, timeout: float | None = None) -> str:
        """Wait until the store is open and this cluster is its writer; return its URL."""
        url: str = self.system.find(actor_names.STORE).call("ready", take_over, timeout=timeout)
        return url

    def settings(self, timeout: float | None = None) -> Settings:
        """Wait for the supervisor and return the settings of the namespace's actors."""
        found: Settings = self.system.find(actor_names.SUPERVISOR).call("ready", timeout=timeout)
        return found

    def announce_environment(self, text: str, variables: Variables) -> None:
        """Have a coordinator and workers of a code environment ready, and supply the values of its variables."""
        self._supervise("environment", text, variables)

    def recover(
        self, ids: Sequence[str] | None = None, older_than: float = 0.0, *, timeout: float | None = None
    ) -> list[str]:
        """Claim unfinished executions without a live coordinator; return their ids."""
        taken: list[str] = self._supervise("recover", ids, older_than, timeout=timeout)
        return taken

    def recovery_status(self) -> RecoveryStatus:
        """Return what the recovery knows and does now."""
        found: RecoveryStatus = self._supervise("recovery")
        return found

    def coordinators(self) -> list[str]:
        """Return the names of all coordinators."""
        return list(self._supervise("coordinators"))

    def overdue(self, grace: float) -> list[OverdueItem]:
        """Return the executions that are overdue by more than ``grace`` seconds."""
        found: list[OverdueItem] = self._supervise("overdue", grace)
        return found

    def overdue_attempts(self, coordinator: str, grace: float) -> list[OverdueItem]:
        """Return the overdue items of one coordinator. Raises ClusterError if it is gone or hangs."""
        found: list[OverdueItem] = self._coordinator(coordinator, "overdue", grace)
        return found

    def live_tasks(self, coordinator: str, execution_id: str) -> list[tuple[LiveTask, str]]:
        """Return the tasks of an execution and their workers. Raises ClusterError if the coordinator is gone."""
        found: list[tuple[LiveTask, str]] = self._coordinator(coordinator, "live", execution_id)
        return found

    def progress(self, coordinator: str, execution_id: str, position: int) -> Progress:
        """Return what steps printed after a position. Raises ClusterError if the coordinator is gone."""
        found: Progress = self._coordinator(coordinator, "progress", execution_id, position)
        return found

    def pid_of(self, actor: str) -> int:
        """Return the process id of an actor, by its name. Raises ActorLost."""
        pid: int = self.system.find(actor).call("pid", timeout=10, group="control")
        return pid

    # --- sending -------------------------------------------------------------------------------------------
    @property
    def _supervisor(self) -> Actor:
        return self._actor(actor_names.SUPERVISOR)

    def _store(self, method: str, *args: object, **how: Any) -> Any:
        return self._actor(actor_names.STORE).call(method, *args, **how)

    def _store_once(self, method: str, *args: object) -> Any:
        return self._once(actor_names.STORE, method, *args)

    def _supervise(self, method: str, *args: object, **how: Any) -> Any:
        return self._supervisor.call(method, *args, **how)

    def _coordinator(self, name: str, method: str, *args: object) -> Any:
        self._check_open()
        return self.system.find(name).call(method, *args, timeout=_COORDINATOR_TIMEOUT, group="control")

    def _once(self, name: str, method: str, *args: object) -> Any:
        self._check_open()
        return self.system.find(name).call(method, *args)

    def _actor(self, name: str) -> Actor:
        self._check_open()
        return RetryingActor(self.system, name, lambda: self.closed)

    def _check_open(self) -> None:
        if self.closed:
            raise RayflowError("this engine is closed; open another one and use engine.handle(id)")
