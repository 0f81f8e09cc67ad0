"""Kills and stops everything that rayflow is made of, again and again, and checks from outside that nothing is lost.

    python -m tests.faults.chaos --seed 7 --minutes 10
    python -m tests.faults.chaos --judge FOLDER

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.chaos import collect, sabotage
from tests.faults.chaos.cluster import Cluster
from tests.faults.chaos.conduct import Coordinator
from tests.faults.chaos.evidence import Evidence
from tests.faults.chaos.figures import Minimum
from tests.faults.chaos.invariants import verdicts
from tests.faults.chaos.plan import KINDS
from tests.faults.chaos.report import joint, report
from tests.faults.chaos.settings import Settings

#: What a full run has to have done, and how many minutes are one.
FULL, FULL_MINUTES = Minimum(blows=20, executions=500, steps=20_000), 10.0


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="what the plan follows from; drawn if it is left out")
    parser.add_argument(
        "--minutes",
        type=float,
        default=FULL_MINUTES,
        help="how long executions are started; until enough was done, it is twice as long at most",
    )
    parser.add_argument("--blows", type=int, help="blows of each kind there have to be")
    parser.add_argument("--executions", type=int, help="executions that there have to be at least")
    parser.add_argument("--steps", type=int, help="steps that there have to be at least")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=KINDS, metavar="BLOW", help="deal only these blows")
    parser.add_argument("--last", type=float, default=60.0, help="seconds in which all has to end after the last start")
    parser.add_argument("--folder", type=Path, help="an empty folder for all that the run leaves; a short path")
    parser.add_argument("--keep", action="store_true", help="keep that folder also after a run without problems")
    parser.add_argument(
        "--judge",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="judge runs again by what they left, several also together, and do nothing",
    )
    parser.add_argument("--verbose", action="store_true", help="tell each blow")
    return parser.parse_args()


def minimum(given: argparse.Namespace, minutes: float) -> Minimum:
    """What the run has to have done: what was given, else that of a full run if it is one."""
    default = FULL if minutes >= FULL_MINUTES else Minimum()
    chosen = (given.blows, given.executions, given.steps)
    defaults = (default.blows, default.executions, default.steps)
    return Minimum(*(of if value is None else value for value, of in zip(chosen, defaults, strict=True)))


def main() -> int:
    """One run, or another look at one."""
    given = options()
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING, format="%(asctime)s %(message)s")
    what = os.environ.get(sabotage.VARIABLE, "")
    if what and what not in sabotage.SABOTAGES:
        print(f"{sabotage.VARIABLE}={what}: it takes {', '.join(sabotage.SABOTAGES)}", file=sys.stderr)
        return 2
    if given.judge is not None:
        return judge_all(given)
    seed = random.randrange(1 << 20) if given.seed is None else given.seed
    folder = given.folder or Path(tempfile.mkdtemp(prefix="rf-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, {given.minutes:g} minutes, in {folder}{f', sabotaged: {what}' if what else ''}", flush=True)
    wanted = minimum(given, given.minutes)
    settings = run(folder, seed, given, wanted)
    failed = judge(settings, collect.evidence(settings), wanted)
    if failed or given.keep:
        print(f"\nledger, store, blows, acts and logs are in {folder}; python -m tests.faults.chaos --judge {folder}")
    else:
        shutil.rmtree(folder)
    return failed


def run(folder: Path, seed: int, given: argparse.Namespace, wanted: Minimum) -> Settings:
    """Do it, and leave everything in its folder."""
    cluster = Cluster(folder)
    begun = float(int(time.time()))
    settings = Settings(str(folder), seed, begun, begun + 60 * given.minutes)
    try:
        Coordinator(settings, cluster, wanted, given.last, given.only).run()
    finally:
        cluster.down()
    return settings


def judge_all(given: argparse.Namespace) -> int:
    """Judge runs by what they left in their folders, and print what all of them led to; answers the exit code."""
    runs = {settings: collect.evidence(settings) for settings in map(Settings.of, given.judge)}
    failed = [judge(settings, found, minimum(given, settings.minutes)) for settings, found in runs.items()]
    if len(runs) > 1:
        print(f"\n{joint(list(runs.values()))}")
    return max(failed)


def judge(settings: Settings, found: Evidence, minimum: Minimum) -> int:
    """Judge a run by what it left, and print the report; answers the exit code."""
    judged = verdicts(found)
    text = report(found, judged, minimum, settings.seed)
    Path(settings.folder, "report.txt").write_text(text + "\n")
    print(text)
    lacking = minimum.lacking(found.struck, len(found.outcomes), len(found.attempts))
    return int(bool(lacking) or any(verdict.problems for verdict in judged))


if __name__ == "__main__":
    sys.exit(main())
