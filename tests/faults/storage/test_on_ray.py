"""Real trouble with the store, on a Ray cluster of its own.

A lock that is held, files that may not grow, a file system that is full, an S3 server that is slow, errs or is gone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayflow.runtime.cluster import connection
from tests.faults.storage.s3_proxy import proxy
from tests.runtime.cluster_fixtures import ROOT, own_environment
from tests.storage.objects.s3_server import BUCKET, s3_server

pytestmark = [pytest.mark.system, pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[dict[str, str]]:
    """A real S3 server behind a proxy that makes trouble: the environment by which it is reached."""
    with s3_server() as environ, proxy(environ["AWS_ENDPOINT"]) as address:
        yield {**environ, "AWS_ENDPOINT": address}


@pytest.fixture(scope="module")
def environ(endpoint: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of a cluster that runs."""
    with tempfile.TemporaryDirectory(prefix="rf-", ignore_cleanup_errors=True) as folder:
        environ = {**own_environment(Path(folder)), **endpoint}
        found, _ = connection.up(num_cpus=4, dashboard=False, environ=environ)
        yield {**environ, "RAY_ADDRESS": found.address}
        connection.down(environ=environ)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only who may mount file systems can fill one: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # after a failure, the store's actor still has it


@pytest.mark.parametrize("scenario", ["s3", "locked", "limited"])
def test_the_store_makes_trouble(scenario: str, environ: dict[str, str], tmp_path: Path) -> None:
    store = f"s3://{BUCKET}/trouble" if scenario == "s3" else f"sqlite:///{tmp_path}/flows.db"
    said = run(scenario, store, tmp_path, environ)
    assert ("requests failed" if scenario == "s3" else "refused after") in said


def test_the_file_system_is_full(small_disk: Path, environ: dict[str, str], tmp_path: Path) -> None:
    assert "refused after" in run("full", f"sqlite:///{small_disk}/flows.db", tmp_path, environ)


def run(scenario: str, store: str, folder: Path, environ: dict[str, str]) -> str:
    """What a scenario says that ends well."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.storage.on_ray", scenario, store, str(folder), environ["AWS_ENDPOINT"]],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    print(done.stdout)
    return done.stdout
