"""Decisions about the whole cluster: placement, recovery, metrics. Pure."""
