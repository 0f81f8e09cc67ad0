"""Interpreter of workflow code: a deterministic function from events to effects.

The machine owns the workflow's coroutine, its event loop, the numbers of its calls, and the comparison of a replay with
the journal. The execution (:mod:`rayflow.core.execution.execution`) owns time, retries, statuses and the journal.
The machine applies one event at a time and then runs the loop until no callback is ready. The effects are what the code
did in between. The same events in the same order give the same effects in any process, which is what recovery needs.
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
from rayflow.core.interpreter.context_variables import ContextVariables
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
    """The code of one run of an execution.

    Args:
        begin: returns the workflow's coroutine; called when ``Started`` is applied.
        execution_id: id of the execution, and prefix of its tasks' names.
        workflow_id: id of the workflow, for the code to read.
        payloads: codec of arguments, results and state.
        seed: seed of the random numbers of the first run.
        check: raises TypeError if arguments do not fit the workflow, for ``continue_as_new``.
        budget: maximum number of callbacks that one event may cause.
        on_unhandled: receives a message and the exception, for everything that the code does not handle.
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
        self._payloads, self._check = payloads, check
        self._budget = budget
        self._on_unhandled = on_unhandled
        self._loop = self._new_loop()
        self._seed = seed
        self._random = RandomNumbers(seed)
        self._variables = ContextVariables(payloads, self._report)
        self._calls = Calls(self._loop, payloads, self._variables, self._random.issued)
        self._effects = Effects()
        self._signals = Signals(payloads, self._reject)
        self._state = ExecutionState(payloads)
        self._compensations = Compensations()
        self._patches: dict[str, bool] = {}
        #: During a replay, the patches of the entry being applied; None otherwise.
        self._recorded_patches: Collection[str] | None = None
        self._root: asyncio.Task[Any] | None = None
        self._cancelled: CancelRequested | None = None
        self._overdue: DeadlinePassed | None = None
        #: A new run that another task than the workflow's own has asked for; the workflow's task is cancelled for it.
        self._continues: ContinueAsNew | None = None
        self._closed = False
        #: Numbers of the tasks that were cancelled at the workflow's end. Not the tasks, which would be kept alive.
        self._leftovers: set[int] = set()
        self._refusal: RuntimeError | None = None
        self._decided: Outcome | None = None
        self.outcome: Outcome | None = None

    def _new_loop(self) -> DurableLoop:
        return DurableLoop(  # type: ignore[abstract]
            execution=self, name=self.execution_id, budget=self._budget, on_unhandled=self._report
        )

    @property
    def issued(self) -> int:
        """Number of calls issued so far, and the number of the newest one."""
        return self._calls.issued

    def is_open(self, seq: int) -> bool:
        """Return whether the code still waits for that call."""
        return self._calls.is_open(seq)

    @property
    def held_locks(self) -> list[LockPermit]:
        """Permits of locks that the code holds."""
        return self._calls.held

    @property
    def awaited_signals(self) -> list[Awaited]:
        """Signals that the code waits for."""
        return self._signals.awaited()

    def final_state(self) -> dict[str, bytes]:
        """Return the encoded state, for the next run."""
        return self._state.encoded()

    def next_seed(self) -> int:
        """Return the seed of the execution's next run."""
        return self._random.next_seed()

    def next_timer(self) -> tuple[float, int] | None:
        """Return when the earliest timer is due, and its number."""
        return None if self.outcome else self._loop.next_timer()

    def apply(self, event: Event) -> Effects:
        """Apply one event, run the code until it waits again, and return what it did.

        Raises:
            NonDeterminismError: if the code has not issued the call, or made the timer, that the event is about.
        """
        effects = self._effects = self._calls.effects = Effects()
        if self.outcome is not None:
            return effects
        self._loop.advance(event.at)
        try:
            self._apply_to_code(event)
            self._loop.drain()
            self._finish()
            if self.outcome is None:
                self._loop.check_cancelled()
        except WorkflowStalled as error:
            self._end_stalled(Outcome(ExecutionStatus.FAILED, failure=failure_of(error)), event.at)
        effects.state.update(self._state.take())
        return effects

    def replay(self, entries: Sequence[Entry]) -> list[Dispatch]:
        """Apply recorded entries, and return the calls without a recorded outcome, in the order of their numbers.

        Raises:
            NonDeterminismError: if the code did something else than the entries record.
            SideEffectError: if that is because another execution uses an asyncio object of the code.
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
                if self._loop.conflict is not None:  # the cause of the difference
                    raise self._loop.conflict from error
                raise
            waiting.update((d.seq, d) for d in effects.dispatches)
        self._calls.answered, self._recorded_patches = frozenset(), None
        return [dispatch for seq, dispatch in waiting.items() if self._calls.is_open(seq)]

    def fresh_copy(self) -> Machine:
        """Return another machine for the same code, to which no event has been applied."""
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
        """Drop the code. Its ``finally`` blocks run, and everything that they issue is refused."""
        self._loop.evict(quiet=self.outcome is None)

    async def call(self, call: Call) -> Any:
        """Issue a call and wait for its recorded outcome."""
        await self._may_issue()
        return await self._calls.wait_for(self._calls.issue(call))

    async def lock(self, call: LockCall) -> LockPermit:
        """Claim a permit and wait until it is granted."""
        await self._may_issue()
        return await self._calls.lock(call)

    async def _run_compensation(self, call: StepCall, payload: bytes) -> Any:
        return await self._calls.wait_for(self._calls.issue(call, payload, compensation=True))

    async def _may_issue(self) -> None:
        if self._loop.dead or self._closed:
            self._refuse()
            await self._loop.create_future()  # never resolved: this code swallows refusals

    async def receive(self, name: str, annotation: Any) -> Any:
        """Take the next signal of a name."""
        return await self._signals.receive(name, annotation)

    def _reject(self, rejected: RejectedSignal) -> None:
        self._effects.rejected.append(rejected)

    def compensate(self, call: StepCall) -> None:
        """Register a step to be run if the workflow does not complete."""
        if self._loop.dead or self._closed or self._compensations.begun:
            self._refuse()
            return
        call = replace(call, context=self._variables.encoded())
        self._compensations.add(call, self._payloads.encode([list(call.args), dict(call.kwargs)]))
        self._effects.compensations.append(call.name)

    def continue_as_new(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> NoReturn:
        """End this run, so that another one begins with these arguments."""
        if self._compensations:
            raise RuntimeError(
                f"cannot continue as new: {len(self._compensations)} compensations are registered, and a new run would "
                "forget them. Call rf.continue_as_new() where no compensation is registered"
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
        """Return whether the code follows a change: always live, and in a replay if the entry recorded it."""
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
        """Random numbers of the execution."""
        return self._random.generator

    def uuid4(self) -> uuid.UUID:
        """Return a UUID made of the execution's random numbers."""
        return uuid.UUID(int=self._random.generator.getrandbits(128), version=4)

    @property
    def state(self) -> ExecutionState:
        """State that the code publishes."""
        if self._loop.dead or self._closed:
            self._refuse()
            return ExecutionState(self._payloads)  # belongs to no execution
        return self._state

    def stage(self, index: int, name: str, status: str, result: Any = None) -> None:
        """Record what happened to a declared step."""
        if self._loop.dead or self._closed:
            self._refuse()
            return
        encoded = None if result is None else self._payloads.encode(result)
        self._effects.stages.append(StageNote(index, name, status, encoded))

    def _report(self, message: str, error: BaseException | None) -> None:
        if self._recorded_patches is None:  # a replay would report again what was reported live
            self._on_unhandled(message, error)

    def _refuse(self) -> None:
        if self._loop.dead:
            self._loop.refuse("this execution was dropped while its code ran; it can issue no more calls")
            return
        try:
            self._loop.refuse(
                "the clean-up of an async generator ran after the workflow's end, when no call can be issued; use "
                "`async with contextlib.aclosing(...)` so that the generator is closed while the workflow runs"
            )
        except RuntimeError as refused:
            self._refusal = self._refusal or refused
            raise

    def _apply_to_code(self, event: Event) -> None:
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
                self._calls.mark_locks_foreign()
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
        if self._root is None or self._compensations.begun:
            return
        self._loop.ending = True
        if self._root.done():  # the tasks that it left running are cleaning up, and are cancelled once more
            for task in self._loop.pending_tasks():
                task.cancel(message)
        self._root.cancel(message)

    def _finish(self) -> None:
        """End the run once its code has ended: after the clean-up of its tasks, and after its compensations."""
        if self._root is None or not (self._root.done() or self._decided):
            return
        if not self._compensations.begun:
            self._cancel_remaining()
            if self._loop.pending_tasks():
                return
            self._decided = self._outcome(self._root)
            if self._compensations and self._decided.status in {ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}:
                self._begin_compensations()
        if self._loop.pending_tasks():
            return
        self._closed = True
        self._loop.close_generators()
        self._loop.drain()
        decided = self._decided
        assert decided is not None
        if self._refusal is not None and decided.failure is None:
            decided = Outcome(ExecutionStatus.FAILED, failure=failure_of(self._refusal))
        self._end(decided)

    def _cancel_remaining(self) -> None:
        # As asyncio.run() does: the tasks that the workflow left running are cancelled, and may clean up durably.
        self._loop.ending = True
        while leftovers := [task for task in self._loop.pending_tasks() if task.number not in self._leftovers]:
            self._leftovers.update(task.number for task in leftovers)
            for task in leftovers:
                task.cancel("the workflow ended")
            del leftovers, task
            self._loop.drain()

    def _begin_compensations(self) -> None:
        self._loop.create_task(self._compensations.run(self._run_compensation), context=contextvars.Context())
        self._loop.drain()

    def _end_stalled(self, outcome: Outcome, now: float) -> None:
        """End without the code, which never settles. Its compensations run on a loop of their own."""
        if not self._compensations or self._compensations.begun:
            self._end(outcome)
            return
        self._calls.drop_all()
        self._loop.evict()
        self._loop = self._calls.loop = self._new_loop()
        self._loop.advance(now)
        self._decided = outcome
        self._begin_compensations()
        self._finish()

    def _end(self, outcome: Outcome) -> None:
        self.outcome = self._effects.outcome = replace(
            outcome, unconsumed=self._signals.unconsumed(), compensated=self._compensations.begun
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
