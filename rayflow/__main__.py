"""``python -m rayflow``: the command line, where the ``rayflow`` command is not on the path."""

from __future__ import annotations

import sys

from rayflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
