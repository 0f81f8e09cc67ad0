"""Errors of a test itself, as opposed to failures of an execution."""

from __future__ import annotations

from rayflow.errors import RayflowError


class WorkflowStuck(RayflowError):
    """The test waits for something that cannot happen: nothing is running, and no timer is due.

    In real time, the test would hang.
    """

    def __init__(self, who: str, *, why: str, hint: str) -> None:
        self.who = who
        self.why = why
        super().__init__(f"{who} cannot continue: {why}. {hint}")


class UnscriptedStep(RayflowError):
    """A step was called without a script in ``strict`` mode, or its script has no results left.

    The error is raised where the test waits, even if the workflow's code catches the step's failure.
    """

    retryable = False

    def __init__(self, step: str, *, execution_id: str, arguments: str, why: str) -> None:
        self.step = step
        self.execution_id = execution_id
        super().__init__(
            f"step {step!r} of execution {execution_id!r} was called with {arguments}, but {why}. Set its result "
            f"with env.script({step!r}, returns=…), raises=… or side_effect=…"
        )
