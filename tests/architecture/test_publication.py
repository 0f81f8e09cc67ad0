"""Published files name no package registry, no private machine, and never the other project called rayflow."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

# Written in pieces, so that this file does not contain what it forbids.
_NAME = "ray" + "flow"

#: What must not be in any file, and what to write instead.
FORBIDDEN = {
    "package registry": (
        re.compile(
            r"\b(?:(?:test\.)?pypi\.org|pythonhosted\.org|registry\.npmjs\.org|docker\.io|ghcr\.io|quay\.io|gcr\.io)\b"
            r"|--(?:(?:extra-)?index-url|find-links)|PIP_(?:EXTRA_)?INDEX_URL"
        ),
        "installing takes whatever registry the reader's pip is set to",
    ),
    "home folder": (
        re.compile(r"(?<![\w.~$}])(?:/home/|/Users/|/root/|[A-Z]:\\Users\\)[A-Za-z]"),
        "write ~ or a path relative to the project",
    ),
    "other project's package": (
        re.compile(
            r"""(?:\binstall|\b(?:uv|poetry) add|["']pip["']\s*:\s*\[)"""
            rf"[^\n;&|]*?(?<![\w./@-]){_NAME}(?![\w./-])"
        ),
        f"the distribution is {_NAME}-durable; {_NAME} is the import, and on the registry somebody else's",
    ),
}


def published(root: Path) -> list[Path]:
    """Return the files that are in git, or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [file for name in listed.split("\0") if name and (file := root / name).is_file()]


def findings(root: Path, files: list[Path]) -> list[str]:
    """Return each line that must not be published, as "file:line: found text. What instead"."""
    found = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        for number, line in enumerate(text.splitlines(), 1):
            found += [
                f"{file.relative_to(root)}:{number}: {what}: {match[0]!r}. Instead: {instead}"
                for what, (pattern, instead) in FORBIDDEN.items()
                if (match := pattern.search(line)) is not None
            ]
            # The folder in which these tests run is some machine's, whatever its name.
            if re.search(rf"{re.escape(str(root))}\b", line):
                found.append(
                    f"{file.relative_to(root)}:{number}: this machine's folder: {root}. Instead: a relative path"
                )
    return found


def test_nothing_is_published_that_must_not_be() -> None:
    files = published(ROOT)
    assert ROOT / "pyproject.toml" in files
    found = findings(ROOT, files)
    assert not found, "\n".join(found)


# --- the checks themselves ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "line",
    [
        "pip install --" + "index-url https://registry.example/simple x",
        "see https://" + "pypi" + ".org/project/x",
        "image: " + "ghcr" + ".io/somebody/image",
        "cd /" + "home/somebody/project",
        'store = "sqlite:////' + 'Users/somebody/flows.db"',
        f"pip install {_NAME}",
        f"python -m pip install -U '{_NAME}[examples]>=0.1'",
        f"uv add {_NAME}",
        f'runtime_env={{"pip": ["numpy", "{_NAME}"]}}',
    ],
)
def test_a_forbidden_line_is_seen(tmp_path: Path, line: str) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"fine\n{line}\n")
    [problem] = findings(tmp_path, [file])
    assert problem.startswith("page.md:2: ")


def test_the_folder_of_this_checkout_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"cd {tmp_path}\ncd {tmp_path}er\n")
    [problem] = findings(tmp_path, [file])
    assert problem.startswith("page.md:1: this machine's folder")


@pytest.mark.parametrize(
    "line",
    [
        f"pip install {_NAME}-durable",
        f'pip install "{_NAME}-durable[examples]"',
        "pip install --editable '.[dev]'",
        f"pip install {_NAME}-durable && {_NAME} list",
        f"pip install ./{_NAME}",
        f"import {_NAME} as rf",
        "store in ~/flows.db or $HOME/flows.db, s3://bucket/home/x",
        "https://docs.ray.io/en/latest/",
    ],
)
def test_what_is_fine_is_not_reported(tmp_path: Path, line: str) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"{line}\n")
    assert findings(tmp_path, [file]) == []


def test_pictures_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(b"\x89PNG\xff")
    assert findings(tmp_path, [file]) == []
