"""What is wrong with a test, as exceptions of its own: none of them is ever an execution's failure alone."""

from __future__ import annotations

from rayflow.errors import RayflowError


class WorkflowStuck(RayflowError):
    """Whoever waits, waits for something that cannot happen: nothing is under way, and nothing is due any more.

    Where real time passes, this would be a test that hangs.
    """

    def __init__(self, who: str, *, why: str, hint: str) -> None:
        self.who = who
        self.why = why
        super().__init__(f"{who} cannot go on by itself: {why}. {hint}")


class UnscriptedStep(RayflowError):
    """A step was called, and no script says what it answers: there is none in ``strict`` mode, or it is used up.

    It is raised where the test waits, even if the workflow's code catches the step's failure.
    """

    retryable = False

    def __init__(self, step: str, *, execution_id: str, arguments: str, why: str) -> None:
        self.step = step
        self.execution_id = execution_id
        super().__init__(
            f"step {step!r} of execution {execution_id!r} was called with {arguments}, and {why}. Say what it answers "
            f"with env.script({step!r}, returns=…), raises=… or side_effect=…"
        )
