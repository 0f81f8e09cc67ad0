"""A pool's workers are down when they are dead or hang, not when a call to them fails."""

from __future__ import annotations

from rayflow.definition.options import PoolConfig
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorLost, ActorUnavailable, Reply
from rayflow.runtime.pool.workers import WorkerGroup
from rayflow.runtime.settings import Settings
from tests.runtime.supervisor.test_supervisor import Scripted

WORKER = actor_names.worker("default", "w")


class Told:
    """The pool."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def up(self, worker: str, busy_tokens: object) -> None:
        self.heard.append(("up", worker))

    def down(self, worker: str) -> None:
        self.heard.append(("down", worker))

    def freed(self, worker: str, token: str) -> None:
        self.heard.append(("freed", worker))


def test_a_failed_watch_is_repeated_and_an_ended_one_is_a_death() -> None:
    system, told = Scripted(), Told()
    workers = WorkerGroup(system, PoolConfig(), Settings("memory://"), told, lambda action: action())  # type: ignore[arg-type]
    workers.group.adopt(WORKER)
    for error in (None, ActorUnavailable(WORKER), ActorLost(WORKER)):
        then = system.replies[WORKER][-1]
        assert then is not None
        then(Reply(error=error))
    assert [method for method, _ in system.sent[WORKER][:3]] == ["ready", "watch", "watch"]
    assert told.heard == [("up", "w"), ("down", "w")]


def test_adoption_repeats_a_failed_call() -> None:
    system, told = Scripted(), Told()
    workers = WorkerGroup(system, PoolConfig(), Settings("memory://"), told, lambda action: action())  # type: ignore[arg-type]
    workers.adopt("w", 2)
    answers = {
        "ready": [Reply(error=ActorUnavailable(WORKER)), Reply()],
        "census": [Reply(error=ActorUnavailable(WORKER)), Reply(value=[])],
    }
    for place, (method, _) in enumerate(system.sent[WORKER]):
        then = system.replies[WORKER][place]
        if then is not None and answers.get(method):
            then(answers[method].pop(0))
    assert told.heard == [("up", "w")]
