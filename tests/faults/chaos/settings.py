"""How a run is set up: what the driver, the one who deals the blows and the one who judges have to agree on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import rayflow as rf
from rayflow.core.schedules.due_times import due_between, due_id
from rayflow.definition.schedule import Schedule
from tests.faults.chaos.plan import EVERY, mix

NAMESPACE = "chaos"
#: Workers, their slots, and coordinators at most: what two CPUs carry.
WORKERS, SLOTS, COORDINATORS = 3, 4, 3
#: Seconds after which a process that does not answer counts as hung, and after which a node does.
NOTICED, NODE_NOTICED = 3.0, 7.0
#: Schedules, and seconds after which the first driver has made them on most machines.
SCHEDULES, WARM_UP = 2, 25.0


@dataclass(frozen=True)
class Settings:
    """One run.

    Args:
        folder: where it keeps everything.
        seed: what its plan follows from.
        begun: when it began, in whole seconds since the epoch.
        until: when schedules end, and when the driver starts nothing more if enough was done.
    """

    folder: str
    seed: int
    begun: float
    until: float

    @property
    def minutes(self) -> float:
        """How long it was to be."""
        return (self.until - self.begun) / 60

    @property
    def latest(self) -> float:
        """When the driver starts nothing more even if too little was done."""
        return self.until + (self.until - self.begun)

    @property
    def over(self) -> Path:
        """The file that is there when the driver has to start nothing more."""
        return Path(self.folder, "over")

    @property
    def store(self) -> str:
        """The store's URL."""
        return f"sqlite:///{self.folder}/flows.db"

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return Path(self.folder, "ledger.jsonl")

    @property
    def acts(self) -> Path:
        """The file of what the driver did."""
        return Path(self.folder, "acts.jsonl")

    def save(self) -> Path:
        """Write it down, for the driver."""
        file = Path(self.folder, "settings.json")
        file.write_text(json.dumps(asdict(self)))
        return file

    @classmethod
    def load(cls, file: str) -> Settings:
        """What was written down."""
        return cls(**json.loads(Path(file).read_text()))

    @classmethod
    def of(cls, folder: Path) -> Settings:
        """Those of a run that left its folder, wherever that is now."""
        return replace(cls.load(str(folder / "settings.json")), folder=str(folder.absolute()))

    # --- schedules -----------------------------------------------------------------------------------------
    def schedules(self) -> dict[str, tuple[Schedule, int]]:
        """The schedules by name, each with the seed of what it starts."""
        made = {}
        for number in range(SCHEDULES):
            first = self.begun + WARM_UP + number * 0.7
            spec = rf.Schedule(every=EVERY, start_at=first, end_at=max(first, self.until - 5.0), overlap="allow")
            made[f"tick-{number}"] = (spec, mix(self.seed, "schedule", number))
        return made

    def dues(self) -> dict[str, dict[str, float]]:
        """The ids of the executions that each schedule has to have started at the end, with their due times."""
        found = {}
        for name, (spec, _) in self.schedules().items():
            assert spec.start_at is not None
            assert spec.end_at is not None
            moments = due_between(spec, spec.start_at, spec.end_at + 0.001, limit=100_000)
            found[name] = {due_id(name, moment): moment for moment in moments}
        return found


def engine(settings: Settings) -> rf.DistributedEngine:
    """The engine of a driver, in the cluster that runs here."""
    return rf.DistributedEngine(
        store=settings.store,
        namespace=NAMESPACE,
        pool=rf.PoolConfig(workers=WORKERS, concurrency=SLOTS),
        max_coordinators=COORDINATORS,
        ping_interval=0.5,
        ping_timeout=NOTICED,
        park_idle_after=0.5,
    )
