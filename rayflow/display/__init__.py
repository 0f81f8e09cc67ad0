"""Views of executions: text for terminals, HTML for notebooks, JSON for programs.

A view follows from its arguments alone: nothing here reads the clock or the screen. All data are escaped, so that
data can neither draw on a terminal nor become part of a page.

Example:
    ``display(HTML(to_html(handle.status())))`` in a notebook, ``print(snapshot_text(handle.status()))`` elsewhere.
"""

from __future__ import annotations

from rayflow.display.as_json import summary_json, to_json
from rayflow.display.executions import Detail, list_text, snapshot_text, tree_text
from rayflow.display.formatting import Style, duration_text, failure_text, size_text, time_text, value_text
from rayflow.display.html import to_html

__all__ = [
    "Detail",
    "Style",
    "duration_text",
    "failure_text",
    "list_text",
    "size_text",
    "snapshot_text",
    "summary_json",
    "time_text",
    "to_html",
    "to_json",
    "tree_text",
    "value_text",
]
