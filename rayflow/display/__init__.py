"""What a person sees of executions, schedules, locks, dead letters, worker pools and metrics.

Text for terminals, HTML for notebooks, JSON for programs.

Nothing here reads the clock or the screen: what is shown follows from the arguments alone. Whatever data hold is
escaped, so that it can neither draw on a terminal nor become part of a page.

Example:
    ``display(HTML(to_html(handle.status())))`` in a notebook, ``print(snapshot_text(handle.status()))`` elsewhere.
"""

from __future__ import annotations

from rayflow.display.as_json import jsonable, summary_json, to_json, workflow_json
from rayflow.display.dead_letters import letter_json, letter_text, letters_text
from rayflow.display.formats import Style, duration_text, failure_text, size_text, time_text
from rayflow.display.html import to_html
from rayflow.display.locks import lock_json, locks_text
from rayflow.display.pools import pool_json, pool_size_text, pools_text
from rayflow.display.schedules import schedule_json, schedule_text, schedules_text
from rayflow.display.tasks import task_json, tasks_text
from rayflow.display.text import Detail, list_text, metrics_text, snapshot_text, value_text, workflows_text
from rayflow.display.trees import tree_json, tree_text

__all__ = [
    "Detail",
    "Style",
    "duration_text",
    "failure_text",
    "jsonable",
    "letter_json",
    "letter_text",
    "letters_text",
    "list_text",
    "lock_json",
    "locks_text",
    "metrics_text",
    "pool_json",
    "pool_size_text",
    "pools_text",
    "schedule_json",
    "schedule_text",
    "schedules_text",
    "size_text",
    "snapshot_text",
    "summary_json",
    "task_json",
    "tasks_text",
    "time_text",
    "to_html",
    "to_json",
    "tree_json",
    "tree_text",
    "value_text",
    "workflow_json",
    "workflows_text",
]
