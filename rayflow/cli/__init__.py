"""Command line of rayflow: ``rayflow run``, ``list``, ``show``, ``resume`` and others; see ``rayflow --help``.

Exit codes: 0 completed, 1 failed, 2 wrong usage, 3 cancelled, 4 stopped waiting (the execution continues),
130 interrupted. ``list``, ``show``, ``workflows``, ``lock list``, and ``list`` and ``show`` of schedules and dead
letters only read the store: they need no Ray and start nothing.
"""

from __future__ import annotations

from rayflow.cli.commands import main

__all__ = ["main"]
