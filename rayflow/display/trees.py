"""Executions with their children as a tree, as text for terminals and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayflow.client.views import ExecutionTree
from rayflow.display.as_json import summary_json
from rayflow.display.formats import PLAIN, Style, duration_text, lasted, painted
from rayflow.display.summary import why_text
from rayflow.display.tables import Column, table, visible


def tree_text(tree: ExecutionTree, style: Style = PLAIN) -> str:
    """An execution and all that it led to, each with its status and what it waits for or failed by."""
    columns = (
        Column("EXECUTION", least=16), Column("WORKFLOW", least=8), Column("STATUS"), Column("STEP", right=True),
        Column("DURATION", right=True), Column("REASON", least=12),
    )  # fmt: skip
    rows = [_row(lines, branch, style) for lines, branch in _walk(tree, "", "")]
    return "\n".join(table(columns, rows, style.width, lambda text, cell: painted(text, cell, style)))


def _walk(branch: ExecutionTree, first: str, rest: str) -> Iterator[tuple[str, ExecutionTree | str]]:
    """Each branch with the lines in front of it, parents first; for those left out, the command that shows them."""
    yield first, branch
    for position, child in enumerate(branch.children, start=1):
        last = position == len(branch.children) and not branch.more
        yield from _walk(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
    if branch.more:
        yield f"{rest}└─ ", f"rayflow list --parent {branch.execution.execution_id}"


def _row(lines: str, branch: ExecutionTree | str, style: Style) -> list[str]:
    if isinstance(branch, str):
        return [f"{lines}… and more", "", "", "", "", visible(branch)]
    execution = branch.execution
    took = lasted(execution, style.now)
    return [
        lines + visible(execution.execution_id),
        visible(execution.workflow_id),
        str(execution.status),
        str(branch.step or ""),
        "" if took is None else duration_text(took),
        visible(why_text(execution, style)),
    ]


def tree_json(tree: ExecutionTree) -> dict[str, Any]:
    """The tree as plain JSON values: what a list shows of each, with its ``children`` and whether there are more."""
    return {
        **summary_json(tree.execution),
        "step": tree.step,
        "children": [tree_json(child) for child in tree.children],
        "more_children": tree.more,
    }
