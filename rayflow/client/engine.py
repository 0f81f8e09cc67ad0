"""Public interface of both engines: starts, queries, control. Only where the actors run differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from rayflow.client.backend import Backend
from rayflow.client.code import ClientCode
from rayflow.client.control import ExecutionCommands
from rayflow.client.dead_letters import DeadLetters
from rayflow.client.forks import Forks
from rayflow.client.handle import ExecutionHandle, Handles
from rayflow.client.locks import Lease, Locks
from rayflow.client.pools import Pools, QueueBackpressure, resolve_setup
from rayflow.client.queries import ExecutionQueries
from rayflow.client.recovery import RecoveryManager
from rayflow.client.retention import PurgeResult, purge, select
from rayflow.client.schedules import Schedules
from rayflow.client.starts import Starter
from rayflow.client.views import ExecutionPage, Output, WorkflowInfo, list_query, workflow_infos
from rayflow.client.watcher import Watcher
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.cluster.metrics import DistributedMetrics
from rayflow.core.execution.snapshot import ExecutionSnapshot, TaskStatus
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.options import EngineConfig, ExecutionOptions
from rayflow.definition.start_options import ConfiguredWorkflow, SavedWorkflow, WorkflowCall
from rayflow.definition.workflow import AnyWorkflow, Workflow, configured
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors.base import ActorSystem
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.settings import Settings
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec
from rayflow.storage.rules.starts import derived_seed

P = ParamSpec("P")
R = TypeVar("R")


@refused_in_workflows("engine")
class Engine:
    """Starts executions and controls them. Use :class:`DistributedEngine` or :class:`LocalEngine`.

    Args:
        system: where the actors are.
        config: the configuration.
        url: the store's URL.
        environment: the code environment of this process.

    Attributes:
        config: the configuration.
        store: the store's URL.
        recovered: ids of the unfinished executions that opening this engine claimed.
        pools: the worker pools.
        schedules: workflows that are started at set times.
        locks: locks and semaphores, and who holds them.
        dead_letters: steps that failed permanently.
        recovery: status of recovery, and its watchdog.
    """

    def __init__(self, system: ActorSystem, config: EngineConfig, url: str, environment: Environment) -> None:
        self.config = config
        self.store = url
        self.recovered: list[str] = []
        self._environment = environment
        backend = self._backend = Backend(system)
        codec = self._codec = MsgpackCodec(allow_pickle=config.allow_pickle).reading(backend.read_value)
        encoder = LargeValueEncoder(codec, backend.put_value, config.large_value_bytes)
        self._watcher = self._make_watcher()
        self._queries = ExecutionQueries(backend, codec)
        code = ClientCode(environment, backend)
        self._commands = ExecutionCommands(backend, codec, encoder, code)
        self._handles = Handles(self._queries, self._commands, self._watcher)
        self._starter = Starter(
            backend,
            self._handles,
            config=config,
            codec=codec,
            encoder=encoder,
            code=code,
            environment=environment,
            new_seed=self._new_seed,
        )
        self._forks = Forks(
            backend, self._starter, self._handles, codec=codec, encoder=encoder, code=code, new_seed=self._new_seed
        )
        self._backpressure: QueueBackpressure
        self.pools = Pools(backend, codec)
        self.schedules = Schedules(backend, self._starter, self._handles, codec, config)
        self.locks = Locks(backend)
        self.dead_letters = DeadLetters(backend, self._queries.decode, self._commands.resume)
        self.recovery = RecoveryManager(backend, self._commands.resume)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the engine. Executions continue where their actors outlive this process; LocalEngine stops them."""
        self._backend.closed = True
        self._watcher.close()

    def _new_seed(self, execution_id: str, nonce: str) -> int:
        """Return the seed of the random numbers of a new execution, or of a fork from its first new call on."""
        return derived_seed(nonce)

    def _make_watcher(self) -> Watcher:
        return Watcher(self._backend)

    def _use_environment(self, environment: Environment) -> None:
        """Replace the code environment, once the digest of its variables is known."""
        self._environment = self._starter.environment = environment

    def _settings(self) -> Settings:
        """Return the settings of the actors. The store must be open: code of a pool's setup is kept there."""
        config = self.config
        if config.pool.setup is not None:
            config = config.replace(pool=resolve_setup(config.pool, self._backend, allow_pickle=config.allow_pickle))
        return Settings(url=self.store, config=config)

    # --- starts ----------------------------------------------------------------------------------------------
    @overload
    def start(
        self, workflow: WorkflowFunction[P, R] | ConfiguredWorkflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> ExecutionHandle[R]: ...
    @overload
    def start(
        self, workflow: Workflow, state: Mapping[str, Any] | None = None, /
    ) -> ExecutionHandle[dict[str, Any]]: ...
    @overload
    def start(self, workflow: SavedWorkflow, /, *args: Any, **kwargs: Any) -> ExecutionHandle[Any]: ...
    def start(
        self, workflow: AnyWorkflow | SavedWorkflow | ConfiguredWorkflow[..., Any], /, *args: Any, **kwargs: Any
    ) -> ExecutionHandle[Any]:
        """Start an execution. It is durable when this returns.

        Args:
            workflow: the workflow, alone or with options: ``research.options(id="rivers-1", priority=3)``.
            args: the workflow's positional arguments.
            kwargs: its keyword arguments.

        Raises:
            InvalidInput: the arguments do not fit the workflow's parameters.
            QueueFull: the queue of the default pool is full and ``when_full="raise"`` was given. Nothing was started.
            ExecutionAlreadyExists: the id belongs to another workflow or input.
            WorkflowNotRegistered: no saved workflow has that id.
            DefinitionError: the workflow cannot be registered, see :meth:`register`.
            StorageUnavailable: the store cannot be written now. The start may have been recorded nevertheless: the
                same start under the same id is safe to repeat.

        Example:
            >>> handle = engine.start(analyse.options(id="doc-17"), "…")  # doctest: +SKIP
        """
        [handle] = self.start_many([configured(workflow).call(*args, **kwargs)])
        return handle

    def start_many(self, calls: Iterable[WorkflowCall[R]]) -> list[ExecutionHandle[R]]:
        """Start one execution for each call, in one transaction.

        Args:
            calls: workflows with their arguments, as ``workflow.call(...)`` and ``workflow.options(...).call(...)``
                return them.

        Raises:
            QueueFull: as :meth:`start`; nothing was started.
            ExecutionAlreadyExists: an id belongs to another workflow or input. The other calls were started.

        Example:
            >>> engine.start_many(analyse.call(document) for document in documents)  # doctest: +SKIP
        """
        wanted = list(calls)
        raises = any(call.configured.when_full == "raise" for call in wanted)
        if wanted:
            self._backpressure.wait(when_full="raise" if raises else "wait")
        return self._starter.start(wanted)

    @overload
    def execute(
        self, workflow: WorkflowFunction[P, R] | ConfiguredWorkflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    def execute(self, workflow: Workflow, state: Mapping[str, Any] | None = None, /) -> dict[str, Any]: ...
    @overload
    def execute(self, workflow: SavedWorkflow, /, *args: Any, **kwargs: Any) -> Any: ...
    def execute(
        self, workflow: AnyWorkflow | SavedWorkflow | ConfiguredWorkflow[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Start an execution, wait for its end and return its result.

        The same as ``engine.start(...).result()``; to wait for a limited time, use ``result(timeout)``.
        """
        [handle] = self.start_many([configured(workflow).call(*args, **kwargs)])
        return handle.result()

    # --- workflows -------------------------------------------------------------------------------------------
    def register(self, workflow: AnyWorkflow) -> WorkflowInfo:
        """Save a workflow, so that any process can start it by its id.

        A workflow that can be imported is saved as a reference, any other by value as it is now, with its steps and
        lambdas.

        Raises:
            DefinitionError: the workflow can be neither imported nor pickled, or pickling is not allowed; or another
                workflow has the same id and version.
        """
        record = self._starter.register(workflow)
        key = (record.workflow_id, record.version)
        return next(info for info in self.workflows() if (info.workflow_id, info.version) == key)

    def workflows(self) -> list[WorkflowInfo]:
        """Return the versions of workflows, by id, newest first, with their numbers of unfinished executions."""
        return workflow_infos(self._backend.definitions(), self._backend.versions())

    def delete_workflow(self, workflow_id: str) -> bool:
        """Delete a saved workflow and return whether there was one. Its executions are not affected."""
        return self._starter.delete(workflow_id)

    # --- queries ---------------------------------------------------------------------------------------------
    def handle(self, execution_id: str) -> ExecutionHandle[Any]:
        """Return a handle on any execution of the store. Raises ExecutionNotFound."""
        self._backend.record(execution_id)
        return self._handles.of(execution_id)

    def status(self, execution_id: str) -> ExecutionSnapshot:
        """Return the execution's snapshot: status, steps, state, results. Raises ExecutionNotFound.

        Large values in it are read when they are used, which needs the engine to be open.
        """
        return self._queries.status(execution_id)

    def tasks(self, execution_id: str) -> list[TaskStatus]:
        """Return every attempt of an execution: where it is, its worker, since when, and how it failed.

        Raises:
            ExecutionNotFound: the execution does not exist.
            CorruptRecord: its journal is damaged; :meth:`status` shows the part that can be read.
        """
        return self._queries.tasks(execution_id)

    def output(self, execution_id: str, cursor: str = "") -> Output:
        """Return what an execution's steps have printed: the last lines since its coordinator began.

        Args:
            execution_id: the execution's id.
            cursor: the cursor of the previous answer; "" for all lines that are kept.

        Raises:
            ExecutionNotFound: the execution does not exist.
        """
        return self._queries.output(execution_id, cursor)

    def list(
        self,
        *,
        status: ExecutionStatus | str | None = None,
        workflow: str | None = None,
        parent: str | None = None,
        schedule: str | None = None,
        where: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> ExecutionPage:
        """Return a page of executions, newest first, without their steps and state.

        Args:
            status: only executions with this status.
            workflow: only executions of this workflow id.
            parent: only children of this execution, in the order of their starts.
            schedule: only executions that this schedule started.
            where: only executions that meet this condition, such as
                ``"attr.customer = 'acme' and started > '2026-11-01'"`` (docs/storage.md lists the fields).
            after: the ``next`` of the page before; None for the first page.
            limit: maximum number of executions of a page.

        Raises:
            InvalidArgument: ``where`` is not a condition, or ``after`` is not a cursor.

        Example:
            >>> page = engine.list(where="status = 'failed'", limit=50)  # doctest: +SKIP
            >>> rest = engine.list(where="status = 'failed'", limit=50, after=page.next)  # doctest: +SKIP
        """
        return self._queries.list(
            list_query(
                status=status,
                workflow=workflow,
                parent=parent,
                schedule=schedule,
                where=where,
                after=after,
                limit=limit,
            )
        )

    def metrics(self) -> DistributedMetrics:
        """Return the store's totals and the status of the pools."""
        return DistributedMetrics.of(self._backend.totals(), self.pools.list())

    # --- control ---------------------------------------------------------------------------------------------
    def pause(self, execution_id: str, *, reason: str = "") -> None:
        """Pause an execution: running steps finish and are recorded, no new step starts, until :meth:`resume`.

        Returns when no new step can start.

        Raises:
            ExecutionNotFound: the execution does not exist.
            InvalidTransition: the execution has finished.
        """
        self._commands.pause(execution_id, reason=reason)

    def resume(self, execution_id: str) -> None:
        """Continue a paused execution, an interrupted one, or a failed one from its failure.

        A failed execution continues before the failure that ended it: that step is tried again with fresh retries, and
        everything recorded before it is kept. Children that it cancelled because of that failure continue with it, as
        do children that failed.

        Raises:
            ExecutionNotFound: the execution does not exist.
            InvalidTransition: the execution is completed or cancelled, or its compensations (or a child's) have run.
            CorruptRecord: the execution is quarantined for a damaged record, and the damage is still there; the error
                names the record and the remedy.
        """
        self._commands.resume(execution_id)

    def cancel(self, execution_id: str, *, reason: str = "") -> None:
        """Cancel an execution: its code gets a CancelledError, may clean up, and ends as cancelled.

        Raises:
            ExecutionNotFound: the execution does not exist.
            InvalidTransition: the execution has finished.
        """
        self._commands.cancel(execution_id, reason=reason)

    def signal(self, execution_id: str, name: str, payload: Any = None, *, key: str | None = None) -> None:
        """Send a signal. It is durable when this returns; the execution receives it exactly once, in order.

        A signal may be sent before the execution waits for it, and while the execution is parked or paused.

        Args:
            execution_id: the execution's id.
            name: the signal's name.
            payload: any value that the codec can encode.
            key: an idempotency key: another signal with the same key is not received again; None for a new one.

        Raises:
            ExecutionNotFound: the execution does not exist.
            InvalidTransition: the execution has finished.
            CodecError: the payload cannot be encoded, or does not fit what the execution waits for.

        Example:
            >>> engine.signal("doc-17", "review", Verdict(ok=True), key="review-17")  # doctest: +SKIP
        """
        self._commands.signal(execution_id, name, payload, key=key)

    def fork(
        self,
        execution_id: str,
        *,
        before: str | int,
        id: str | None = None,
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        workflow: AnyWorkflow | SavedWorkflow | None = None,
        options: ExecutionOptions | None = None,
        allow_reacquire: bool = False,
    ) -> ExecutionHandle[Any]:
        """Start an execution that takes over what another one recorded before a step, and runs the rest again.

        Results of earlier steps that were recorded later are taken over as well; signals that arrived later are not.

        Args:
            execution_id: the other execution, in any status; it is not changed.
            before: the first step to run again: its name (the first step of that name) or its number.
            id: the new execution's id; None for a new one. The same fork under the same id is the same execution.
            args: other positional arguments of the workflow; None keeps them.
            kwargs: other keyword arguments; None keeps them.
            state: keys of ``rf.state`` to set.
            workflow: another version of the workflow: a workflow, or ``rf.SavedWorkflow(id, version)``.
            options: how the fork runs; None takes the other execution's, with its time counted from now.
            allow_reacquire: fork also where locks are held, children run or compensations are registered at that
                point: locks are acquired again, children are started again as the fork's own, and the fork runs the
                compensations.

        Raises:
            ExecutionNotFound: the execution does not exist.
            InvalidTransition: the execution has not reached that step, or something is open there (see
                ``allow_reacquire``).
            CorruptRecord: the journal is damaged before that step; the error names the steps before the damage.
            WorkflowNotRegistered: that version is not saved.
            ExecutionAlreadyExists: the id belongs to another execution.

        Example:
            >>> engine.fork("doc-17", before="review", state={"reviewer": "ada"}).result()  # doctest: +SKIP
        """
        return self._forks.fork(
            execution_id,
            before=before,
            id=id,
            args=args,
            kwargs=kwargs,
            state=state,
            workflow=workflow,
            options=options,
            allow_reacquire=allow_reacquire,
        )

    def purge(
        self,
        older_than: float | None = None,
        *,
        status: ExecutionStatus | str | Sequence[ExecutionStatus | str] = (),
        workflow: str | None = None,
        dry_run: bool = False,
    ) -> PurgeResult:
        """Delete finished executions with all their records. Totals and saved workflows are kept.

        Unfinished executions are never deleted, nor are children of an execution that is unfinished or can be resumed.
        Deletion runs in short transactions and does not block other work.

        Args:
            older_than: delete executions that ended at least this number of seconds ago, whatever their retention;
                None deletes executions whose retention has passed, which also happens in the background.
            status: only ``completed``, ``failed`` or ``cancelled`` ones, or several of these.
            workflow: only executions of this workflow id.
            dry_run: delete nothing, and return what would be deleted.

        Raises:
            InvalidArgument: ``older_than`` is not a number of seconds, or ``status`` is not one of these.
            StorageUnavailable: the store cannot be written now; batches deleted before are deleted.

        Example:
            >>> engine.purge(older_than=30 * 86_400, status="completed").executions  # doctest: +SKIP
            1204
        """
        selected = select(older_than, status, workflow, self._backend.clock.now())
        return purge(self._backend, selected, dry_run=dry_run)

    # --- locks -----------------------------------------------------------------------------------------------
    def lock(self, name: str, *, ttl: float = 30.0, timeout: float | None = None) -> Lease:
        """Return a lock for scripts, shared with workflows that use ``rf.lock(name)``: ``with engine.lock("x"):``.

        The lock is a lease: renewed while this process lives, and free ``ttl`` seconds after the process died.

        Args:
            name: the lock's name.
            ttl: seconds that the lease lasts without being renewed.
            timeout: seconds to wait for it at most; None waits without a limit, 0 does not wait.

        Raises:
            LockUnavailable: in ``with``: the lock was not free in that time.

        Example:
            >>> with engine.lock("ledger") as lease:  # doctest: +SKIP
            ...     book(entry, token=lease.token)
        """
        return self.semaphore(name, 1, ttl=ttl, timeout=timeout)

    def semaphore(self, name: str, permits: int, *, ttl: float = 30.0, timeout: float | None = None) -> Lease:
        """Return a semaphore with a number of permits, for scripts; otherwise as :meth:`lock`."""
        return Lease(self._backend, name, permits, ttl, timeout)


def backend_of(engine: Engine) -> Backend:
    """Return an engine's backend, for the command line and for tests: users have the engine's methods."""
    return engine._backend  # noqa: SLF001 - kept out of the public interface


def watcher_of(engine: Engine) -> Watcher:
    """Return an engine's watcher, for the command line."""
    return engine._watcher  # noqa: SLF001 - kept out of the public interface
