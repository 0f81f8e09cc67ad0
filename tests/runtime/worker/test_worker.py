"""Batches on a worker: order, early replies, refused, returned and cancelled tasks."""

from __future__ import annotations

import os
import platform
import time

import pytest

from rayflow.errors import LeaseLost
from rayflow.runtime.messages import BatchMessage, BatchReply, TaskMessage
from rayflow.runtime.worker.slots import WorkerSlots
from tests.runtime.worker import worker_steps as steps
from tests.runtime.worker.worker_harness import ENOUGH, Bench, ended, keys, reach, value
from tests.runtime.worker.worker_steps import STAGE


# --- about itself -------------------------------------------------------------------------------------------
def test_a_worker_says_where_it_is(one: Bench) -> None:
    assert one.worker.call("ready") == {
        "pid": os.getpid(),
        "python": platform.python_version(),
        "node": platform.node(),
        "pool": "default",
    }
    assert one.worker.call("pid") == os.getpid()


def test_a_ping_says_how_busy_it_is_and_that_it_gets_on(one: Bench) -> None:
    assert one.worker.call("ping") == {"busy": 0, "progress": 0}
    pending = one.send(one.task(steps.wait_at, "a"))
    reach("a")
    assert one.worker.call("ping", group="control") == {"busy": 1, "progress": 1}
    STAGE.gate("a").opened.set()
    pending.reply()
    assert one.worker.call("ping") == {"busy": 0, "progress": 2}


# --- batches ------------------------------------------------------------------------------------------------
def test_the_tasks_of_a_batch_run_one_after_another_in_order(two: Bench) -> None:
    tasks = [two.task(steps.double if n % 2 else steps.double_slowly, n) for n in range(20)]
    reply = two.run(*tasks)
    assert STAGE.ran == list(range(20))
    assert [value(outcome) for outcome in reply.outcomes] == [2 * n for n in range(20)]
    assert ended(reply) == keys(*tasks)
    assert (reply.running, reply.not_begun, reply.refused) == (None, (), "")
    times = [moment for outcome in reply.outcomes for moment in (outcome.began, outcome.ended)]
    assert times == sorted(times)


def test_slots_run_side_by_side(two: Bench) -> None:
    first, second = two.send(two.task(steps.wait_at, "a")), two.send(two.task(steps.wait_at, "b"))
    reach("a")
    reach("b")
    STAGE.gate("b").opened.set()
    assert value(second.reply().outcomes[0]) == "b"
    assert not first.answered
    STAGE.gate("a").opened.set()
    assert value(first.reply().outcomes[0]) == "a"


def test_async_steps_of_all_slots_share_one_loop(two: Bench) -> None:
    assert two.result(steps.async_thread_name) == two.result(steps.async_thread_name) == "w1/async"
    assert two.result(steps.thread_name).startswith("w1/slot-")


def test_a_batch_of_one_is_waited_for_whatever_its_patience(one: Bench) -> None:
    pending = one.send(one.task(steps.wait_at, "a"), patience=0.0)
    reach("a")
    assert not pending.answered
    STAGE.gate("a").opened.set()
    assert value(pending.reply().outcomes[0]) == "a"


def test_impatience_answers_what_is_done_and_gives_the_rest_back(one: Bench) -> None:
    tasks = [
        one.task(steps.double, 1),
        one.task(steps.wait_at, "a"),
        one.task(steps.double, 2),
        one.task(steps.double, 3),
    ]
    early = one.run(*tasks, patience=ENOUGH, id="b")
    assert ended(early) == keys(tasks[0])
    assert early.running == keys(tasks[1])[0]
    assert list(early.not_begun) == keys(tasks[2], tasks[3])

    assert one.run(one.task(steps.double, 9)) == BatchReply(refused="busy")
    assert one.collect("b", 0.0) == BatchReply(running=keys(tasks[1])[0], began=early.began)
    assert early.outcomes[0].ended <= early.began <= time.time()

    STAGE.gate("a").opened.set()
    late = one.collect("b")
    assert ended(late) == keys(tasks[1])
    assert (value(late.outcomes[0]), late.running, late.not_begun, late.began) == ("a", None, (), 0.0)
    assert late.outcomes[0].began == early.began
    assert one.collect("b") == late, "the answer may have been lost"
    assert STAGE.ran == [1, "a"], "what was given back was not run"


def test_a_batch_of_one_that_is_to_tell_its_begin_is_answered_early(one: Bench) -> None:
    task = one.task(steps.wait_at, "a")
    early = one.run(task, patience=ENOUGH, id="b", tell_begin=True)
    assert early == BatchReply(running=keys(task)[0], began=early.began)
    assert 0.0 < early.began <= time.time()
    STAGE.gate("a").opened.set()
    [outcome] = one.collect("b").outcomes
    assert (value(outcome), outcome.began) == ("a", early.began)


def test_a_task_that_would_begin_too_late_is_given_back(one: Bench) -> None:
    late, soon = one.task(steps.double, 1, start_by=time.time() - 0.001), one.task(steps.double, 2, start_by=2e10)
    assert one.run(late) == BatchReply(not_begun=(keys(late)[0],))
    reply = one.run(late, soon)
    assert (ended(reply), list(reply.not_begun)) == (keys(soon), keys(late))
    assert STAGE.ran == [2]


def test_a_batch_that_comes_again_is_run_once(one: Bench) -> None:
    tasks = [one.task(steps.wait_at, "a"), one.task(steps.double, 1)]
    early = one.run(*tasks, patience=ENOUGH, id="b")
    assert one.run(*tasks, patience=0.0, id="b") == early
    STAGE.gate("a").opened.set()
    one.collect("b")
    late = one.run(*tasks, patience=0.0, id="b")
    assert (ended(late), late.running, list(late.not_begun)) == (keys(tasks[0]), None, keys(tasks[1]))
    assert STAGE.ran == ["a"]


def test_a_batch_that_nobody_sent_cannot_be_collected(one: Bench) -> None:
    with pytest.raises(LeaseLost, match="worker w1 has no batch 'b'"):
        one.collect("b")


def test_a_full_worker_is_busy_and_free_when_it_answered(one: Bench) -> None:
    pending = one.send(one.task(steps.wait_at, "a"))
    reach("a")
    assert one.run(one.task(steps.double, 1)) == BatchReply(refused="busy")
    STAGE.gate("a").opened.set()
    pending.reply()
    for n in range(20):
        assert one.result(steps.double, n) == 2 * n, "a slot is free before its last outcome is answered"


# --- fencing ------------------------------------------------------------------------------------------------
def test_a_pool_of_an_older_epoch_is_refused(one: Bench) -> None:
    assert one.run(one.task(steps.double, 1), pool_epoch=5).refused == ""
    assert one.run(one.task(steps.double, 2), pool_epoch=4) == BatchReply(refused="stale")
    one.worker.call("fence_pool", 7)
    one.worker.call("fence_pool", 6)
    assert one.run(one.task(steps.double, 3), pool_epoch=6) == BatchReply(refused="stale")
    assert one.run(one.task(steps.double, 4), pool_epoch=7).refused == ""
    assert STAGE.ran == [1, 4]


def test_a_coordinator_of_an_older_epoch_gets_neither_result_nor_failure(one: Bench) -> None:
    assert one.result(steps.double, 1, epoch=3) == 2
    fenced = one.outcome(steps.double, 2, epoch=2)
    assert (fenced.result, fenced.failure) == (None, None)
    assert one.result(steps.double, 3, epoch=1, execution_id="another") == 6
    assert STAGE.ran == [1, 3]


def test_a_revoked_epoch_begins_nothing_more_of_a_batch_that_came_before(one: Bench) -> None:
    tasks = [one.task(steps.wait_at, "a"), one.task(steps.double, 1), one.task(steps.double, 2, execution_id="e2")]
    pending = one.send(*tasks)
    reach("a")
    one.worker.call("revoke", "e1", 2)
    STAGE.gate("a").opened.set()
    running, fenced, other = pending.reply().outcomes
    assert (value(running), value(other)) == ("a", 4)
    assert (fenced.result, fenced.failure) == (None, None)


def test_only_so_many_epochs_are_remembered_the_newest_ones() -> None:
    batches = WorkerSlots(1, remembered=2)
    for execution in ("a", "b", "a", "c"):
        batches.revoke(execution, 5)
    batches.revoke("a", 4)

    def begun(execution: str) -> bool:
        task = TaskMessage(execution, "flow", 4, 1, 1, "step", {}, "", b"", None, "")
        batch = batches.take(BatchMessage(execution, "t", 0, "c", (task,), 0.0))
        begins = batches.begin(batch, 0.0, 0.0) is not None
        batches.active.clear()
        return begins

    assert [begun(execution) for execution in "acb"] == [False, False, True]


def test_a_census_has_a_row_for_each_slot_in_use(two: Bench) -> None:
    assert two.worker.call("census") == []
    task = two.task(steps.wait_at, "a")
    pending = two.send(task, two.task(steps.double, 1))
    reach("a")
    [(token, *key)] = two.worker.call("census")
    assert (token[0], tuple(key)) == ("t", keys(task)[0])
    STAGE.gate("a").opened.set()
    pending.reply()
    assert two.worker.call("census") == []


def test_a_revoked_token_gives_back_what_waits_and_returns_when_nothing_runs(one: Bench) -> None:
    tasks = [one.task(steps.wait_at, "a"), one.task(steps.double, 1)]
    pending = one.send(*tasks)
    reach("a")
    [(token, *_)] = one.worker.call("census")
    assert one.worker.call("revoke_token", token, group="control") is False
    STAGE.gate("a").opened.set()
    reply = pending.reply()
    assert one.worker.call("revoke_token", token, group="control") is True
    assert (ended(reply), list(reply.not_begun)) == (keys(tasks[0]), keys(tasks[1]))
    again = BatchMessage("again", token, 1, "coordinator", (one.task(steps.double, 2),), 1.0)
    assert WorkerSlots(1).refusal(again) == ""
    batches = WorkerSlots(1)
    batches.revoke_token(token, 0.0)
    assert batches.refusal(again) == "stale"


# --- cancelling ---------------------------------------------------------------------------------------------
def test_an_async_step_is_cancelled_and_cleans_up(one: Bench) -> None:
    task = one.task(steps.wait_for_ever, "a")
    pending = one.send(task)
    reach("a")
    assert one.worker.call("cancel", *keys(task)[0], "nobody waits", group="control") is True
    [outcome] = pending.reply().outcomes
    assert outcome.failure is not None
    assert outcome.failure.type == "asyncio.exceptions.CancelledError"
    assert outcome.failure.message == "the attempt was cancelled: nobody waits"
    assert STAGE.ran == ["a cleaned up"]


def test_a_sync_step_sees_that_it_is_cancelled(one: Bench) -> None:
    task = one.task(steps.until_cancelled, "a")
    pending = one.send(task)
    reach("a")
    assert one.worker.call("cancel", *keys(task)[0], "nobody waits", group="control") is True
    assert value(pending.reply().outcomes[0]) == "stopped"


def test_a_task_that_waits_is_withdrawn(one: Bench) -> None:
    tasks = [one.task(steps.wait_at, "a"), one.task(steps.double, 1), one.task(steps.double, 2)]
    pending = one.send(*tasks)
    reach("a")
    assert one.worker.call("cancel", *keys(tasks[1])[0], "changed my mind", group="control") is True
    STAGE.gate("a").opened.set()
    reply = pending.reply()
    assert sorted(ended(reply)) == sorted(keys(*tasks))
    failures = {outcome.seq: outcome.failure for outcome in reply.outcomes}
    withdrawn = failures[tasks[1].seq]
    assert withdrawn is not None
    assert withdrawn.message == "the attempt was cancelled: changed my mind"
    assert failures[tasks[2].seq] is None
    assert STAGE.ran == ["a", 2]


def test_an_older_coordinator_cannot_cancel_a_newer_ones_attempt(one: Bench) -> None:
    task = one.task(steps.wait_for_ever, "a", epoch=2)
    pending = one.send(task)
    reach("a")
    assert one.worker.call("cancel", *keys(task)[0], "late", 1, group="control") is False
    assert not pending.answered
    assert one.worker.call("cancel", *keys(task)[0], "mine", 2, group="control") is True
    pending.reply()


def test_cancelling_what_is_not_there_says_so(one: Bench) -> None:
    assert one.worker.call("cancel", "e1", 1, 1) is False
    task = one.task(steps.double, 1)
    one.run(task)
    assert one.worker.call("cancel", *keys(task)[0]) is False


# --- giving back and running exclude each other ---------------------------------------------------------------
@pytest.mark.parametrize("patience", [0.0, 0.001, 0.003])
def test_no_task_is_both_run_and_given_back(one: Bench, patience: float) -> None:
    for round_ in range(15):
        tasks = [one.task(steps.double, (round_, n)) for n in range(30)]
        reply = one.run(*tasks, patience=patience, id=f"b{round_}")
        late = one.collect(f"b{round_}").outcomes if reply.running else ()
        done = [(o.execution_id, o.seq, o.attempt) for o in (*reply.outcomes, *late)]
        assert done + list(reply.not_begun) == keys(*tasks)
        assert [ran for ran in STAGE.ran if ran[0] == round_] == [(round_, n) for n in range(len(done))]
