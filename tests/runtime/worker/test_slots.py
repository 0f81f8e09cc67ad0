"""Batches with an early reply: what a worker keeps of them, and for how long."""

from __future__ import annotations

from rayflow.runtime.messages import BatchMessage, BatchReply, TaskMessage, TaskOutcome
from rayflow.runtime.worker.slots import COLLECTED_TTL, FINISHED_TTL, Batch, WorkerSlots


def task(seq: int) -> TaskMessage:
    return TaskMessage("e", "flow", 1, seq, 1, "step", {}, "", b"", None, "")


def message(name: str, *seqs: int) -> BatchMessage:
    return BatchMessage(name, f"token of {name}", 1, "coordinator", tuple(map(task, seqs)), 0.0)


def outcome(seq: int) -> TaskOutcome:
    return TaskOutcome("e", seq, 1, b"", None, 0.0, 0.0)


def late(batches: WorkerSlots, name: str, now: float) -> Batch:
    """A batch that was answered while its task ran, and ended afterwards."""
    batch = batches.take(message(name, 1))
    assert batches.begin(batch, now, now) == task(1)
    assert batches.reply(batch, now).running == ("e", 1, 1)
    batches.finish(batch, outcome(1), now)
    return batch


def test_a_batch_that_was_answered_at_its_end_is_not_kept() -> None:
    batches = WorkerSlots(1)
    batch = batches.take(message("b", 1))
    batches.begin(batch, 0.0, 0.0)
    batches.finish(batch, outcome(1), 0.0)
    assert batches.reply(batch, 0.0).outcomes == (outcome(1),)
    assert (batches.find("b"), batches.active) == (None, {})


def test_a_batch_that_was_answered_early_is_kept_for_a_while() -> None:
    batches = WorkerSlots(1)
    first = late(batches, "first", 0.0)
    assert late(batches, "second", FINISHED_TTL) is batches.find("second")
    assert batches.find("first") is first
    late(batches, "third", FINISHED_TTL + 1)
    assert batches.find("first") is None


def test_once_it_was_collected_it_is_kept_for_a_shorter_while() -> None:
    batches = WorkerSlots(1)
    first = late(batches, "first", 0.0)
    assert batches.collect(first, 1.0).outcomes == (outcome(1),)
    late(batches, "second", COLLECTED_TTL + 1.0)
    assert batches.find("first") is first
    late(batches, "third", COLLECTED_TTL + 2.0)
    assert batches.find("first") is None


def test_only_so_many_are_kept_the_newest_ones() -> None:
    batches = WorkerSlots(1, keep=2)
    for name in "abc":
        late(batches, name, 0.0)
    assert [batches.find(name) is not None for name in "abc"] == [False, True, True]


def test_a_batch_whose_rest_is_given_back_between_two_tasks_is_over() -> None:
    batches = WorkerSlots(1)
    batch = batches.take(message("b", 1, 2, 3))
    batches.begin(batch, 0.0, 0.0)
    batches.finish(batch, outcome(1), 0.0)
    reply = batches.reply(batch, 0.0)
    assert (reply.outcomes, reply.running, reply.not_begun) == ((outcome(1),), None, (("e", 2, 1), ("e", 3, 1)))
    assert batches.active == {}, "the slot is free with the answer"
    assert batches.begin(batch, 0.0, 0.0) is None


def test_a_batch_with_a_withdrawn_last_task_ends_with_the_running_one() -> None:
    batches = WorkerSlots(1)
    batch = batches.take(message("b", 1, 2))
    batches.begin(batch, 0.0, 0.0)
    assert batches.cancel(("e", 2, 1), None, "", 5.0) == (True, [])
    batches.finish(batch, outcome(1), 0.0)
    assert batch.finished
    assert [(o.seq, o.failure is None) for o in batch.outcomes] == [(2, False), (1, True)]


def test_what_was_given_up_is_stopped_whatever_comes_of_it_later() -> None:
    batches = WorkerSlots(2)
    one, two = batches.take(message("one", 1)), batches.take(message("two", 2, 3))
    for batch in (one, two):
        batches.begin(batch, 7.0, 0.0)
    batches.close(0.0)
    assert batches.refusal(message("three", 4)) == "busy"
    assert batches.end() == [], "no attempt was put there"
    batches.finish(one, outcome(1), 0.0)
    assert batches.reply(one, 0.0) == BatchReply(stopped=(("e", 1, 1),))
    batches.abandon(0.0)
    batches.finish(two, outcome(2), 0.0)
    assert batches.reply(two, 0.0) == BatchReply(not_begun=(("e", 3, 1),), stopped=(("e", 2, 1),))
    assert (batches.active, two.settled.is_set()) == ({}, True)


def test_after_so_many_tasks_no_batch_is_taken_and_those_here_go_on() -> None:
    batches = WorkerSlots(2, most=2)
    first, second = batches.take(message("a", 1, 2, 3)), batches.take(message("b", 4))
    assert batches.begin(first, 0.0, 0.0) is not None
    assert (batches.worn, batches.refusal(message("c", 5))) == (False, "busy")
    assert batches.begin(second, 0.0, 0.0) is not None
    assert batches.worn
    for batch, seq in ((first, 1), (second, 4)):
        batches.finish(batch, outcome(seq), 0.0)
    assert batches.begin(first, 0.0, 0.0) == task(2)
    assert batches.refusal(message("c", 5)) == "busy"
    assert not WorkerSlots(1).worn


def test_what_turns_out_to_be_too_late_is_given_back_and_the_next_begins() -> None:
    batches = WorkerSlots(1)
    batch = batches.take(message("b", 1, 2))
    assert batches.begin(batch, 0.0, 0.0) == task(1)
    batches.not_begun(batch, 0.0)
    assert batches.begin(batch, 0.0, 0.0) == task(2)
    batches.finish(batch, outcome(2), 0.0)
    assert batches.reply(batch, 0.0) == BatchReply((outcome(2),), not_begun=(("e", 1, 1),))
    assert not batches.active


def test_what_is_too_late_after_an_early_answer_is_told_when_it_is_collected() -> None:
    batches = WorkerSlots(1)
    batch = batches.take(message("b", 1))
    batches.begin(batch, 0.0, 0.0)
    assert batches.reply(batch, 0.0) == BatchReply(running=("e", 1, 1))
    batches.not_begun(batch, 0.0)
    assert batches.collect(batch, 0.0) == BatchReply(not_begun=(("e", 1, 1),))
    batches.not_begun(batch, 0.0)
    assert batch.given_back == [("e", 1, 1)]
