"""Fingerprints of an execution's code: the content of the source files that its workflow imports.

The client computes the fingerprint and sends it with a start; coordinators and workers compare it with the modules
that they have loaded. Its files are found by reading import statements, so that a module counts that only a worker
imports, and so that two processes which see the same files compute the same fingerprint.
"""

from __future__ import annotations

import json
import pickletools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from rayflow.definition.code import CodeRef
from rayflow.runtime.code.sources import ModuleFinder, SourceFiles, digest_of, editable

#: Seconds for which the set of files is kept while none of them changes: a new file may shadow another module.
_KEPT = 1.0

#: Characters of a string in a pickle that may be the name of a module.
_LONGEST = 200

#: Workflows whose files are remembered.
_MOST = 1_000


@dataclass(frozen=True)
class Fingerprint:
    """The source files that a workflow's code consists of.

    Args:
        files: the digest of each file, by absolute path.
    """

    files: Mapping[str, str]

    @cached_property
    def id(self) -> str:
        """Return the digest of all of them; "" if there are none."""
        return digest_of(self.to_bytes()) if self.files else ""

    def to_bytes(self) -> bytes:
        """Return the fingerprint as the store keeps it, under its id."""
        return json.dumps(self.files, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Fingerprint:
        """Return the fingerprint of :meth:`to_bytes`'s data."""
        return cls(json.loads(data))


@dataclass(slots=True)
class _Closure:
    fingerprint: Fingerprint
    looked: float


class Fingerprinter:
    """Computes fingerprints of the code on this machine's disk. Safe to share between threads."""

    def __init__(self) -> None:
        self._files = SourceFiles()
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Closure] = OrderedDict()

    def of(self, code: CodeRef, blob: Callable[[], bytes]) -> Fingerprint:
        """Return the fingerprint of a workflow's code as it is on the disk now.

        Args:
            code: where the workflow is found.
            blob: returns the code itself where it is stored by value: what it imports is named in there.
        """
        key = code.digest or code.module
        with self._lock:
            known = self._known.get(key)
            if known is not None and time.monotonic() < known.looked + _KEPT and self._unchanged(known.fingerprint):
                return known.fingerprint
            finder = ModuleFinder()
            roots = [code.module] if code.kind == "ref" else _named(finder, blob())
            found = Fingerprint(self._closure(finder, roots))
            if known is not None and known.fingerprint.files == found.files:
                found = known.fingerprint
            self._known[key] = _Closure(found, time.monotonic())
            self._known.move_to_end(key)
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
            return found

    def _unchanged(self, fingerprint: Fingerprint) -> bool:
        return all(self._files.digest(file) == digest for file, digest in fingerprint.files.items())

    def _closure(self, finder: ModuleFinder, roots: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        asked: set[str] = set()
        wanted = list(roots)
        while wanted:
            module = wanted.pop()
            if module in asked:
                continue
            asked.add(module)
            for name, file in finder.files(module):
                if file in found or not editable(file):
                    continue
                found[file] = self._files.digest(file)
                wanted.extend(self._imported(name, file, found[file]))
        return found

    def _imported(self, module: str, file: str, digest: str) -> Iterable[str]:
        package = module if file.endswith("__init__.py") else module.rpartition(".")[0]
        for level, target, names in self._files.imports(file, digest):
            base = target
            if level:
                parts = package.split(".")
                base = ".".join(filter(None, [*parts[: len(parts) - level + 1], target]))
            if base:
                yield base
                yield from (f"{base}.{name}" for name in names if name != "*")


def _named(finder: ModuleFinder, blob: bytes) -> list[str]:
    """Return what may be names of modules in a pickle: a function names there what it imports and refers to."""
    strings = {text for _, text, _ in pickletools.genops(blob) if isinstance(text, str) and len(text) <= _LONGEST}
    names = sorted(text for text in strings if all(part.isidentifier() for part in text.split(".")))
    inside = [f"{package}.{name}" for package in names if finder.is_package(package) for name in names]
    return [*names, *inside]
