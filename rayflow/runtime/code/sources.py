"""Source files that users edit: where modules are found, their digests, their imports.

Installed packages, the Python itself and rayflow are not edited while they are used, and do not count.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

#: Seconds after a file's last change for which its size and time do not prove that it is unchanged: clocks of file
#: systems are coarse, and a quick edit may keep both.
RACY = 2.0

_RAYFLOW = os.path.join(Path(__file__).resolve().parents[2], "")
#: Parts of paths below which nothing is edited: installed packages, and what Ray unpacks for jobs.
_FIXED = frozenset({"site-packages", "dist-packages", "runtime_resources"})


class Import(NamedTuple):
    """One import in a source file: ``from {"." * level}{module} import {names}``."""

    level: int
    module: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Read:
    stamp: tuple[int, int, int]
    digest: str
    #: Whether the same stamp proves the same content.
    settled: bool


def editable(path: str) -> bool:
    """Return whether a file or folder is the user's own: no part of rayflow, of a package or of Ray's resources."""
    if not os.path.isabs(path) or path.startswith(_RAYFLOW):
        return False
    if any(path.startswith(os.path.join(prefix, "")) for prefix in (sys.prefix, sys.base_prefix)):
        return False
    return _FIXED.isdisjoint(path.split(os.sep))


def digest_of(data: bytes) -> str:
    """Return the digest of a source file's content."""
    return hashlib.sha256(data).hexdigest()


class SourceFiles:
    """Digests and imports of source files, read again only after a change. Safe to share between threads."""

    def __init__(self) -> None:
        self._read: dict[str, _Read] = {}
        self._imports: dict[str, tuple[Import, ...]] = {}

    def digest(self, path: str, *, fresh: bool = False) -> str:
        """Return the digest of a file's content as of now; "" if it cannot be read.

        Args:
            path: the file.
            fresh: open the file in any case. Network file systems cache sizes and times, and check them at an open.
        """
        try:
            known = self._read.get(path)
            if known is not None and known.settled and not fresh and _stamp(path) == known.stamp:
                return known.digest
            return self._read_again(path).digest
        except OSError:
            return ""

    def imports(self, path: str, digest: str) -> tuple[Import, ...]:
        """Return the imports in a file, wherever they stand in it.

        Args:
            path: the file.
            digest: its content's, as :meth:`digest` returned it.
        """
        found = self._imports.get(digest)
        if found is None:
            try:
                found = tuple(_imports(ast.parse(Path(path).read_bytes())))
            except (OSError, SyntaxError, ValueError):
                return ()  # whoever imports the module gets the error
            self._imports[digest] = found
        return found

    def _read_again(self, path: str) -> _Read:
        stamp = _stamp(path)
        digest = digest_of(Path(path).read_bytes())
        settled = time.time() - stamp[0] / 1e9 > RACY
        found = self._read[path] = _Read(stamp, digest, settled and _stamp(path) == stamp)
        return found


def _stamp(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _imports(tree: ast.AST) -> Iterator[Import]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (Import(0, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                yield Import(level, module or "", tuple(alias.name for alias in names))
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield Import(0, name)


class ModuleFinder:
    """Finds the source files of the user's modules by name, without importing any. For one look at the disk only."""

    def __init__(self) -> None:
        here = os.getcwd()
        folders = dict.fromkeys(os.path.abspath(entry or here) for entry in sys.path)
        self._folders = [folder for folder in folders if editable(folder)]
        self._found: dict[str, tuple[str, Sequence[str]]] = {}
        self._names: dict[str, frozenset[str]] = {}

    def files(self, module: str) -> Iterator[tuple[str, str]]:
        """Yield (name, file) of a module and the packages around it, as far as they are the user's."""
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            file, inside = self._find(name)
            if file:
                yield name, file
            if not file and not inside:
                return

    def is_package(self, name: str) -> bool:
        """Return whether a name is that of a package of the user's."""
        return bool(self._find(name)[1])

    def _find(self, name: str) -> tuple[str, Sequence[str]]:
        """Return a module's file ("" if it has none) and the folders of its submodules."""
        found = self._found.get(name)
        if found is None:
            package, _, last = name.rpartition(".")
            folders = self._find(package)[1] if package else self._folders
            found = self._in(folders, last)
            if found == ("", ()) and not package:
                found = _loaded(name)
            self._found[name] = found
        return found

    def _in(self, folders: Sequence[str], last: str) -> tuple[str, Sequence[str]]:
        spaces = []
        for folder in folders:
            names = self._listed(folder)
            if last in names:
                inside = os.path.join(folder, last)
                if "__init__.py" in self._listed(inside):
                    return os.path.join(inside, "__init__.py"), (inside,)
                spaces.append(inside)
            if f"{last}.py" in names:
                return os.path.join(folder, f"{last}.py"), ()
        return "", tuple(space for space in spaces if self._listed(space))

    def _listed(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]


def _loaded(name: str) -> tuple[str, Sequence[str]]:
    """Find a top-level module that came from no folder of the import path, as editable installations do."""
    module = sys.modules.get(name)
    file = str(getattr(module, "__file__", None) or "")
    folders = tuple(str(folder) for folder in getattr(module, "__path__", None) or ())
    if file.endswith(".py") and editable(file):
        return file, folders
    return "", tuple(folder for folder in folders if not file and editable(folder))
