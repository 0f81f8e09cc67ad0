"""`make structure` measures the package, and docs/architecture.md shows what it printed."""

from __future__ import annotations

from pathlib import Path

from tests.architecture.step_path import END, LEGS, NEXT, START, step_path
from tests.architecture.structure import BLOCK, PAGE, Folder, folders, stable, table
from tests.architecture.tree import ROOT


def test_the_page_shows_today_s_floors_and_circles() -> None:
    [shown] = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert stable(shown) == stable(table(folders(ROOT))), "run: python -m tests.architecture.structure --write"


def test_folders_are_measured(tmp_path: Path) -> None:
    for name, text in {
        "__init__.py": '"""Doc."""\n',
        "ids.py": "x = 1\n\n# why\ny = 2\n",
        "core/__init__.py": "",
        "core/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rayflow.core import b\n",
        "core/b.py": "from rayflow import ids\n",
        "core/c.py": "def late():\n    from rayflow.core import d\n",
        "core/d.py": "import rayflow.core.c\n",
    }.items():
        (tmp_path / "rayflow" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rayflow" / name).write_text(text)
    assert folders(tmp_path) == [
        Folder("rayflow", files=7, lines=12, code=9, rooms=2, arrows=1, floors=2, circles=0),
        Folder("rayflow/core", files=5, lines=7, code=7, rooms=4, arrows=3, floors=2, circles=1),
    ]


def test_the_stable_part_of_a_table() -> None:
    measured = [Folder("rayflow", 7, 12, 9, 2, 1, 2, 0), Folder("rayflow/core", 5, 7, 7, 4, 3, 11, 1)]
    assert stable(f"{table(measured)}\n\nfiles of each actor: pool 2\n") == {
        "rayflow": ("2", "0"),
        "rayflow/core": ("11", "1"),
    }


def test_the_path_of_a_step() -> None:
    found = step_path()
    assert tuple(found) == LEGS
    assert "rayflow/client/engine.py" in found[START]
    assert "rayflow/client/engine.py" not in found[NEXT]
    assert all("rayflow/core/interpreter/machine.py" in found[leg] for leg in (START, NEXT, END))
    assert all((ROOT / file).is_file() for files in found.values() for file in files)
