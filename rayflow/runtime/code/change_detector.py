"""Whether the code that a process has loaded is the code that an execution asks for.

Python imports a module once. A coordinator or worker that outlives an edit would continue with the code from before it,
without a word; so it asks here, and makes room for a new process.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import cache_from_source
from types import CodeType, ModuleType
from typing import cast

from rayflow.errors import RayflowError
from rayflow.runtime.code.fingerprint import Fingerprint
from rayflow.runtime.code.sources import RACY, SourceFiles, digest_of, editable

log = logging.getLogger(__name__)

#: Seconds between two looks at the files of all loaded modules: for executions that nobody sent a fingerprint for.
LOOK = 0.2

#: Fingerprints that are remembered.
_MOST = 256


class _LoadedModules:
    """The source files from which this process has loaded modules, with the digests of what was loaded."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        #: Grows with each module that is loaded.
        self.version = 0
        self._files = SourceFiles()
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def put(self, file: str, digest: str) -> None:
        """Note what is being loaded from a file."""
        with self._lock:
            self.digests[file] = digest
            self.version += 1

    def note(self) -> None:
        """Note modules that were loaded without the recorder: before it was there, or by a loader of their own."""
        if len(sys.modules) == len(self._names):
            return
        with self._lock:
            names = set(sys.modules)
            for name in names - self._names:
                file = getattr(sys.modules.get(name), "__file__", None)
                if isinstance(file, str) and file.endswith(".py") and file not in self.digests and editable(file):
                    self.digests[file] = self._files.digest(file)
                    self.version += 1
            self._names = names

    def forget(self) -> None:
        """Forget all of these modules, so that they are imported again."""
        with self._lock:
            for name, module in list(sys.modules.items()):
                if getattr(module, "__file__", None) in self.digests:
                    del sys.modules[name]
            self.digests.clear()
            self._names.clear()
            self.version += 1
        importlib.invalidate_caches()


_loaded = _LoadedModules()


class CodeChangeDetector:
    """Compares the modules that this process has loaded with fingerprints, and with the disk.

    Args:
        fetch: returns a fingerprint as the store keeps it, by its id; raises RayflowError where that is not to be had.
        enabled: False where the process is the user's own, whose modules are the user's business.
    """

    def __init__(self, fetch: Callable[[str], bytes], *, enabled: bool) -> None:
        self._fetch = fetch
        self.enabled = enabled
        self._files = SourceFiles()
        self._fingerprints: dict[str, Fingerprint] = {}
        #: Fingerprints that hold for what is loaded, with the version of that.
        self._matching: dict[str, int] = {}
        self._lock = threading.Lock()
        self._look_at = 0.0

    def outdated(self, wanted: Iterable[str]) -> bool:
        """Return whether a module is older than what is asked for, so that a new process has to do it.

        A module that differs from a fingerprint but is what is on the disk is not older: a new process would load the
        same. Safe to call from several threads.

        Args:
            wanted: ids of fingerprints; "" asks for nothing.
        """
        if not self.enabled:
            return False
        if time.monotonic() >= self._look_at and self.edited():
            return True
        _loaded.note()
        return any(self._is_older(one) for one in wanted if one)

    def edited(self) -> bool:
        """Return whether a file is not what was loaded from it; that looks at all of them."""
        if not self.enabled:
            return False
        _loaded.note()
        found = _edited(self._files, list(_loaded.digests))
        self._look_at = 0.0 if found else time.monotonic() + LOOK
        return found

    def matches(self, wanted: str) -> bool:
        """Return whether all loaded modules that a fingerprint names are as it says."""
        return not self.changes(wanted, unloaded=False)

    def changes(self, wanted: str, *, unloaded: bool) -> list[str]:
        """Return the files that are not as a fingerprint says.

        Args:
            wanted: the fingerprint's id.
            unloaded: whether files count of which no module is loaded; they are looked at on the disk.

        Raises:
            RayflowError: the fingerprint is not to be had.
        """
        if not self.enabled:  # modules were loaded by nobody who notes it
            return self._differing(wanted, self._files.digest)
        if not unloaded and self._matching.get(wanted) == _loaded.version:
            return []
        version, loaded = _loaded.version, _loaded.digests.get
        differing = self._differing(
            wanted, lambda file: loaded(file) or (self._files.digest(file) if unloaded else None)
        )
        if not differing:
            self._matching[wanted] = version
        return differing

    def _is_older(self, wanted: str) -> bool:
        try:
            differing = self.changes(wanted, unloaded=False)
        except (RayflowError, OSError) as error:
            log.warning("fingerprint %s cannot be read, comparing all loaded modules with the disk: %s", wanted, error)
            differing = list(_loaded.digests)
        return _edited(self._files, differing, fresh=True)

    def _differing(self, wanted: str, seen: Callable[[str], str | None]) -> list[str]:
        known = self._fingerprint(wanted).files
        return [file for file, digest in known.items() if (now := seen(file)) is not None and now != digest]

    def _fingerprint(self, wanted: str) -> Fingerprint:
        known = self._fingerprints.get(wanted)
        if known is None:
            known = Fingerprint.from_bytes(self._fetch(wanted))
            with self._lock:
                self._fingerprints[wanted] = known
                if len(self._fingerprints) > _MOST:
                    first = next(iter(self._fingerprints))
                    del self._fingerprints[first]
                    self._matching.pop(first, None)
        return known


def refresh() -> None:
    """Forget all loaded modules if one was edited. Only for a process in which none of them is in use."""
    _loaded.note()
    if _edited(SourceFiles(), list(_loaded.digests)):
        _loaded.forget()


def _edited(files: SourceFiles, loaded: Sequence[str], *, fresh: bool = False) -> bool:
    """Return whether a file is not what was loaded from it. Of one that is gone, only the loaded module is left."""
    digests = _loaded.digests
    return any((now := files.digest(file, fresh=fresh)) and now != digests.get(file, now) for file in loaded)


def record_imports() -> None:
    """Have this process note the content of each source file that it loads a module from."""
    if not any(isinstance(finder, _Recorder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Recorder())


class _Recorder(MetaPathFinder):
    """Finds modules by the other finders, and has the user's source files loaded by a loader that notes them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if isinstance(finder, _Recorder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if type(spec.loader) is SourceFileLoader and editable(spec.loader.path):
                    spec.loader = _RecordingLoader(name, spec.loader.path)
                return spec
        return None


class _RecordingLoader(SourceFileLoader):
    """Loads a source file, and notes the digest of what it loaded.

    Python takes a compiled file for current by the second and the size of its source, which a quick edit may keep.
    Here, one that was written soon after its source was changed does not count.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        self.get_data(self.path)  # notes it; if the file has changed until it is compiled, that notes it again
        return super().get_code(fullname)

    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        if path == self.path:
            _loaded.put(path, digest_of(data))
        return data

    def path_stats(self, path: str) -> Mapping[str, float]:
        found = cast("Mapping[str, float]", super().path_stats(path))
        try:
            compiled = os.stat(cache_from_source(path)).st_mtime
        except OSError:
            compiled = time.time()  # it would be written now
        if compiled < found["mtime"] + RACY:
            raise OSError(f"the compiled file of {path} may be older than it seems")
        return found
