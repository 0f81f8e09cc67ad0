"""What a worker keeps of batches that were answered early, and for how long."""

from __future__ import annotations

from rayflow.runtime.batches import KEEP, KEEP_COLLECTED, Batch, Batches
from rayflow.runtime.messages import BatchMessage, TaskMessage, TaskOutcome


def task(seq: int) -> TaskMessage:
    return TaskMessage("e", "flow", 1, seq, 1, "step", {}, "", b"", None, "")


def message(name: str, *seqs: int) -> BatchMessage:
    return BatchMessage(name, f"token of {name}", 1, "coordinator", tuple(map(task, seqs)), 0.0)


def outcome(seq: int) -> TaskOutcome:
    return TaskOutcome("e", seq, 1, b"", None, 0.0, 0.0)


def late(batches: Batches, name: str, now: float) -> Batch:
    """A batch that was answered while its task ran, and ended afterwards."""
    batch = batches.take(message(name, 1))
    assert batches.begin(batch, now, now) == task(1)
    assert batches.answer(batch, now).running == ("e", 1, 1)
    batches.finish(batch, outcome(1), now)
    return batch


def test_a_batch_that_was_answered_at_its_end_is_not_kept() -> None:
    batches = Batches(1)
    batch = batches.take(message("b", 1))
    batches.begin(batch, 0.0, 0.0)
    batches.finish(batch, outcome(1), 0.0)
    assert batches.answer(batch, 0.0).outcomes == (outcome(1),)
    assert (batches.find("b"), batches.active) == (None, {})


def test_a_batch_that_was_answered_early_is_kept_for_a_while() -> None:
    batches = Batches(1)
    first = late(batches, "first", 0.0)
    assert late(batches, "second", KEEP) is batches.find("second")
    assert batches.find("first") is first
    late(batches, "third", KEEP + 1)
    assert batches.find("first") is None


def test_once_it_was_collected_it_is_kept_for_a_shorter_while() -> None:
    batches = Batches(1)
    first = late(batches, "first", 0.0)
    assert batches.collect(first, 1.0).outcomes == (outcome(1),)
    late(batches, "second", KEEP_COLLECTED + 1.0)
    assert batches.find("first") is first
    late(batches, "third", KEEP_COLLECTED + 2.0)
    assert batches.find("first") is None


def test_only_so_many_are_kept_the_newest_ones() -> None:
    batches = Batches(1, kept=2)
    for name in "abc":
        late(batches, name, 0.0)
    assert [batches.find(name) is not None for name in "abc"] == [False, True, True]


def test_a_batch_whose_rest_is_given_back_between_two_tasks_is_over() -> None:
    batches = Batches(1)
    batch = batches.take(message("b", 1, 2, 3))
    batches.begin(batch, 0.0, 0.0)
    batches.finish(batch, outcome(1), 0.0)
    reply = batches.answer(batch, 0.0)
    assert (reply.outcomes, reply.running, reply.not_begun) == ((outcome(1),), None, (("e", 2, 1), ("e", 3, 1)))
    assert batches.active == {}, "the slot is free with the answer"
    assert batches.begin(batch, 0.0, 0.0) is None


def test_a_batch_with_a_withdrawn_last_task_ends_with_the_running_one() -> None:
    batches = Batches(1)
    batch = batches.take(message("b", 1, 2))
    batches.begin(batch, 0.0, 0.0)
    assert batches.cancel(("e", 2, 1), None, "", 5.0) == (True, [])
    batches.finish(batch, outcome(1), 0.0)
    assert batch.over
    assert [(o.seq, o.failure is None) for o in batch.outcomes] == [(2, False), (1, True)]
