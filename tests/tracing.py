"""A plugin of coverage: threads begin to be measured one after the other, for CPython 3.11 can't do it at once.

Its ``PyEval_SetTrace`` holds a flag of the whole process while it calls the audit hooks. Ours is Python code
(:mod:`rayflow.core.interpreter.sandbox`), so that another thread may run meanwhile; if that one is just starting, it
dies of "Cannot install a trace function while another trace function is being installed". 3.12 has no such flag any
more.

It is a plugin because programs that tests start are measured too, and know nothing of pytest.
"""

from __future__ import annotations

import functools
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from coverage.plugin_support import Plugins

    Hook = Callable[[FrameType, str, Any], object] | None


def coverage_init(reg: Plugins, options: dict[str, Any]) -> None:
    """Called by coverage before it begins to measure."""
    if sys.version_info < (3, 12):
        _take_turns()


def _take_turns() -> None:
    turn, start = threading.Lock(), threading.Thread.start
    hooks: list[Hook] = [None]

    @functools.wraps(start)
    def start_traced(thread: threading.Thread) -> None:
        run, hook = thread.run, hooks[-1]

        def traced() -> None:
            with turn:
                sys.settrace(hook)  # type: ignore[arg-type]
                _first_call()
            run()

        if hook is not None:
            thread.run = traced  # type: ignore[method-assign]
        start(thread)

    threading.settrace = hooks.append  # type: ignore[assignment]
    threading.Thread.start = start_traced  # type: ignore[method-assign, assignment]


def _first_call() -> None:
    """The hook begins to measure at the first call that it sees."""
