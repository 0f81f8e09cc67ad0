"""Whether the code that a process has loaded is still the code on its disk.

Python imports a module once. A coordinator or worker that outlives an edit of the user's would go on with the code from
before it, without a word; so they ask here, and make room for a new process.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterable


class _Stamps:
    """Of each module that this process has imported: its file, and what that was like soon afterwards."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[str, tuple[str, tuple[int, int] | None]] = {}

    def note(self) -> None:
        """Look at what was imported since the last call."""
        for name in sys.modules.keys() - self.known.keys():
            file = getattr(sys.modules.get(name), "__file__", None)
            self.known[name] = (file, _stamp(file)) if isinstance(file, str) else ("", None)


_stamps = _Stamps()


class CodeChangeDetector:
    """The modules of some folders that this process has imported, and whether their files have changed since.

    What is installed is not edited while it is used, so only the folders of a code environment count, without a
    virtual environment that lies in one of them. A file that is gone counts as unchanged: what is loaded is all that is
    left of it. Safe to share between threads.

    Args:
        folders: modules inside of them count. A relative one lies in a package, which never changes, and does not.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = tuple(os.path.join(folder, "") for folder in folders if os.path.isabs(folder))
        self._installed = tuple(os.path.join(folder, "") for folder in (sys.prefix, sys.base_prefix))

    def note(self) -> None:
        """Look at what was imported since the last call. To be called soon after something was."""
        with _stamps.lock:
            _stamps.note()

    def changed(self) -> bool:
        """Whether a file has changed since its module was imported."""
        if not self._folders:
            return False
        with _stamps.lock:
            _stamps.note()
            mine = [(file, then) for file, then in _stamps.known.values() if then is not None and self._counts(file)]
        return any((now := _stamp(file)) is not None and now != then for file, then in mine)

    def refresh(self) -> None:
        """Forget the modules of these folders if one has changed, so that they are imported anew.

        Only for a process in which nothing of them is in use.
        """
        if not self.changed():
            return
        with _stamps.lock:
            for name in [name for name, (file, _) in _stamps.known.items() if self._counts(file)]:
                sys.modules.pop(name, None)
                del _stamps.known[name]
        importlib.invalidate_caches()

    def _counts(self, file: str) -> bool:
        return file.startswith(self._folders) and not file.startswith(self._installed)


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
