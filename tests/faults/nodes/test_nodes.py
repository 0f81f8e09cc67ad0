"""The failure matrix on several nodes: what is killed or hangs is noticed, and everything goes on elsewhere.

One cluster for all of it: a head, which has the singletons, and two nodes with room for two workers each. What is
struck is replaced at the end of its test. Times are asserted generously; docs/benchmarks.md has those measured.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from rayflow.runtime.actors import actor_names
from rayflow.runtime.cluster import processes
from tests.clusters import PATIENT, ManyNodes, Node, go_on, lasting_gcs
from tests.faults.nodes.node_flows import Line, check, read, stop_file
from tests.faults.nodes.node_hands import Driver
from tests.faults.processes.tools import alive, kill, until

pytestmark = [pytest.mark.system, pytest.mark.cluster, pytest.mark.timeout(300)]

#: Workers that a node has room for, and seconds that a step of a chain takes.
ROOM, PAUSE = 2, 0.1
#: Seconds in which everything is to go on again; on a busy machine it takes several times what it takes on a free one.
SOON = 30.0
#: Chains that run at once, so that each node has some of their coordinators.
CHAINS = 3


@dataclass
class Scene:
    """A cluster at work.

    Args:
        folder: the ledgers' and the store's.
        cluster: the cluster.
        hands: an engine there.
        nodes: its nodes but the head.
    """

    folder: Path
    cluster: ManyNodes
    hands: Any
    nodes: list[Node] = field(default_factory=list)
    chains: dict[str, Path] = field(default_factory=dict)

    def complete(self) -> None:
        """Have two nodes, and workers wherever there is room for them."""
        self.nodes = [node for node in self.nodes if processes.running(node.raylet)]
        while len(self.nodes) < 2:
            self.nodes.append(self.cluster.add(resources={"room": ROOM}))
        until(lambda: self.hands.workers() == 2 * ROOM, "the pool has grown to all of its workers")

    def begin(self, name: str, *, checkpoints: str = "sync") -> None:
        """Start a chain, which goes on until the test is over."""
        ledger = self.folder / f"{name}.ledger"
        self.hands.start(name, str(ledger), PAUSE, checkpoints)
        self.chains[name] = ledger

    def lines(self, name: str) -> list[Line]:
        """What ran of a chain."""
        return read(self.chains[name])

    def under_way(self) -> None:
        """Wait until all chains have come some way."""
        until(lambda: all(len(self.lines(name)) >= 10 for name in self.chains), "all chains are under way")

    def on(self, node: Node) -> list[str]:
        """The chains whose coordinators are on a node."""
        here = {name for name, pid in self.hands.pids().items() if self.cluster.node_of(pid) == node.raylet.pid}
        return [name for name in self.chains if self.hands.status(name).coordinator in here]

    def chains_on_some_node(self, prefix: str) -> tuple[Node, list[str]]:
        """Start chains until a node other than the head has a coordinator of one; answers which node and chains."""
        for round_ in range(4):
            for number in range(CHAINS):
                self.begin(f"{prefix}-{round_}-{number}")
            self.under_way()
            found = {node.id: self.on(node) for node in self.nodes}
            node = max(self.nodes, key=lambda node: len(found[node.id]))
            if found[node.id]:
                return node, found[node.id]
        raise AssertionError("Ray placed all coordinators on the head")

    def recorded(self) -> dict[str, dict[int, str]]:
        """What is recorded of all chains."""
        return {name: self.hands.recorded(name) for name in self.chains}

    def goes_on(self, name: str, since: float) -> float:
        """Wait until the successor of a chain's coordinator runs its steps; answers after how many seconds."""

        def successor() -> list[Line]:
            return [line for line in self.lines(name) if line.epoch > 1]

        until(successor, f"{name} goes on under another coordinator")
        return successor()[0].at - since

    def finish(self, recorded: dict[str, dict[int, str]]) -> None:
        """Let all chains end, and check what ran."""
        for ledger in self.chains.values():
            stop_file(ledger).touch()
        for name, ledger in self.chains.items():
            result = self.hands.result(name, 120.0)
            check(read(ledger), result, recorded.get(name, {}))
        self.chains.clear()


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    cluster = ManyNodes(folder, settings={**PATIENT, **lasting_gcs(folder)})
    try:
        with Driver.begun(cluster.environ) as driver:
            hands = driver.open(
                f"sqlite:///{folder}/flows.db",
                cluster.address,
                pool=rf.PoolConfig(workers=2 * ROOM, concurrency=2, resources={"room": 1}),
                max_coordinators=12,
            )
            yield Scene(folder, cluster, hands)
            hands.shutdown()
    finally:
        cluster.down()
        shutil.rmtree(folder)


@pytest.fixture
def scene(stage: Scene) -> Iterator[Scene]:
    """The cluster with two nodes and all workers."""
    stage.complete()
    yield stage
    for ledger in stage.chains.values():  # of a test that failed
        stop_file(ledger).touch()
    stage.chains.clear()


def test_a_node_whose_raylet_is_killed(scene: Scene) -> None:
    node, struck = scene.chains_on_some_node("killed")
    recorded, at = scene.recorded(), time.time()
    node.kill()
    assert max(scene.goes_on(name, at) for name in struck) < SOON
    scene.finish(recorded)


def test_a_node_that_is_lost_and_comes_back(scene: Scene) -> None:
    node, struck = scene.chains_on_some_node("lost")
    recorded, at = scene.recorded(), time.time()
    node.lose()
    assert max(scene.goes_on(name, at) for name in struck) < SOON
    until(lambda: scene.hands.workers() <= ROOM, "the pool knows that its workers are gone")
    scene.complete()  # the pool grows onto the new node
    scene.finish(recorded)


def test_a_node_that_hangs_and_goes_on_later(scene: Scene) -> None:
    node, struck = scene.chains_on_some_node("hung")
    former = {scene.hands.pids()[scene.hands.status(name).coordinator] for name in struck}
    recorded, at = scene.recorded(), time.time()
    stopped = node.stop(whole=True)
    try:
        assert max(scene.goes_on(name, at) for name in struck) < SOON
        before = {name: len(scene.lines(name)) for name in struck}
    finally:
        go_on(stopped)
    # They were to be killed, or end with their node if Ray has given that up; until then they are at large.
    until(lambda: not any(alive(pid) for pid in former), "the former coordinators have ended")
    until(lambda: all(len(scene.lines(name)) > count for name, count in before.items()), "their successors go on")
    scene.finish(recorded)
    node.lose()  # if Ray has not: the next test begins with nodes that nobody has doubts about


def test_two_coordinators_of_one_execution_alive_at_once(scene: Scene) -> None:
    """The raylet alone stops: Ray gives the node up, and its coordinators run on, and know nothing of it."""
    node, struck = scene.chains_on_some_node("cut-off")
    recorded, at = scene.recorded(), time.time()
    former = {name: scene.hands.pids()[scene.hands.status(name).coordinator] for name in struck}
    stopped = node.stop()
    try:
        assert max(scene.goes_on(name, at) for name in struck) < SOON
        for name in struck:
            assert alive(former[name]), "the former coordinator was to live on"
            status = scene.hands.status(name)
            assert (status.epoch, status.coordinator in scene.hands.pids()) == (2, True)
            first = next(index for index, line in enumerate(scene.lines(name)) if line.epoch == 2)
            until(lambda name=name, first=first: len(scene.lines(name)) > first + 20, "the successor is well under way")  # type: ignore[misc]
            # The one step that the former could still send before its first commit was refused.
            assert sum(line.epoch == 1 for line in scene.lines(name)[first:]) <= 1
    finally:
        go_on(stopped)
    scene.finish(recorded)
    node.lose()  # its raylet learns only now that Ray gave it up, and is on its way out; no node for the next test


def test_a_coordinator_that_hangs_and_goes_on_beside_its_successor(scene: Scene) -> None:
    """Only the newer epoch's dispatches and answers count; workers that know it refuse tasks of the older one."""
    for checkpoints in ("sync", "async"):
        scene.begin(f"stopped-{checkpoints}", checkpoints=checkpoints)
    scene.under_way()
    former = {name: scene.hands.status(name).coordinator for name in scene.chains}
    pids = {scene.hands.pids()[name] for name in former.values()}
    recorded, at = scene.recorded(), time.time()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert max(scene.goes_on(name, at) for name in scene.chains) < SOON
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    for name, ledger in scene.chains.items():
        status = scene.hands.status(name)
        assert status.epoch == 2
        assert status.coordinator != former[name]
        newest = [line for line in scene.lines(name) if line.epoch == 2][-1]
        ours = scene.folder / f"{ledger.stem}.sent"
        assert scene.hands.send(name, 1, str(ours), newest.pid) == "refused"
        assert not ours.exists()
        assert scene.hands.send(name, 2, str(ours), newest.pid) == "ran", "else the refusal says nothing"
    scene.finish({name: results for name, results in recorded.items() if name == "stopped-sync"})


@pytest.mark.parametrize("name", [actor_names.STORE, actor_names.SUPERVISOR, actor_names.pool("default")])
def test_a_singleton_that_hangs_is_made_anew(scene: Scene, name: str) -> None:
    for number in range(2):
        scene.begin(f"{name.rpartition(':')[2]}-{number}")
    scene.under_way()
    pid = scene.hands.pids()[name]
    recorded = scene.recorded()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: not alive(pid), f"{name} is killed")
    until(lambda: scene.hands.pids().get(name, pid) != pid, f"{name} is made anew")
    scene.begin(f"after-{name.rpartition(':')[2]}")
    scene.finish(recorded)


def test_the_clusters_memory_is_killed_and_started_again(scene: Scene) -> None:
    for number in range(2):
        scene.begin(f"gcs-{number}")
    scene.under_way()
    recorded = scene.recorded()
    start_again = scene.cluster.kill_gcs()
    before = {name: len(scene.lines(name)) for name in scene.chains}
    # One that needs an actor to which it has not spoken yet has to wait.
    until(lambda: any(len(scene.lines(name)) > before[name] + 10 for name in before), "it goes on without the GCS")
    kill(scene.lines("gcs-0")[-1].pid)  # nothing can be made in its place now
    start_again()
    scene.begin("gcs-after")
    until(lambda: scene.hands.workers() == 2 * ROOM, "the worker was replaced")
    scene.finish(recorded)
