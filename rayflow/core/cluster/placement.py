"""Which coordinator gets an execution, and when another coordinator is worth starting. Pure."""

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
    #: It drives an execution whose coordinator died: it gets no other until that one has made progress.
    reserved: bool = False
    idle_since: float = 0.0
    #: Its code was edited since it loaded it: it keeps what it drives, and gets nothing more.
    outdated: bool = False
    #: It should have started by now: nobody waits for it.
    late: bool = False


@dataclass(frozen=True, slots=True)
class PendingExecution:
    """An execution that needs a coordinator."""

    id: str
    environment: str
    priority: int
    stamp: float
    #: Its coordinator died with it: it runs alone until it has made progress.
    suspect: bool = False
    #: It was under way when it lost its coordinator: it shares one rather than wait for another to start.
    interrupted: bool = False


#: Executions that a coordinator may have and still take over an interrupted one while others could be started: few
#: enough that sharing is not noticed, where a cold start takes a second or more.
TAKES_OVER = 8


@dataclass(slots=True)
class Plan:
    """What the supervisor has to do: assign these, start coordinators for these environments; the rest waits."""

    assign: list[tuple[PendingExecution, CoordinatorSlot]] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    waiting: list[PendingExecution] = field(default_factory=list)


def plan(
    wanting: Sequence[PendingExecution],
    places: Sequence[CoordinatorSlot],
    *,
    most: int,
    share: int,
) -> Plan:
    """Place executions: highest priority first, then those that have waited longest.

    An idle coordinator is taken first. Without one, an execution that was interrupted shares one that has little to do.
    Others have another one started while there are fewer than ``most``; an execution that a starting one will take
    waits for it. Beyond that, executions share the least loaded ones.

    Args:
        wanting: executions without a coordinator.
        places: all coordinators, starting ones included.
        most: coordinators at most, over all environments; but each environment with work gets one.
        share: executions that one coordinator drives at most.
    """
    result = Plan()
    places = [place for place in places if not place.outdated]
    loads = {place.name: len(place.executions) for place in places}
    reserved = {place.name for place in places if place.reserved}
    served = {place.environment for place in places}
    free_starts = {place.name for place in places if not (place.ready or place.executions or place.late)}
    for want in sorted(wanting, key=lambda w: (-w.priority, w.stamp, w.id)):
        fitting = [p for p in places if p.environment == want.environment and p.name not in reserved]
        ready = [p for p in fitting if p.ready]
        chosen = next((p for p in ready if loads[p.name] == 0), None)
        if chosen is None and want.interrupted and not want.suspect:
            chosen = _least(ready, loads, min(TAKES_OVER, share))
        if chosen is None:
            starting = next((p.name for p in fitting if p.name in free_starts), None)
            if starting is not None:
                free_starts.discard(starting)
            elif len(places) + len(result.start) < most or want.environment not in served:
                # Even beyond the limit where nobody else can run its code: executions elsewhere could otherwise
                # keep it waiting for ever.
                result.start.append(want.environment)
                served.add(want.environment)
            elif not want.suspect:
                chosen = _least(ready, loads, share)
        if chosen is None:
            result.waiting.append(want)
            continue
        loads[chosen.name] += 1
        if want.suspect:
            reserved.add(chosen.name)
        result.assign.append((want, chosen))
    return result


def _least(ready: Sequence[CoordinatorSlot], loads: Mapping[str, int], most: int) -> CoordinatorSlot | None:
    """The least loaded of those that have fewer than so many."""
    room = [place for place in ready if loads[place.name] < most]
    return min(room, key=lambda place: (loads[place.name], place.name), default=None)
