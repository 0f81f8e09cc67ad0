"""The demo: analyse documents on a local Ray cluster, durably, and show what was recorded.

    python examples/run_demo.py [FILE_OR_FOLDER ...] [--out FOLDER] [--local]

With no files it takes the descriptions of all packages that are installed. It leaves ``report.json`` and the store
in the output folder, and no process.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from document_analysis import analyse_documents

import rayflow as rf
from docanalysis.report import render_table, write_report


@contextlib.contextmanager
def engine_on(store: str, *, local: bool) -> Iterator[rf.DistributedEngine | rf.LocalEngine]:
    """An engine; with Ray, the local cluster is stopped afterwards if it was started here."""
    if local:
        with rf.LocalEngine(store=store) as engine:
            yield engine
        return
    from rayflow.runtime.cluster import connection

    joined = connection.status().running
    try:
        with rf.DistributedEngine(store=store) as distributed:
            yield distributed
    finally:
        if not joined:
            connection.down()


def run(paths: list[str], store: str, *, local: bool) -> tuple[str, dict[str, Any]]:
    """Run the workflow and show its progress; answers the execution's id and the report."""
    with engine_on(store, local=local) as engine:
        handle = engine.start(analyse_documents, paths)
        print(f"execution {handle.id}", flush=True)
        cursor = ""
        while not handle.done():
            time.sleep(0.5)
            progress = engine.output(handle.id, cursor)
            cursor = progress.cursor
            for line in progress.lines:
                print(f"  | {line}")
            if progress.issued:
                print(f"  {progress.completed} of {progress.issued} steps done", flush=True)
        return handle.id, handle.result()


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="files or folders; none for the installed packages' descriptions")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="where the report and the store go")
    parser.add_argument("--local", action="store_true", help="without Ray, in this process")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{(options.out / 'flows.db').resolve()}"
    began = time.perf_counter()
    execution_id, report = run([str(Path(path).resolve()) for path in options.paths], store, local=options.local)
    target = write_report(options.out / "report.json", report)
    print(render_table(report))
    print(f"\n{target} written after {time.perf_counter() - began:.1f} s\n\n$ rayflow show {execution_id}", flush=True)
    shown = subprocess.run([sys.executable, "-m", "rayflow", "show", execution_id, "--store", store], check=False)
    return shown.returncode


if __name__ == "__main__":
    sys.exit(main())
