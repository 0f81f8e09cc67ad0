"""Placement: which coordinator gets an execution, and when another coordinator is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class CoordinatorSlot:
    """One coordinator, as the supervisor knows it."""

    name: str
    environment: str
    ready: bool = False
    executions: set[str] = field(default_factory=set)
    #: It drives an execution whose coordinator died, and gets no other until that one has made progress.
    reserved: bool = False
    idle_since: float = 0.0
    #: Its loaded code was edited since: it keeps its executions and gets no more.
    outdated: bool = False
    #: It should have started by now, so no execution waits for it.
    late: bool = False


@dataclass(frozen=True, slots=True)
class PendingExecution:
    """An execution that needs a coordinator."""

    id: str
    environment: str
    priority: int
    waiting_since: float
    #: Its coordinator died: it runs alone until it has made progress.
    suspect: bool = False
    #: It was running when it lost its coordinator: it shares one rather than wait for another to start.
    interrupted: bool = False


#: Maximum load of a coordinator that still takes an interrupted execution while others could be started: low enough
#: that sharing is not noticed, whereas a cold start takes a second or more.
MAX_LOAD_TO_SHARE = 8


@dataclass(slots=True)
class PlacementPlan:
    """Executions to assign, environments in which to start a coordinator, and executions that wait."""

    assign: list[tuple[PendingExecution, CoordinatorSlot]] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    waiting: list[PendingExecution] = field(default_factory=list)


def plan(
    pending: Sequence[PendingExecution], coordinators: Sequence[CoordinatorSlot], *, most: int, share: int
) -> PlacementPlan:
    """Place executions: highest priority first, then longest waiting first.

    An execution gets an idle coordinator if there is one. Otherwise an interrupted execution shares a coordinator with
    little load. Any other execution has another coordinator started while there are fewer than ``most``, or waits for
    one that is starting. At the limit, executions share the least loaded coordinators.

    Args:
        pending: executions without a coordinator.
        coordinators: all coordinators, including starting ones.
        most: maximum number of coordinators over all environments; each environment with work gets one even so.
        share: maximum number of executions of one coordinator.
    """
    result = PlacementPlan()
    usable = [coordinator for coordinator in coordinators if not coordinator.outdated]
    loads = {coordinator.name: len(coordinator.executions) for coordinator in usable}
    reserved = {coordinator.name for coordinator in usable if coordinator.reserved}
    served = {coordinator.environment for coordinator in usable}
    unclaimed_starts = {c.name for c in usable if not (c.ready or c.executions or c.late)}
    for execution in sorted(pending, key=lambda e: (-e.priority, e.waiting_since, e.id)):
        fitting = [c for c in usable if c.environment == execution.environment and c.name not in reserved]
        ready = [c for c in fitting if c.ready]
        chosen = next((c for c in ready if loads[c.name] == 0), None)
        if chosen is None and execution.interrupted and not execution.suspect:
            chosen = _least_loaded(ready, loads, min(MAX_LOAD_TO_SHARE, share))
        if chosen is None:
            starting = next((c.name for c in fitting if c.name in unclaimed_starts), None)
            if starting is not None:
                unclaimed_starts.discard(starting)
            elif len(usable) + len(result.start) < most or execution.environment not in served:
                # Beyond the limit if no other coordinator can run its code: otherwise executions of other environments
                # could keep it waiting forever.
                result.start.append(execution.environment)
                served.add(execution.environment)
            elif not execution.suspect:
                chosen = _least_loaded(ready, loads, share)
        if chosen is None:
            result.waiting.append(execution)
            continue
        loads[chosen.name] += 1
        if execution.suspect:
            reserved.add(chosen.name)
        result.assign.append((execution, chosen))
    return result


def _least_loaded(ready: Sequence[CoordinatorSlot], loads: Mapping[str, int], most: int) -> CoordinatorSlot | None:
    """Return the least loaded coordinator with fewer than ``most`` executions."""
    room = [coordinator for coordinator in ready if loads[coordinator.name] < most]
    return min(room, key=lambda coordinator: (loads[coordinator.name], coordinator.name), default=None)
