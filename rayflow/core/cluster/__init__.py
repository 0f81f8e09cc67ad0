"""Decisions about the cluster: placement, recovery, metrics."""
