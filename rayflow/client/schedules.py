"""Schedules: workflows that are started by themselves, at the times of a cron expression or at an interval."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayflow.client.views import tolerant
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.schedules import machine
from rayflow.core.schedules.due_times import check_name
from rayflow.core.schedules.machine import DueStart, ScheduleState
from rayflow.definition.options import ExecutionOptions
from rayflow.definition.schedule import Moment, Schedule
from rayflow.errors import CodecError, CorruptRecord, DefinitionError, ScheduleNotFound, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.codec.schedules import ScheduleSpec, decode_plan, decode_state, encode_plan, encode_state
from rayflow.storage.model import ExecutionRecord, ScheduleRecord
from rayflow.storage.operations import Done, Rejected
from rayflow.storage.rules.starts import fired

if TYPE_CHECKING:
    from rayflow.client.forks import AnyWorkflow, Control
    from rayflow.client.handle import ExecutionHandle

#: How often a change is tried again because the supervisor, or somebody else, changed the schedule meanwhile.
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
        args: the workflow's arguments, as plain data where their classes are not at hand.
        kwargs: its keyword arguments, likewise.
        options: how its executions run.
        paused: whether it starts nothing.
        next_due: its next due time, in seconds since the epoch; None if there is none any more, or while it is paused.
        last_due: the newest one that was decided on.
        last_execution: id of the newest execution.
        running: ids of its executions that are not over.
        queued_due: the due time that waits for the running one's end, under ``"queue_one"``.
        runs: due times that started an execution.
        missed: due times that were too late to be started.
        skipped: due times that were not started because of another execution or a pause.
        created_at: when it was made.
        damage: why its record in the store cannot be read, which holds up only this schedule; then all but the name
            is empty, and deleting it, or creating it anew with ``replace=True``, mends it.
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
    """The schedules of an engine's store: ``engine.schedules``. They are kept in the store, and outlive the engine.

    Args:
        engine: the engine.
        codec: writes inputs.

    Example:
        >>> engine.schedules.create("nightly", report, rf.Schedule(cron="0 2 * * *"))  # doctest: +SKIP
    """

    def __init__(self, engine: Control, codec: MsgpackCodec) -> None:
        self._engine = engine
        self._codec = codec

    def create(
        self,
        name: str,
        workflow: AnyWorkflow | str,
        schedule: Schedule,
        *,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: ExecutionOptions | None = None,
        version: str = "",
        replace: bool = False,
    ) -> ScheduleInfo:
        """Make a schedule.

        Args:
            name: its name; its executions are called ``<name>@<due time>``.
            workflow: the workflow, or the id of a saved one.
            schedule: when it is started.
            args: the workflow's arguments.
            kwargs: its keyword arguments.
            options: how its executions run.
            version: the version of the workflow; "" for the one that was saved last by then.
            replace: change the schedule if there is one of that name; what it has decided on stays.

        Raises:
            DefinitionError: the name does not fit, or is taken.
            WorkflowNotRegistered: there is no such workflow.
            TypeError: the arguments do not fit.
        """
        check_name(name)
        if isinstance(workflow, str):
            workflow_id = self._engine.saved(workflow, version or None).workflow_id
        else:
            workflow.bind(*args, **(kwargs or {}))
            workflow_id = self._engine.register(workflow).workflow_id
            if version:
                self._engine.saved(workflow_id, version)
        data = self._codec.encode((args, dict(kwargs or {})))
        plan = ScheduleSpec(schedule, workflow_id, version, data, options or self._engine.config.execution)
        now = self._engine.clock.now()
        there = self._find(name)
        if there is not None and not replace:
            raise DefinitionError(
                f"there is a schedule {name!r} already: change it with replace=True (--replace), or delete it"
            )
        if there is None or self._is_damaged(there):
            state = machine.begin(schedule, now)
            wake = machine.decide(name, schedule, state, now).wake
            number = 1 if there is None else there.version + 1
            record = ScheduleRecord(name, encode_plan(plan), encode_state(state), number, wake, now)
            self._engine.ask_once("save_schedule", record)
        else:
            self._change(name, lambda known, state: machine.changed(known.schedule, schedule, state, now), plan=plan)
        return self.get(name)

    def get(self, name: str) -> ScheduleInfo:
        """One schedule. Raises ScheduleNotFound."""
        return self._infos([self._record(name)])[0]

    def list(self) -> list[ScheduleInfo]:
        """All schedules, by name."""
        return [*self._infos(self._records())]

    def pause(self, name: str) -> None:
        """Start nothing any more, until :meth:`resume`. Due times that pass meanwhile are skipped."""
        self._change(name, lambda plan, state: machine.paused(state))

    def resume(self, name: str) -> None:
        """Go on with the next due time."""
        self._change(name, lambda plan, state: machine.resumed(state, self._engine.clock.now()))

    def delete(self, name: str) -> None:
        """Forget a schedule; its executions stay as they are. Raises ScheduleNotFound."""
        if not self._engine.ask_once("delete_schedule", name):
            raise ScheduleNotFound(name)

    def trigger(self, name: str) -> ExecutionHandle[Any]:
        """Start its workflow now, whatever its times; answers a handle on the execution."""
        execution_id = machine.manual_id(name, uuid.uuid4().hex[:12])
        start = DueStart(execution_id, self._engine.clock.now())
        self._change(name, lambda plan, state: machine.started(state, execution_id), starts=lambda *_: (start,))
        return self._engine.handle(execution_id)

    def backfill(self, name: str, start: Moment, end: Moment, *, limit: int = 1000) -> Sequence[ExecutionHandle[Any]]:
        """Start an execution for each due time of a range that has passed; those that there are already stay.

        Args:
            name: the schedule's name.
            start: the range's beginning, in seconds since the epoch or as a datetime with a time zone.
            end: its end, which does not belong to it.
            limit: due times at most.

        Raises:
            ScheduleNotFound: there is no such schedule.
            DefinitionError: the range holds more due times than that.
        """
        span = Schedule(every=1, start_at=start, end_at=end)  # checks the moments, and makes numbers of them
        assert span.start_at is not None
        assert span.end_at is not None
        first, last = span.start_at, span.end_at

        def starts(plan: ScheduleSpec, state: ScheduleState) -> tuple[DueStart, ...]:
            return machine.backfill(
                name, plan.schedule, state, self._engine.clock.now(), start=first, end=last, limit=limit
            )

        done = self._change(name, lambda plan, state: state, starts=starts)
        return [self._engine.handle(start.execution_id) for start in done]

    # --- inside --------------------------------------------------------------------------------------------
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
        plan: ScheduleSpec | None = None,
        starts: Callable[[ScheduleSpec, ScheduleState], Sequence[DueStart]] = lambda plan, state: (),
    ) -> Sequence[DueStart]:
        """Change a schedule by compare-and-set; answers what was started."""
        for _ in range(_TRIES):
            record = self._record(name)
            known, now = decode_plan(record), self._engine.clock.now()
            state = decode_state(record)
            starting = starts(known, state)
            state, used = change(known, state), plan or known
            if plan is not None:
                record = ScheduleRecord(name, encode_plan(plan), record.state, record.version, None, record.created_at)
            definition = self._engine.saved(used.workflow_id, used.version or None) if starting else None
            operation = fired(record, used, definition, state, starts=starting, wake=now, now=now, codec=self._codec)
            [answer] = self._engine.send([operation])
            if isinstance(answer, Done):
                self._engine.nudge(answer.touched)
                return starting
            assert isinstance(answer, Rejected)
            if not isinstance(answer.error, WriterFenced):
                raise answer.error
        raise WriterFenced(f"schedule {name!r} was changed by others {_TRIES} times in a row; try again")

    def _records(self) -> Sequence[ScheduleRecord]:
        found: Sequence[ScheduleRecord] = self._engine.ask("schedules")
        return found

    def _infos(self, records: Sequence[ScheduleRecord]) -> Sequence[ScheduleInfo]:
        found: Sequence[ExecutionRecord] = self._engine.ask("executions", unfinished_of(records))
        return schedule_infos(records, found, tolerant(self._codec))

    def _find(self, name: str) -> ScheduleRecord | None:
        return next((record for record in self._records() if record.name == name), None)

    def _record(self, name: str) -> ScheduleRecord:
        found = self._find(name)
        if found is None:
            raise ScheduleNotFound(name)
        return found


def unfinished_of(records: Sequence[ScheduleRecord]) -> Filter:
    """The executions that schedules take for running, as far as they are not over."""
    ids = tuple(name for record in records for name in _running(record))
    return Filter(ids=ids, status=_UNFINISHED, limit=max(1, len(ids)))


def _running(record: ScheduleRecord) -> tuple[str, ...]:
    try:
        return decode_state(record).running
    except CorruptRecord:
        return ()  # whoever lists it says so


def schedule_infos(
    records: Sequence[ScheduleRecord], unfinished: Sequence[ExecutionRecord], decode: Callable[[bytes], Any]
) -> list[ScheduleInfo]:
    """Schedules as people see them.

    Args:
        records: the schedules.
        unfinished: their executions that are not over (:func:`unfinished_of`): a schedule hears of an end only when
            it decides the next time.
        decode: reads inputs.
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
