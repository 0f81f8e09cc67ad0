"""Recovery of executions: status, watchdog, and claims of those without a live coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rayflow.client.backend import Backend
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.cluster.recovery import CRASH_LOOP, OverdueItem, RecoveryStatus
from rayflow.errors import ClusterError, CorruptRecord, Failure, InvalidArgument, InvalidTransition
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter
from rayflow.storage.damage import failure_or_damage

#: Paused executions that are read to find the quarantined ones.
_LIMIT = 10_000


@refused_in_workflows("engine.recovery")
class RecoveryManager:
    """Shows what recovery does for an engine's executions, and starts it by hand.

    Recovery is automatic: the supervisor finds executions without a live coordinator, at once when Ray reports a
    death and otherwise by pings; coordinators enforce deadlines and timeouts; pools replace workers. These methods are
    for operators, and for engines that were opened with ``recover=False``.

    Args:
        backend: the supervisor's and coordinators' side.
        resume: resumes an execution, by its id.

    Example:
        >>> engine.recovery.recover_stale(older_than=60)  # doctest: +SKIP
        ['doc-17']
    """

    def __init__(self, backend: Backend, resume: Callable[[str], None]) -> None:
        self._backend = backend
        self._resume = resume

    def recover_stale(self, *, older_than: float = 0.0) -> list[str]:
        """Claim all unfinished executions that need a coordinator and have none.

        The tasks of an execution are recovered with it: its coordinator gives the tasks of a lost worker to another
        worker.

        Args:
            older_than: claim only executions for which nothing was recorded for this number of seconds.

        Returns:
            The ids of the claimed executions.

        Raises:
            InvalidArgument: ``older_than`` is negative.
            StorageUnavailable: the store cannot be read now.
        """
        _check_seconds("older_than", older_than)
        return self._backend.recover(None, older_than)

    def recover(self, execution_id: str) -> None:
        """Continue a failed execution from its failure, as ``engine.resume()`` does, and only a failed one.

        Args:
            execution_id: the execution's id.

        Raises:
            ExecutionNotFound: the execution does not exist.
            InvalidTransition: the execution is not failed, or its compensations have run.
        """
        status = self._backend.record(execution_id).status
        if status is not ExecutionStatus.FAILED:
            raise InvalidTransition(
                execution_id, status=status, action="recover",
                hint="It is not in failed state. Interrupted executions recover automatically; resume() a paused one",
            )  # fmt: skip
        self._resume(execution_id)

    def monitor_timeouts(self, *, grace: float = 5.0) -> list[OverdueItem]:
        """Run one pass of the watchdog over the whole store.

        A coordinator notices a deadline within milliseconds, so a healthy engine returns an empty list. An overdue
        execution without a coordinator is claimed and then ends or continues by its own rules.

        Args:
            grace: seconds after which something counts as overdue.

        Returns:
            Executions past their deadline, executions that should have been woken, and attempts past their timeout;
            the latest first.

        Raises:
            InvalidArgument: ``grace`` is negative.
            StorageUnavailable: the store cannot be read now.
        """
        _check_seconds("grace", grace)
        found = self._backend.overdue(grace)
        for name in self._backend.coordinators():
            try:
                found += self._backend.overdue_attempts(name, grace)
            except ClusterError:  # gone or hung: its executions are taken over, and checked by its successor
                continue
        return sorted(found, key=lambda one: -one.late)

    def status(self) -> RecoveryStatus:
        """Return coordinators, and executions that wait, are stale or quarantined.

        Raises:
            StorageUnavailable: the store cannot be read now.
        """
        known = self._backend.recovery_status()
        paused = self._backend.executions(Filter(status=(ExecutionStatus.PAUSED,), limit=_LIMIT))
        failures = [(record.id, failure_or_damage(record)) for record in paused]
        quarantined = tuple(name for name, failure in failures if failure is not None and _quarantines(failure))
        return replace(known, quarantined=quarantined)


def _quarantines(reason: Failure) -> bool:
    """Return whether a pause for that reason was not requested by a caller."""
    return reason.type == CRASH_LOOP or reason.matches(CorruptRecord)


def _check_seconds(name: str, value: float) -> None:
    if not value >= 0:  # also false for NaN
        raise InvalidArgument(f"{name} must be a number of seconds, 0 or more, not {value!r}")
