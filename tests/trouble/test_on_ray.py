"""Real trouble with the store, on a Ray cluster of its own: a held lock, files that may not grow, a bad S3 server."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayflow.runtime import cluster
from tests.runtime.cluster_fixtures import ROOT, own_environment
from tests.storage.s3_server import BUCKET, s3_server
from tests.trouble.s3_proxy import proxy

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
        found, _ = cluster.up(num_cpus=4, dashboard=False, environ=environ)
        yield {**environ, "RAY_ADDRESS": found.address}
        cluster.down(environ=environ)


@pytest.mark.parametrize("scenario", ["s3", "locked", "limited"])
def test_the_store_makes_trouble(scenario: str, environ: dict[str, str], tmp_path: Path) -> None:
    store = f"s3://{BUCKET}/trouble" if scenario == "s3" else f"sqlite:///{tmp_path}/flows.db"
    done = subprocess.run(
        [sys.executable, "-m", "tests.trouble.on_ray", scenario, store, str(tmp_path), environ["AWS_ENDPOINT"]],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    assert ("requests failed" if scenario == "s3" else "refused after") in done.stdout
