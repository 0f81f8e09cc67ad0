"""Schedules: workflows that are started at the times of a cron expression or at an interval."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rayflow.client.backend import Backend
from rayflow.client.handle import ExecutionHandle, Handles
from rayflow.client.starts import Starter
from rayflow.client.views import decode_or_describe
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.schedules import machine
from rayflow.core.schedules.due_times import check_name
from rayflow.core.schedules.machine import DueStart, ScheduleState
from rayflow.definition.options import EngineConfig, ExecutionOptions
from rayflow.definition.schedule import Moment, Schedule
from rayflow.definition.start_options import ConfiguredWorkflow, SavedWorkflow, WorkflowCall
from rayflow.definition.workflow import AnyWorkflow, configured
from rayflow.errors import CodecError, CorruptRecord, InvalidArgument, ScheduleExists, ScheduleNotFound, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.codec.schedules import ScheduleSpec, decode_plan, decode_state, encode_plan, encode_state
from rayflow.storage.model import ExecutionRecord, ScheduleRecord
from rayflow.storage.operations import Done, Rejected
from rayflow.storage.rules.starts import schedule_transaction

#: Attempts at a change that conflicts with changes by the supervisor or another client.
_TRIES = 20

_UNFINISHED = tuple(status for status in ExecutionStatus if not status.terminal)


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule and where it is.

    Args:
        name: its name.
        schedule: when it starts its workflow.
        workflow_id: which workflow.
        version: which version; "" for the one that was saved last by then.
        args: the workflow's arguments, as plain data where their classes cannot be imported.
        kwargs: its keyword arguments, likewise.
        options: how its executions run.
        paused: whether it starts nothing.
        next_due: its next due time, in seconds since the epoch; None after the last one, or while it is paused.
        last_due: the newest one that was decided on.
        last_execution: id of the newest execution.
        running: ids of its unfinished executions.
        queued_due: the due time that waits for the running one's end, under ``"queue_one"``.
        runs: due times that started an execution.
        missed: due times that were too late to be started.
        skipped: due times that were not started because of another execution or a pause.
        created_at: when it was made.
        damage: why its record in the store cannot be read, which holds up only this schedule; then all but the name
            is empty, and deleting it, or creating it again with ``replace=True``, repairs it.
    """

    name: str
    schedule: Schedule | None
    workflow_id: str
    version: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    options: ExecutionOptions
    paused: bool
    next_due: float | None
    last_due: float | None
    last_execution: str | None
    running: tuple[str, ...]
    queued_due: float | None
    runs: int
    missed: int
    skipped: int
    created_at: float
    damage: str = ""


@refused_in_workflows("engine.schedules")
class Schedules:
    """The schedules of an engine's store: ``engine.schedules``. They outlive the engine.

    Args:
        backend: where schedules are read and written.
        starter: saves workflows.
        handles: makes handles.
        codec: encodes inputs.
        config: the engine's configuration.

    Example:
        >>> engine.schedules.create("nightly", report, rf.Schedule(cron="0 2 * * *"))  # doctest: +SKIP
    """

    def __init__(
        self, backend: Backend, starter: Starter, handles: Handles, codec: MsgpackCodec, config: EngineConfig
    ) -> None:
        self._backend = backend
        self._starter = starter
        self._handles = handles
        self._codec = codec
        self._config = config

    def create(
        self,
        name: str,
        workflow: AnyWorkflow | SavedWorkflow | ConfiguredWorkflow[..., Any] | WorkflowCall[Any],
        schedule: Schedule,
        *,
        replace: bool = False,
    ) -> ScheduleInfo:
        """Create a schedule.

        Args:
            name: its name; its executions get the ids ``<name>@<due time>``.
            workflow: a workflow, one with options, or a call of one with arguments. Every due time starts the
                version that is saved then, or the version of a :class:`rayflow.SavedWorkflow`.
            schedule: the times.
            replace: change the schedule of that name if there is one; its past decisions are kept.

        Raises:
            InvalidArgument: the name is not valid, or an option does not apply to schedules.
            ScheduleExists: there is a schedule of that name, and ``replace`` is False.
            WorkflowNotRegistered: no saved workflow has that id.
            InvalidInput: the arguments do not fit.

        Example:
            >>> engine.schedules.create("nightly", report.call("eu"), rf.Schedule(cron="0 2 * * *"))  # doctest: +SKIP
        """
        check_name(name)
        call = workflow if isinstance(workflow, WorkflowCall) else configured(workflow).call()
        chosen = call.configured
        if chosen.id is not None or chosen.on_parent_end is not None or chosen.when_full is not None:
            raise InvalidArgument(f"schedule {name!r}: id, on_parent_end and when_full do not apply to schedules")
        workflow_id = self._starter.definition(chosen.workflow).workflow_id
        version = (isinstance(chosen.workflow, SavedWorkflow) and chosen.workflow.version) or ""
        options = self._config.execution.replace(**chosen.changes)
        spec = ScheduleSpec(schedule, workflow_id, version, self._codec.encode((call.args, dict(call.kwargs))), options)
        now = self._backend.clock.now()
        there = self._find(name)
        if there is not None and not replace:
            raise ScheduleExists(name)
        if there is None or self._is_damaged(there):
            state = machine.begin(schedule, now)
            wake = machine.decide(name, schedule, state, now).wake
            number = 1 if there is None else there.version + 1
            record = ScheduleRecord(name, encode_plan(spec), encode_state(state), number, wake, now)
            self._backend.save_schedule(record)
        else:
            self._change(name, lambda known, state: machine.changed(known.schedule, schedule, state, now), spec=spec)
        return self.get(name)

    def get(self, name: str) -> ScheduleInfo:
        """Return one schedule. Raises ScheduleNotFound."""
        return self._infos([self._record(name)])[0]

    def list(self) -> list[ScheduleInfo]:
        """Return all schedules, by name."""
        return [*self._infos(self._records())]

    def pause(self, name: str) -> None:
        """Pause a schedule until :meth:`resume`. Due times that pass in between are skipped."""
        self._change(name, lambda plan, state: machine.paused(state))

    def resume(self, name: str) -> None:
        """Continue with the next due time."""
        self._change(name, lambda plan, state: machine.resumed(state, self._backend.clock.now()))

    def delete(self, name: str) -> None:
        """Delete a schedule; its executions are not changed. Raises ScheduleNotFound."""
        if not self._backend.delete_schedule(name):
            raise ScheduleNotFound(name)

    def trigger(self, name: str) -> ExecutionHandle[Any]:
        """Start the schedule's workflow now, and return a handle on the execution."""
        execution_id = machine.manual_id(name, uuid.uuid4().hex[:12])
        start = DueStart(execution_id, self._backend.clock.now())
        self._change(name, lambda plan, state: machine.started(state, execution_id), starts=lambda *_: (start,))
        return self._handles.of(execution_id)

    def backfill(self, name: str, start: Moment, end: Moment, *, limit: int = 1000) -> Sequence[ExecutionHandle[Any]]:
        """Start an execution for each past due time of a range; existing executions are not started again.

        Args:
            name: the schedule's name.
            start: the range's beginning, in seconds since the epoch or as a datetime with a time zone.
            end: its end, which does not belong to it.
            limit: maximum number of due times.

        Raises:
            ScheduleNotFound: the schedule does not exist.
            InvalidArgument: the range holds more due times than ``limit``.
        """
        span = Schedule(every=1, start_at=start, end_at=end)  # checks the moments, and makes numbers of them
        assert span.start_at is not None
        assert span.end_at is not None
        first, last = span.start_at, span.end_at

        def starts(plan: ScheduleSpec, state: ScheduleState) -> tuple[DueStart, ...]:
            return machine.backfill(
                name, plan.schedule, state, self._backend.clock.now(), start=first, end=last, limit=limit
            )

        done = self._change(name, lambda plan, state: state, starts=starts)
        return [self._handles.of(start.execution_id) for start in done]

    def _is_damaged(self, record: ScheduleRecord) -> bool:
        try:
            decode_plan(record)
            decode_state(record)
        except CorruptRecord:
            return True
        return False

    def _change(
        self,
        name: str,
        change: Callable[[ScheduleSpec, ScheduleState], ScheduleState],
        *,
        spec: ScheduleSpec | None = None,
        starts: Callable[[ScheduleSpec, ScheduleState], Sequence[DueStart]] = lambda plan, state: (),
    ) -> Sequence[DueStart]:
        """Change a schedule by compare-and-set, and return the due times that it started."""
        for _ in range(_TRIES):
            record = self._record(name)
            known, now = decode_plan(record), self._backend.clock.now()
            state = decode_state(record)
            starting = starts(known, state)
            state, used = change(known, state), spec or known
            if spec is not None:
                record = ScheduleRecord(name, encode_plan(spec), record.state, record.version, None, record.created_at)
            definition = self._backend.definition(used.workflow_id, used.version or None) if starting else None
            operation = schedule_transaction(
                record, used, definition, state, starts=starting, wake=now, now=now, codec=self._codec
            )
            [answer] = self._backend.apply([operation])
            if isinstance(answer, Done):
                self._backend.notify(answer.touched)
                return starting
            assert isinstance(answer, Rejected)
            if not isinstance(answer.error, WriterFenced):
                raise answer.error
        raise WriterFenced(f"schedule {name!r} was changed by others {_TRIES} times in a row; try again")

    def _records(self) -> Sequence[ScheduleRecord]:
        return self._backend.schedules()

    def _infos(self, records: Sequence[ScheduleRecord]) -> Sequence[ScheduleInfo]:
        return schedule_infos(
            records, self._backend.executions(unfinished_of(records)), decode_or_describe(self._codec)
        )

    def _find(self, name: str) -> ScheduleRecord | None:
        return next((record for record in self._records() if record.name == name), None)

    def _record(self, name: str) -> ScheduleRecord:
        found = self._find(name)
        if found is None:
            raise ScheduleNotFound(name)
        return found


def unfinished_of(records: Sequence[ScheduleRecord]) -> Filter:
    """Return the unfinished ones of the executions that schedules believe to run."""
    ids = tuple(name for record in records for name in _running(record))
    return Filter(ids=ids, status=_UNFINISHED, limit=max(1, len(ids)))


def _running(record: ScheduleRecord) -> tuple[str, ...]:
    try:
        return decode_state(record).running
    except CorruptRecord:
        return ()  # the list reports the damage


def schedule_infos(
    records: Sequence[ScheduleRecord], unfinished: Sequence[ExecutionRecord], decode: Callable[[bytes], Any]
) -> list[ScheduleInfo]:
    """Return schedules as they are shown.

    Args:
        records: the schedules.
        unfinished: their unfinished executions (:func:`unfinished_of`): a schedule learns of an end only at its next
            decision.
        decode: decodes inputs.
    """
    ids = {record.id for record in unfinished}
    return [_info(record, ids, decode) for record in records]


def _info(record: ScheduleRecord, unfinished: Collection[str], decode: Callable[[bytes], Any]) -> ScheduleInfo:
    try:
        plan, state = decode_plan(record), decode_state(record)
        args, kwargs = decode(plan.input)
    except (CorruptRecord, CodecError) as error:
        return ScheduleInfo(
            record.name, None, "", "", (), {}, ExecutionOptions(), paused=True, next_due=None, last_due=None,
            last_execution=None, running=(), queued_due=None, runs=0, missed=0,
            skipped=0, created_at=record.created_at, damage=str(error),
        )  # fmt: skip
    return ScheduleInfo(
        name=record.name,
        schedule=plan.schedule,
        workflow_id=plan.workflow_id,
        version=plan.version,
        args=args,
        kwargs=kwargs,
        options=plan.options,
        paused=state.paused,
        next_due=None if state.paused else state.next_due,
        last_due=state.last_due,
        last_execution=state.last_execution,
        running=tuple(name for name in state.running if name in unfinished),
        queued_due=state.queued_due,
        runs=state.runs,
        missed=state.missed,
        skipped=state.skipped,
        created_at=record.created_at,
    )
