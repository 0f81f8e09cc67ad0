"""The recovery, as an engine shows it: what nobody drives, what is overdue, and having it go on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.cluster.recovery import CRASH_LOOP, OverdueItem, RecoveryStatus
from rayflow.errors import ClusterError, CorruptRecord, DefinitionError, Failure, InvalidTransition
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter
from rayflow.storage.damage import failure_or_damage
from rayflow.storage.model import ExecutionRecord

if TYPE_CHECKING:
    from rayflow.client.control import ExecutionCommands

#: Seconds that a coordinator may take to tell what is overdue there; one that hangs is seen by its pings.
_PATIENCE = 5.0

#: Executions that are looked through for those that were set aside.
_MOST = 10_000


@refused_in_workflows("engine.recovery")
class RecoveryManager:
    """Looks at what recovers an engine's executions, and sets it going.

    None of it has to be called: the supervisor finds executions without a live coordinator by itself, at once where
    Ray tells of a death and by pings where nobody does; coordinators enforce deadlines and timeouts, pools replace
    workers. This is for those who look, and for engines that were opened with ``recover=False``.

    Args:
        engine: a :class:`DistributedEngine` or :class:`LocalEngine`; its own is ``engine.recovery``.

    Example:
        >>> engine.recovery.recover_stale(older_than=60)  # doctest: +SKIP
        ['doc-17']
    """

    def __init__(self, engine: ExecutionCommands) -> None:
        self._engine = engine

    def recover_stale(self, *, older_than: float = 0.0) -> list[str]:
        """Have all unfinished executions go on that need a coordinator and have none.

        A task is never without its execution: it goes on with it, and one whose worker is gone is given to another
        by its coordinator.

        Args:
            older_than: only those for which nothing was recorded for so many seconds.

        Returns:
            The ids of what was taken up now.

        Raises:
            DefinitionError: ``older_than`` is negative.
            StorageUnavailable: the store cannot be read now.
        """
        _check_seconds("older_than", older_than)
        taken: list[str] = self._supervisor("recover", None, older_than)
        return taken

    def recover(self, execution_id: str) -> None:
        """Let a failed execution go on from its failure, as :meth:`Engine.resume` does, and only a failed one.

        Args:
            execution_id: the execution.

        Raises:
            ExecutionNotFound: there is no such execution.
            InvalidTransition: it is not failed, or failed after its compensations ran.
        """
        status = self._engine.record(execution_id).status
        if status is not ExecutionStatus.FAILED:
            raise InvalidTransition(
                execution_id, status=status, action="recover",
                hint="It is not in failed state. What was interrupted goes on by itself; resume() what is paused",
            )  # fmt: skip
        self._engine.resume(execution_id)

    def monitor_timeouts(self, *, grace: float = 5.0) -> list[OverdueItem]:
        """One pass of the watchdog over the whole store: what is overdue, and that somebody sees to it.

        Time that is up is noticed by whoever drives the execution, within milliseconds; so a healthy engine answers
        an empty list. What is overdue with nobody driving it is taken up, and then ends or goes on by its own rules.

        Args:
            grace: seconds after which something counts as overdue.

        Returns:
            Executions past their deadline, executions that should have been woken, and attempts at steps past their
            timeout; the latest first.

        Raises:
            DefinitionError: ``grace`` is negative.
            StorageUnavailable: the store cannot be read now.
        """
        _check_seconds("grace", grace)
        found: list[OverdueItem] = self._supervisor("overdue", grace)
        for name in self._supervisor("coordinators"):
            try:
                found += self._engine.actor(name).call("overdue", grace, timeout=_PATIENCE, group="control")
            except ClusterError:  # gone or hung: then what it drives is taken over, and seen to by its successor
                continue
        return sorted(found, key=lambda one: -one.late)

    def status(self) -> RecoveryStatus:
        """What the recovery knows and does now: coordinators, and executions that wait, are stale, or set aside.

        Raises:
            StorageUnavailable: the store cannot be read now.
        """
        known: RecoveryStatus = self._supervisor("recovery")
        paused: list[ExecutionRecord] = self._engine.ask(
            "executions", Filter(status=(ExecutionStatus.PAUSED,), limit=_MOST)
        )
        failures = [(record.id, failure_or_damage(record)) for record in paused]
        aside = tuple(name for name, failure in failures if failure is not None and _sets_aside(failure))
        return replace(known, set_aside=aside)

    def _supervisor(self, method: str, *args: Any) -> Any:
        return self._engine.supervise(method, *args)


def _sets_aside(reason: Failure) -> bool:
    """Whether a pause for that reason is one that nobody asked for."""
    return reason.type == CRASH_LOOP or reason.matches(CorruptRecord)


def _check_seconds(name: str, value: float) -> None:
    if not value >= 0:  # also for what is no number
        raise DefinitionError(f"{name} must be a number of seconds that is not negative, not {value!r}")
