"""Imported by every Python process that has this folder on its path: those of a run's cluster, and its drivers."""

import os

if os.environ.get("RAYFLOW_CHAOS_FOLDER"):
    from tests.faults.chaos import hooks

    hooks.install(os.environ["RAYFLOW_CHAOS_FOLDER"])

if os.environ.get("RAYFLOW_CHAOS_SABOTAGE"):
    from tests.faults.chaos import sabotage

    sabotage.apply(os.environ["RAYFLOW_CHAOS_SABOTAGE"])
