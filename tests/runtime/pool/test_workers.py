"""A pool's workers are down when they are dead or do not answer, not when a call to them fails."""

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


def test_a_watch_that_fails_is_begun_anew_and_one_that_ends_is_a_death() -> None:
    system, told = Scripted(), Told()
    workers = WorkerGroup(system, PoolConfig(), Settings("memory://"), told, lambda action: action())  # type: ignore[arg-type]
    workers.group.adopt(WORKER)
    for error in (None, ActorUnavailable(WORKER), ActorLost(WORKER)):
        then = system.replies[WORKER][-1]
        assert then is not None
        then(Reply(error=error))
    assert [method for method, _ in system.sent[WORKER][:3]] == ["ready", "watch", "watch"]
    assert told.heard == [("up", "w"), ("down", "w")]


def test_a_worker_that_is_adopted_is_asked_again_where_only_the_call_failed() -> None:
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
