"""The machine: workflow code as a deterministic function from events to effects.

The machine owns the workflow's coroutine and the loop on which it runs, the numbering of its steps, and the
comparison of a replay with what the journal recorded. Its owner (:mod:`rayflow.core.execution.execution`) owns time,
retries, statuses and the journal. The owner applies one event at a time. The loop then runs until no callback is
ready, and the machine returns the effects: the calls and results of the code until then. The same events in the same
order give the same effects in any process, on any day. Recovery needs nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import uuid
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from rayflow.core.events import (
    CancelRequested,
    Continued,
    DeadlinePassed,
    Entry,
    Event,
    Forked,
    RequestCompleted,
    SignalReceived,
    StageNote,
    Started,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from rayflow.core.failures import deadline_failure, failure_of
from rayflow.core.interpreter.calls import Calls, LockPermit
from rayflow.core.interpreter.compensation import Compensations
from rayflow.core.interpreter.effects import (
    ContinueAsNew,
    Dispatch,
    Effects,
    Outcome,
    Payloads,
    RejectedSignal,
    continuation_in,
)
from rayflow.core.interpreter.event_loop import CALLBACK_BUDGET, DurableLoop
from rayflow.core.interpreter.random_numbers import RandomNumbers
from rayflow.core.interpreter.replay_check import compare, describe
from rayflow.core.interpreter.signals import Awaited, ExecutionState, Signals
from rayflow.definition.context import Call, LockCall, StepCall
from rayflow.errors import Failure, NonDeterminismError, RayflowError, WorkflowStalled
from rayflow.ids import ExecutionStatus

__all__ = ["Dispatch", "Effects", "Machine", "Outcome", "Payloads", "failure_of"]


class Machine:
    """One execution's code. See the module's docstring for who owns what.

    Args:
        begin: makes the workflow's coroutine; called when ``Started`` is applied.
        execution_id: names its tasks.
        workflow_id: for the code to see.
        payloads: the codec.
        seed: of the random numbers of the execution's first run.
        check: raises TypeError if arguments do not fit the workflow, for ``continue_as_new``.
        budget: callbacks that one event may cause.
        on_unhandled: receives exceptions of tasks that were never awaited.
    """

    def __init__(
        self,
        begin: Callable[[], Coroutine[Any, Any, Any]],
        *,
        execution_id: str,
        workflow_id: str,
        payloads: Payloads,
        seed: int = 0,
        check: Callable[..., object] = lambda *args, **kwargs: None,
        budget: int = CALLBACK_BUDGET,
        on_unhandled: Callable[[str, BaseException | None], None] = lambda message, error: None,
    ) -> None:
        self.execution_id, self.workflow_id = execution_id, workflow_id
        self._begin = begin
        self._payloads = payloads
        self._check = check
        self._budget = budget
        self._on_unhandled = on_unhandled
        self._loop = self._new_loop()
        self._seed = seed
        self._random = RandomNumbers(seed)
        self._calls = Calls(self._loop, payloads, self._random.issued)
        self._effects = Effects()
        self._signals = Signals(payloads, self._reject)
        self._state = ExecutionState(payloads)
        self._undoing = Compensations()
        self._patches: dict[str, bool] = {}
        #: While an entry is replayed: the patches that were followed when it was recorded.
        self._recorded_patches: Collection[str] | None = None
        self._root: asyncio.Task[Any] | None = None
        self._cancelled: CancelRequested | None = None
        self._overdue: DeadlinePassed | None = None
        #: A new run that was asked for outside of the workflow's own task, which is cancelled for it.
        self._continues: ContinueAsNew | None = None
        self._closing = False
        #: Numbers of the tasks that were cancelled at the workflow's end. The tasks themselves would be held.
        self._told: set[int] = set()
        self._unissued: RuntimeError | None = None
        self._decided: Outcome | None = None
        self.outcome: Outcome | None = None

    def _new_loop(self) -> DurableLoop:
        return DurableLoop(  # type: ignore[abstract]
            execution=self, name=self.execution_id, budget=self._budget, on_unhandled=self._report
        )

    # --- what its owner calls ------------------------------------------------------------------------------
    @property
    def issued(self) -> int:
        """The number of steps issued so far; the newest step has this number."""
        return self._calls.issued

    def is_open(self, seq: int) -> bool:
        """Whether the code still waits for that call."""
        return self._calls.is_open(seq)

    @property
    def held_locks(self) -> list[LockPermit]:
        """The permits that the code has."""
        return self._calls.held

    @property
    def awaited_signals(self) -> list[Awaited]:
        """The signals that the code waits for."""
        return self._signals.awaited()

    def final_state(self) -> dict[str, bytes]:
        """Return the state that the code has set, for another run."""
        return self._state.encoded()

    def next_seed(self) -> int:
        """Return the seed of the execution's next run."""
        return self._random.next_seed()

    def next_timer(self) -> tuple[float, int] | None:
        """When the earliest timer is due, and its number."""
        return None if self.outcome else self._loop.next_timer()

    def apply(self, event: Event) -> Effects:
        """Apply one event, run the code until it waits again, and answer what it did.

        Raises:
            NonDeterminismError: the event belongs to a step or timer that the code did not make.
        """
        effects = self._effects = self._calls.effects = Effects()
        if self.outcome is not None:
            return effects
        self._loop.advance(event.at)
        try:
            self._feed(event)
            self._loop.drain()
            self._finish()
            if self.outcome is None:
                self._loop.check_cancelled()
        except WorkflowStalled as error:
            self._give_up(Outcome(ExecutionStatus.FAILED, failure=failure_of(error)), event.at)
        effects.state.update(self._state.take())
        return effects

    def replay(self, entries: Sequence[Entry]) -> list[Dispatch]:
        """Apply recorded entries; answer the steps that are still unanswered, in the order they were issued.

        Raises:
            NonDeterminismError: the code took another path than the recorded one.
        """
        self._calls.answered = {
            e.event.step for e in entries if isinstance(e.event, StepCompleted | StepFailed | RequestCompleted)
        }
        waiting: dict[int, Dispatch] = {}
        for entry in entries:
            if self.outcome is not None:
                raise NonDeterminismError(
                    expected=f"{describe(entry.event)} to be waited for",
                    seen=f"the workflow's end ({self.outcome.status})",
                    position=entry.seq,
                )
            self._recorded_patches = entry.patches
            effects = self.apply(entry.event)
            try:
                compare(entry, effects)
            except NonDeterminismError as error:
                if self._loop.conflict is not None:  # which explains the difference
                    raise self._loop.conflict from error
                raise
            waiting.update((d.seq, d) for d in effects.dispatches)
        self._calls.answered, self._recorded_patches = frozenset(), None
        return [dispatch for seq, dispatch in waiting.items() if self._calls.is_open(seq)]

    def anew(self) -> Machine:
        """Another machine of the same code, in which nothing has happened."""
        return Machine(
            self._begin,
            execution_id=self.execution_id,
            workflow_id=self.workflow_id,
            payloads=self._payloads,
            seed=self._seed,
            check=self._check,
            budget=self._budget,
            on_unhandled=self._on_unhandled,
        )

    def evict(self) -> None:
        """Drop the code: its clean-up runs, but nothing that it issues happens."""
        self._loop.evict(quiet=self.outcome is None)

    # --- what the code calls, through rayflow.definition.context --------------------------------------------
    async def call(self, call: Call) -> Any:
        """Issue a call and wait for its recorded outcome."""
        await self._may_issue()
        return await self._calls.wait_for(self._calls.issue(call))

    async def lock(self, call: LockCall) -> LockPermit:
        """Claim a permit and wait until it is granted."""
        await self._may_issue()
        return await self._calls.lock(call)

    async def _undo(self, call: StepCall, payload: bytes) -> Any:
        return await self._calls.wait_for(self._calls.issue(call, payload, undo=True))

    async def _may_issue(self) -> None:
        if self._loop.dead or self._closing:
            self._refuse()
            await self._loop.create_future()  # for ever: this code swallows refusals

    async def receive(self, name: str, annotation: Any) -> Any:
        """Take the next signal of a name."""
        return await self._signals.receive(name, annotation)

    def _reject(self, rejected: RejectedSignal) -> None:
        self._effects.rejected.append(rejected)

    def compensate(self, call: StepCall) -> None:
        """Have a step run if the workflow does not complete."""
        if self._loop.dead or self._closing or self._undoing.begun:
            self._refuse()
            return
        self._undoing.add(call, self._payloads.encode([list(call.args), dict(call.kwargs)]))
        self._effects.undos.append(call.name)

    def continue_as_new(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> NoReturn:
        """End this run."""
        if self._undoing:
            raise RuntimeError(
                f"{len(self._undoing)} compensations are registered, which a new run would forget: continue as new "
                "where no compensation is needed"
            )
        if self._root is None or self._root.done():
            raise RuntimeError(
                "rf.continue_as_new() was called after the workflow's end; call it in the workflow itself"
            )
        self._check(*args, **kwargs)
        continues = ContinueAsNew(self._payloads.encode((args, dict(kwargs))))
        if asyncio.current_task() is not self._root:
            self._continues = self._continues or continues
            self._root.cancel("the workflow continues as new")
        raise continues

    def patched(self, change: str) -> bool:
        """Whether the code is to behave as changed."""
        followed = self._patches.get(change)
        if followed is None:
            followed = self._recorded_patches is None or change in self._recorded_patches
            self._patches[change] = followed
            if followed:
                self._effects.patches.append(change)
        return followed

    def now(self) -> float:
        """Seconds since the epoch, as of the event being applied."""
        return self._loop.time()

    @property
    def random(self) -> random.Random:
        """The execution's own random numbers."""
        return self._random.generator

    def uuid4(self) -> uuid.UUID:
        """Return a random UUID from the execution's own random numbers."""
        return uuid.UUID(int=self._random.generator.getrandbits(128), version=4)

    @property
    def state(self) -> ExecutionState:
        """The state, for the code to see and to set."""
        if self._loop.dead or self._closing:
            self._refuse()
            return ExecutionState(self._payloads)  # a copy that is discarded
        return self._state

    def stage(self, index: int, name: str, status: str, result: Any = None) -> None:
        """Record what happened to a declared step."""
        if self._loop.dead or self._closing:
            self._refuse()
            return
        encoded = None if result is None else self._payloads.encode(result)
        self._effects.stages.append(StageNote(index, name, status, encoded))

    def _report(self, message: str, error: BaseException | None) -> None:
        if self._recorded_patches is None:  # a replay repeats errors that were already reported
            self._on_unhandled(message, error)

    # --- inside --------------------------------------------------------------------------------------------
    def _refuse(self) -> None:
        if self._loop.dead:
            self._loop.refuse("this execution was set aside while its code ran; nothing more can be issued in it")
            return
        try:
            self._loop.refuse(
                "the clean-up of an async generator ran after the workflow's end, when nothing can be issued any more; "
                "use `async with contextlib.aclosing(...)` so that it is closed while the workflow runs"
            )
        except RuntimeError as refused:
            self._unissued = self._unissued or refused
            raise

    def _feed(self, event: Event) -> None:
        match event:
            case StepCompleted() | StepFailed() | RequestCompleted():
                self._calls.answer(event)
            case SignalReceived():
                self._signals.deliver((event,))
            case TimerFired():
                if not self._loop.timer_alive(event.timer):
                    raise NonDeterminismError(
                        expected=f"timer {event.timer} to be waiting", seen="no such timer", position=event.timer
                    )
                self._loop.fire(event.timer)
            case Continued():
                self._random.continued(event.seed)
                self._state.load(event.state)
                self._signals.deliver(event.signals)
            case Started():
                self._root = self._loop.create_task(self._begin(), context=contextvars.Context())
            case Forked():
                self._calls.disown()
                self._random.forked(event.before, event.seed)
                self._state.load(event.state)
            case CancelRequested():
                self._cancelled = self._cancelled or event
                self._cancel(event.reason or "the execution was cancelled")
            case DeadlinePassed():
                self._overdue = event
                self._cancel("the execution's time is up")
            case _:
                raise TypeError(f"{type(event).__name__} is not applied to workflow code")

    def _cancel(self, message: str) -> None:
        if self._root is None or self._undoing.begun:
            return
        self._loop.ending = True
        if self._root.done():  # what it left running is still cleaning up, and is asked once more
            for task in self._loop.pending_tasks():
                task.cancel(message)
        self._root.cancel(message)

    def _finish(self) -> None:
        """End, if the code has: once what it left running has cleaned up, and what it did is undone if it has to be."""
        if self._root is None or not (self._root.done() or self._decided):
            return
        if not self._undoing.begun:
            self._cancel_leftovers()
            if self._loop.pending_tasks():
                return
            self._decided = self._outcome(self._root)
            if self._undoing and self._decided.status in {ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}:
                self._begin_to_undo()
        if self._loop.pending_tasks():
            return
        self._closing = True
        self._loop.close_generators()
        self._loop.drain()
        decided = self._decided
        assert decided is not None
        if self._unissued is not None and decided.failure is None:
            decided = Outcome(ExecutionStatus.FAILED, failure=failure_of(self._unissued))
        self._end(decided)

    def _cancel_leftovers(self) -> None:
        # As asyncio.run does: what the workflow left running is cancelled, and may still clean up, durably.
        self._loop.ending = True
        while untold := [task for task in self._loop.pending_tasks() if task.number not in self._told]:
            self._told.update(task.number for task in untold)
            for task in untold:
                task.cancel("the workflow ended")
            del untold, task
            self._loop.drain()

    def _begin_to_undo(self) -> None:
        self._loop.create_task(self._undoing.run(self._undo), context=contextvars.Context())
        self._loop.drain()

    def _give_up(self, outcome: Outcome, now: float) -> None:
        """End without the code, which never settles; run its compensations on a separate loop."""
        if not self._undoing or self._undoing.begun:
            self._end(outcome)
            return
        self._calls.drop_all()
        self._loop.evict()
        self._loop = self._calls.loop = self._new_loop()
        self._loop.advance(now)
        self._decided = outcome
        self._begin_to_undo()
        self._finish()

    def _end(self, outcome: Outcome) -> None:
        self.outcome = self._effects.outcome = replace(
            outcome, unconsumed=self._signals.unconsumed(), compensated=self._undoing.begun
        )
        self._calls.drop_all()
        self.evict()

    def _outcome(self, root: asyncio.Task[Any]) -> Outcome:
        if self._decided is not None:
            return self._decided
        error = asyncio.CancelledError() if root.cancelled() else root.exception()
        if self._overdue is not None:
            return Outcome(ExecutionStatus.FAILED, failure=deadline_failure(self._overdue))
        continues = continuation_in(error)
        if continues is None and (error is None or isinstance(error, asyncio.CancelledError)):
            continues = self._continues
        if self._cancelled is not None and (error is None or continues or isinstance(error, asyncio.CancelledError)):
            reason = Failure(type="ExecutionCancelled", message=self._cancelled.reason, retryable=False)
            return Outcome(ExecutionStatus.CANCELLED, failure=reason)
        if continues is not None:
            return Outcome(ExecutionStatus.RUNNING, result=continues.payload)
        if error is not None:
            return Outcome(ExecutionStatus.FAILED, failure=failure_of(error, self._calls.failed))
        try:
            return Outcome(ExecutionStatus.COMPLETED, result=self._payloads.encode(root.result()))
        except RayflowError as unwritable:
            return Outcome(ExecutionStatus.FAILED, failure=failure_of(unwritable))
