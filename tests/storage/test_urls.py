"""Which store a URL means."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayflow.errors import StorageUnavailable
from rayflow.storage.memory import MemoryStore
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.sqlite.store import SqliteStore
from rayflow.storage.urls import ParsedUrl, namespace_of, open_store, parse, resolve, user_data_dir


@pytest.mark.parametrize(
    ("url", "scheme", "path"),
    [
        ("sqlite:///flows.db", "sqlite", "flows.db"),
        ("sqlite:////var/lib/flows.db", "sqlite", "/var/lib/flows.db"),
        ("sqlite:///a b/ä.db", "sqlite", "a b/ä.db"),
        ("memory://", "memory", ""),
        ("s3://bucket", "s3", "bucket"),
        ("s3://bucket/a/b", "s3", "bucket/a/b"),
        ("gs://bucket/a", "gs", "bucket/a"),
        ("az://container/a", "az", "container/a"),
        ("file:///a b/ä", "file", "/a b/ä"),
    ],
)
def test_parse(url: str, scheme: str, path: str) -> None:
    parsed = parse(url)
    assert parsed == ParsedUrl(scheme, path)
    assert parsed.url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is not a store URL"),
        ("flows.db", r"write sqlite:///flows\.db"),
        ("sqlite://flows.db", r"no third slash: write sqlite:///flows\.db"),
        ("sqlite:///", "names no file"),
        ("sqlite:////folder/", "names no file"),
        ("sqlite:///:memory:", "write memory://"),
        ("sqlite:///a.db?mode=ro", "takes no options"),
        ("memory://name", "has no path"),
        ("s3://", "names no bucket: write s3://bucket/prefix"),
        ("az:///prefix", "names no container: write az://container/prefix"),
        ("gs://bucket/a//b", "names between its slashes"),
        ("s3://bucket/../b", "names between its slashes"),
        ("s3://bucket/p?region=eu", "takes no options.*environment"),
        ("file://folder", "no third slash: write file:///absolute"),
        ("file:///", "names no folder"),
        ("file:///a%20b", "no .* % in its names"),
        ("postgres://host/db", r"scheme postgres:// is not supported; available: sqlite:///.*memory://"),
    ],
)
def test_a_wrong_url_is_told_what_would_be_right(url: str, said: str) -> None:
    with pytest.raises(StorageUnavailable, match=said):
        open_store(url)


def test_the_store_of_a_url() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    store = open_store("sqlite:////x/flows.db")
    assert isinstance(store, SqliteStore)
    assert store.url == "sqlite:////x/flows.db"
    for url in ("s3://bucket/flows", "gs://bucket/flows", "az://container/flows", "file:///x/flows"):
        for given in (url, f"{url}/"):
            made = open_store(given)
            assert isinstance(made, ObjectStore)
            assert made.url == url


def test_the_users_data_folder() -> None:
    assert user_data_dir({"HOME": "/h"}, "linux") == Path("/h/.local/share")
    assert user_data_dir({"HOME": "/h", "XDG_DATA_HOME": "/d"}, "linux") == Path("/d")
    assert user_data_dir({"HOME": "/h", "XDG_DATA_HOME": "relative"}, "linux") == Path("/h/.local/share")
    assert user_data_dir({"HOME": "/h", "XDG_DATA_HOME": "/d"}, "darwin") == Path("/h/Library/Application Support")


def test_what_is_given_goes_before_the_environment_and_that_before_the_default(tmp_path: Path) -> None:
    environ = {"RAYFLOW_STORE": "sqlite:////e/e.db", "HOME": "/h"}
    assert resolve("sqlite:////g/g.db", environ=environ) == "sqlite:////g/g.db"
    assert resolve(None, environ=environ) == "sqlite:////e/e.db"
    assert resolve(None, environ={"RAYFLOW_STORE": ""}, data_dir=tmp_path) == f"sqlite:///{tmp_path}/rayflow/rayflow.db"
    assert resolve(None, environ={"XDG_DATA_HOME": "/d"}).endswith("/rayflow/rayflow.db")
    assert resolve("memory://", environ={}) == "memory://"
    assert resolve("s3://bucket/a/", environ={}) == "s3://bucket/a"
    assert list(tmp_path.iterdir()) == []


def test_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolve("sqlite:///a/../b.db", environ={}, cwd=tmp_path) == f"sqlite:///{tmp_path}/b.db"
    assert resolve("sqlite:///link/b.db", environ={}, cwd=tmp_path) == f"sqlite:///{tmp_path}/real/b.db"
    assert resolve("sqlite:///~/b.db", environ={"HOME": "/h"}, cwd=tmp_path) == "sqlite:////h/b.db"
    assert resolve("sqlite:////abs/b.db", environ={}, cwd=tmp_path) == "sqlite:////abs/b.db"
    assert resolve(f"file://{tmp_path}/link/flows/", environ={}) == f"file://{tmp_path}/real/flows"


def test_a_file_in_a_folder_that_vanishes_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (tmp_path / "link").symlink_to("package")
    named = f"{tmp_path}/link/flows"
    for url in ("sqlite:///flows.db", "sqlite:///sub/flows.db", f"sqlite:///{named}.db", f"file://{named}"):
        with pytest.raises(StorageUnavailable, match=r"temporary copy of the working directory that Ray deletes"):
            resolve(url, environ={}, cwd=package, forbidden=[package])
    outside = resolve("sqlite:///../flows.db", environ={}, cwd=package, forbidden=[package])
    assert outside == f"sqlite:///{tmp_path}/flows.db"


def test_namespaces_are_readable_stable_and_apart() -> None:
    assert namespace_of("sqlite:////data/flows.db") == "rayflow-flows-765c8c94"
    assert namespace_of("memory://").startswith("rayflow-memory-")
    assert namespace_of("s3://bucket/team/flows").startswith("rayflow-flows-")
    urls = ["sqlite:////a/flows.db", "sqlite:////b/flows.db", "sqlite:////a/My Flows (2).db", "sqlite:////a/äöü.db"]
    names = [namespace_of(url) for url in urls]
    assert len(set(names)) == len(urls)
    assert names[2].startswith("rayflow-my-flows-2-")
    assert names[3].startswith("rayflow-store-")
    assert len(namespace_of(f"sqlite:////a/{'long' * 40}.db")) < 60
