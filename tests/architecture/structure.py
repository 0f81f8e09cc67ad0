"""Measures of the package: size, imports, files of each actor, prose, and the files on the path of one step.

``make structure`` prints them. ``python -m tests.architecture.structure --write`` also writes them into
docs/architecture.md.
"""

from __future__ import annotations

import re
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from tests.architecture import prose
from tests.architecture.step_path import step_path
from tests.architecture.test_sizes import ACTORS, code_lines
from tests.architecture.tree import ROOT, circles, floors, modules, room_graphs

PAGE = ROOT / "docs" / "architecture.md"
BLOCK = re.compile(r"(?<=<!-- make structure -->\n\n```text\n).*?(?=^```)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Folder:
    """Measures of one folder.

    Args:
        folder: its path, relative to the root.
        files: Python files in it, at any depth.
        lines: their lines.
        code: those of them that hold code: no docstrings, comments or blank lines.
        rooms: modules and folders directly in it.
        arrows: pairs of rooms of which one imports the other; imports in functions and for type checkers count.
        floors: the longest chain of such imports, in rooms.
        circles: groups of rooms that import each other.
    """

    folder: str
    files: int
    lines: int
    code: int
    rooms: int
    arrows: int
    floors: int
    circles: int


def folders(root: Path) -> list[Folder]:
    """Return the measures of each folder of the package."""
    known = modules(root)
    sizes = {}
    for module in known.values():
        text = (root / module.path).read_text(encoding="utf-8")
        sizes[module.path] = (len(text.splitlines()), code_lines(text))
    found = []
    for name, graph in room_graphs(known).items():
        folder = Path(*name.split("."))
        inside = [size for path, size in sizes.items() if folder in path.parents]
        found.append(
            Folder(
                folder=folder.as_posix(),
                files=len(inside),
                lines=sum(lines for lines, _ in inside),
                code=sum(code for _, code in inside),
                rooms=len(graph),
                arrows=sum(len(targets) for targets in graph.values()),
                floors=floors(graph),
                circles=len(circles(graph)),
            )
        )
    return found


def table(measured: list[Folder]) -> str:
    """Return the measures of folders as a table, with one column for each field."""
    rows = [tuple(field.name for field in fields(Folder))]
    rows += [tuple(str(value) for value in astuple(folder)) for folder in measured]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:{width}}" + "".join(f"{cell:>8}" for cell in row[1:]) for row in rows)


def stable(text: str) -> dict[str, tuple[str, str]]:
    """Return (floors, circles) of each folder, as a printed table shows them."""
    return {
        cells[0]: (cells[-2], cells[-1])
        for line in text.splitlines()
        if len(cells := line.split()) == len(fields(Folder)) and all(cell.isdecimal() for cell in cells[1:])
    }


def report(root: Path) -> str:
    """Return all measures as text."""
    measured = prose.measure(root)
    path = step_path()
    actors = ", ".join(f"{name} {_actor_files(root, name)}" for name in ACTORS)
    parts = [
        table(folders(root)),
        f"files of each actor: {actors}",
        f"vague phrases: {prose.rate(measured):.0f} per 10,000 words of {sum(part.words for part in measured):,}",
        f"files on the path of one step: {len(set().union(*path.values()))}",
    ]
    parts += [f"{leg}: {len(files)}\n{_by_folder(files)}" for leg, files in path.items()]
    return "\n\n".join(parts) + "\n"


def _actor_files(root: Path, actor: str) -> int:
    return len([file for file in (root / "rayflow" / "runtime" / actor).glob("*.py") if file.stem != "__init__"])


def _by_folder(files: list[str]) -> str:
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(Path(file).parent.as_posix(), []).append(Path(file).stem)
    return "\n".join(f"  {folder}: {' '.join(names)}" for folder, names in found.items())


def main(arguments: list[str]) -> None:
    """Print the measures; with --write, put them into the page of the architecture as well."""
    text = report(ROOT)
    print(text, end="")
    if "--write" in arguments:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(BLOCK.sub(lambda _: text, page, count=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
