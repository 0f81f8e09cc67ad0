"""Looking at executions: status, tasks, output, lists, metrics. The part of an engine that only reads."""

from __future__ import annotations

from rayflow.client.control import ExecutionCommands
from rayflow.client.dead_letters import DeadLetters
from rayflow.client.pools import Pools
from rayflow.client.recovery import RecoveryManager
from rayflow.client.views import Output, children_of, snapshot, summary, tolerant
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.cluster.metrics import DistributedMetrics
from rayflow.core.execution.actions import LiveTask
from rayflow.core.execution.snapshot import ExecutionSnapshot, TaskStatus, tasks_of
from rayflow.errors import ClusterError
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors.base import ActorSystem
from rayflow.runtime.coordinator.progress import Progress
from rayflow.runtime.large_values import read_value
from rayflow.storage.base import Filter
from rayflow.storage.codec.large_values import Reference
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.damage import entries_of
from rayflow.storage.model import ExecutionRecord, JournalRow, StepNote

#: Seconds that a coordinator may take to tell what it knows.
_PATIENCE = 5.0


@refused_in_workflows("engine")
class ExecutionQueries(ExecutionCommands):
    """Looks at executions, and steers them; the base of both engines.

    Args:
        system: where the actors are.
        codec: reads payloads.

    Attributes:
        pools: the worker pools.
        dead_letters: steps that failed for good.
        recovery: what nobody drives, and what is overdue.
    """

    def __init__(self, system: ActorSystem, codec: MsgpackCodec) -> None:
        super().__init__(system)

        def read(reference: Reference) -> bytes:
            return read_value(self._persistence(), reference, "")

        self._codec = codec.reading(read)
        self._tolerant = tolerant(codec.reading(read, lazy=True))
        self.pools = Pools(system, codec, lambda: self._closed)
        self.dead_letters = DeadLetters(self, self._tolerant)
        self.recovery = RecoveryManager(self)

    def status(self, execution_id: str) -> ExecutionSnapshot:
        """The execution's snapshot: status, steps, state, results. Raises ExecutionNotFound.

        Large values in it are read when they are used, which needs the engine to be open.
        """
        record = self.record(execution_id)
        rows: list[JournalRow] = self._persistence().call("journal", execution_id)
        notes: list[StepNote] = self._persistence().call("notes", execution_id)
        children: list[ExecutionRecord] = self._persistence().call("executions", children_of(execution_id))
        return snapshot(record, rows, notes, children, self._tolerant)

    def tasks(self, execution_id: str) -> list[TaskStatus]:
        """Every attempt of an execution: where it is, who runs it or ran it, since when, and how it failed.

        Raises:
            ExecutionNotFound: there is no such execution.
            CorruptRecord: its journal is damaged; :meth:`status` shows what can be read of it.
        """
        record = self.record(execution_id)
        rows: list[JournalRow] = self._persistence().call("journal", execution_id)
        return tasks_of(entries_of(record, rows), self._live(record))

    def _live(self, record: ExecutionRecord) -> dict[int, tuple[LiveTask, str]]:
        if not record.coordinator or record.status.terminal:
            return {}
        try:
            found: list[tuple[LiveTask, str]] = self._system.find(record.coordinator).call(
                "live", record.id, timeout=_PATIENCE, group="control"
            )
        except ClusterError:  # it is gone or restarting; the journal tells what there is
            return {}
        return {task.seq: (task, worker) for task, worker in found}

    def output(self, execution_id: str, cursor: str = "") -> Output:
        """What an execution's steps have printed, as far as it is kept: the last lines since its coordinator began.

        Args:
            execution_id: the execution.
            cursor: of the answer before; "" for all that there is.

        Raises:
            ExecutionNotFound: there is no such execution.
        """
        name = self.record(execution_id).coordinator
        known, _, position = cursor.rpartition("/")
        if not name:
            return Output((), cursor)
        try:
            found: Progress = self._system.find(name).call(
                "progress",
                execution_id,
                int(position) if known == name else 0,
                timeout=_PATIENCE,
                group="control",
            )
        except ClusterError:  # it is gone or restarting; its successor prints on
            return Output((), cursor)
        return Output(found.lines, f"{name}/{found.cursor}", issued=found.issued, completed=found.completed)

    def list(
        self,
        *,
        status: ExecutionStatus | str | None = None,
        workflow: str | None = None,
        parent: str | None = None,
        schedule: str | None = None,
        limit: int = 100,
    ) -> list[ExecutionSnapshot]:
        """Executions, newest first, without their steps and state.

        Args:
            status: only those.
            workflow: only those of that workflow id.
            parent: only the children of that execution, in the order in which it started them.
            schedule: only those that the schedule of that name started.
            limit: at most so many.
        """
        wanted = () if status is None else (ExecutionStatus(status),)
        query = Filter(status=wanted, workflow_id=workflow, parent=parent, schedule=schedule, limit=limit)
        return [summary(record) for record in self._persistence().call("executions", query)]

    def metrics(self) -> DistributedMetrics:
        """The store's totals and what the pools do now."""
        return DistributedMetrics.of(self._persistence().call("totals"), self.pools.list())

    def pid_of(self, actor: str) -> int:
        """The process of an actor, by its name as a snapshot or the Ray dashboard shows it. Raises ActorLost."""
        pid: int = self._system.find(actor).call("pid", timeout=10, group="control")
        return pid
