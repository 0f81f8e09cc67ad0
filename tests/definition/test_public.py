"""The public names of `rayflow`."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import rayflow as rf


def test_every_public_name_is_there_and_listed() -> None:
    assert list(rf.__all__) == sorted(rf.__all__)
    eager = [name for name in rf.__all__ if name not in rf._LAZY]
    assert [name for name in eager if name not in vars(rf)] == []
    assert set(rf.__all__) <= set(dir(rf))
    assert set(rf._LAZY) <= set(rf.__all__)


@pytest.mark.parametrize("name", sorted(rf._LAZY))
def test_a_lazy_name_is_that_of_its_module(name: str) -> None:
    assert getattr(rf, name) is getattr(importlib.import_module(rf._LAZY[name]), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rayflow' has no attribute 'Engine'"):
        _ = rf.Engine


def test_import_loads_none_of_the_lazy_modules() -> None:
    faces = {module for module in rf._LAZY.values() if not module.startswith("rayflow.core")}
    program = f"import sys, rayflow; print(sorted(set(sys.modules) & {faces | {'ray'}!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_version_is_a_version() -> None:
    assert rf.__version__.count(".") >= 1
