"""Imported by every Python process that has this folder on its path: those of a run that is to be sabotaged."""

import os

if os.environ.get("RAYFLOW_CHAOS_SABOTAGE"):
    from tests.chaos import sabotage

    sabotage.apply(os.environ["RAYFLOW_CHAOS_SABOTAGE"])
