"""Fixtures of this folder."""

from tests.runtime.cluster_fixtures import ray_cluster, system

__all__ = ["ray_cluster", "system"]
