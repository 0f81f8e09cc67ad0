"""One attempt: how code is found and called, what it sees, and that all errors become failures."""

from __future__ import annotations

import queue
import threading

import pytest

from rayflow.definition.agent import AgentResult, TokenUsage
from rayflow.definition.step import step
from rayflow.errors import Failure, IncompatibleVersion, StepFailed, StorageUnavailable
from rayflow.runtime.actors.base import ActorSpec
from rayflow.runtime.worker import actor as worker_module
from rayflow.runtime.worker import reporter as reporter_module
from rayflow.runtime.worker.attempt import failure_from
from tests.runtime.worker import worker_steps as steps
from tests.runtime.worker.worker_harness import CODEC, Bench, Blobs, bench, value
from tests.runtime.worker.worker_steps import PATIENCE, STAGE


def failure(bench: Bench, owner: object, *args: object, **given: object) -> Failure:
    outcome = bench.outcome(owner, *args, **given)
    assert outcome.result is None
    assert outcome.failure is not None
    return outcome.failure


# --- calling ------------------------------------------------------------------------------------------------
def test_a_step_that_cannot_be_imported_comes_with_its_blob(one: Bench) -> None:
    factor = 3

    @step
    def times(n: int) -> int:
        return n * factor

    assert one.result(times, 4) == 12
    assert list(one.blobs) == [one.task(times, 4).code["digest"]]


def test_a_plain_function_may_answer_something_to_be_awaited(one: Bench) -> None:
    assert one.result(steps.plain_around_async, 4) == 8


@pytest.mark.parametrize("kind", ["context", "async_context"])
def test_a_step_sees_its_context(one: Bench, kind: str) -> None:
    task = one.task(getattr(steps, kind), attempt=2, epoch=5, idempotency_key="k")
    [outcome] = one.run(task).outcomes
    assert value(outcome) == {
        "execution_id": "e1",
        "workflow_id": "flow",
        "step": kind,
        "seq": task.seq,
        "attempt": 2,
        "idempotency_key": "k",
        "epoch": 5,
        "worker": "w1",
        "cancelled": False,
    }


def test_what_a_step_sets_in_its_context_is_not_seen_by_the_next(one: Bench) -> None:
    assert [one.result(steps.leak_a_variable) for _ in range(2)] == ["clean", "clean"]


def test_arguments_become_what_the_function_declares(one: Bench) -> None:
    given = ({"score": 4}, [{"x": 1, "y": 2}], {"x": 3, "y": 4})
    assert one.result(steps.takes_models, *given, scale=2) == [
        "Verdict(score=4)",
        "Point(x=1, y=2)",
        "Point(x=3, y=4)",
        "2",
    ]


# --- agents -------------------------------------------------------------------------------------------------
def test_an_agent_of_a_declared_workflow_answers_an_agent_result(one: Bench) -> None:
    outcome = one.outcome(steps.declared, "hello", part="loud/agent")
    result = value(outcome)
    assert isinstance(result, AgentResult)
    assert (result.agent_id, result.input, result.output, result.usage) == ("shout", "hello", "HELLO", TokenUsage(3, 4))
    assert outcome.began <= result.start_time <= result.end_time <= outcome.ended


def test_an_async_agent_and_a_step_can_be_the_agent(one: Bench) -> None:
    assert one.result(steps.declared, "hello", part="later/agent").output == "HELLO"
    doubled = one.result(steps.declared, 4, part="doubled/agent")
    assert (doubled.agent_id, doubled.output) == ("double", 8)


def test_an_agent_that_answers_an_error_has_failed(one: Bench) -> None:
    found = failure(one, steps.declared, "hello", part="given up/agent")
    assert (found.type, found.message, found.retryable) == ("rayflow.errors.TerminalError", "Broken: no more", False)


# --- failures of the step -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["fail", "fail_async"])
@pytest.mark.parametrize(
    ("how", "type_", "retryable"),
    [
        ("broken", "tests.runtime.worker.worker_steps.Broken", True),
        ("unpicklable", "tests.runtime.worker.worker_steps.Unpicklable", True),
        ("terminal", "rayflow.errors.TerminalError", False),
        ("exit", "SystemExit", True),
        ("interrupt", "KeyboardInterrupt", True),
        ("cancelled", "asyncio.exceptions.CancelledError", True),
    ],
)
def test_whatever_a_step_raises_is_a_failure(one: Bench, kind: str, how: str, type_: str, *, retryable: bool) -> None:
    found = failure(one, getattr(steps, kind), how)
    assert (found.type, found.retryable, found.mro[0]) == (type_, retryable, type_)
    assert "BaseException" in found.mro
    assert one.result(steps.double, 1) == 2, "the worker goes on"
    assert one.result(steps.double_slowly, 1) == 2, "and its loop"


def test_a_stop_iteration_is_no_result(one: Bench) -> None:
    assert failure(one, steps.fail, "stop").type == "StopIteration"
    assert failure(one, steps.fail_async, "stop").type == "RuntimeError"


def test_an_exception_without_words_is_a_failure_all_the_same(one: Bench) -> None:
    found = failure(one, steps.fail, "unprintable")
    assert found.type == "tests.runtime.worker.worker_steps.Unprintable"
    assert found.message == "<no message: its __str__ raised ValueError>"


def test_retryable_is_a_bool_whatever_the_exception_says() -> None:
    class Odd(Exception):
        retryable = "no idea"

    assert failure_from(Odd()).retryable is True


@pytest.mark.parametrize("kind", ["fail", "fail_async"])
def test_a_traceback_begins_in_the_steps_own_code(one: Bench, kind: str) -> None:
    lines = failure(one, getattr(steps, kind), "broken").traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "worker_steps.py" in lines[1]
    assert lines[1].endswith(f"in {kind}")
    assert lines[-1] == "tests.runtime.worker.worker_steps.Broken"
    assert not any("attempts.py" in line or "asyncio" in line for line in lines)


def test_a_task_of_a_step_that_exits_does_not_end_the_loop(one: Bench) -> None:
    assert one.result(steps.exit_in_a_task) == "the task left with 3"
    assert one.result(steps.double_slowly, 2) == 4


def test_wrong_arguments_are_the_functions_own_error(one: Bench) -> None:
    found = failure(one, steps.double, 1, 2, 3)
    assert found.type == "TypeError"
    assert "takes 1 positional argument but 3 were given" in found.message


# --- timeouts -----------------------------------------------------------------------------------------------
def test_an_async_step_that_takes_too_long_is_cancelled_and_timed_out(one: Bench) -> None:
    found = failure(one, steps.wait_for_ever, "a", timeout=0.01, attempt=2)
    assert found.type == "rayflow.errors.StepTimeout"
    assert found.mro == ("rayflow.errors.StepTimeout", "TimeoutError")
    assert found.message == "attempt 2 of step 'wait_for_ever' took longer than its timeout of 0.01 s"
    assert "asyncio.Event().wait()" in found.traceback, "it says where it was"
    assert found.retryable
    assert STAGE.ran == ["a cleaned up"]


def test_a_timeout_of_the_steps_own_is_its_own_failure(one: Bench) -> None:
    assert failure(one, steps.time_out_inside, timeout=60).type == "TimeoutError"


# --- what another attempt would not mend --------------------------------------------------------------------
def test_a_result_that_cannot_be_written_says_where_and_is_not_retried(one: Bench) -> None:
    found = failure(one, steps.answer_a_lock)
    assert (found.type, found.retryable) == ("rayflow.errors.CodecError", False)
    assert found.message.startswith("the result of step 'answer_a_lock' cannot be recorded: cannot write ")
    assert '["held"][0]' in found.message
    assert "_thread.lock" in found.message


def test_a_result_that_only_pickle_can_write_is_refused_where_pickle_is() -> None:
    with bench(1, allow_pickle=False) as strict:
        assert failure(strict, steps.answer_a_lock).message.count("allow_pickle is off") == 1


def test_arguments_that_cannot_be_read_are_not_retried(one: Bench) -> None:
    found = failure(one, steps.double, 1, payload=b"\x01\xc1")
    assert (found.type, found.retryable) == ("rayflow.errors.CodecError", False)
    assert found.message.startswith("the arguments of step 'double' cannot be read: ")
    assert failure(one, steps.declared, 1, part="loud/agent", payload=CODEC.encode(((1, 2), {}))).retryable is False


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"module": "no_such_module"}, "cannot import module 'no_such_module'"),
        ({"qualname": "gone"}, "has no 'gone'"),
        ({"qualname": "declared"}, "which is not a step; the execution issued step 'double'"),
        ({"kind": "telepathy"}, "was written by another rayflow"),
        ({"kind": "value", "digest": "0" * 64, "python": "2.7"}, "was stored by value by Python 2.7"),
    ],
)
def test_code_that_cannot_be_loaded_is_not_retried(one: Bench, change: dict[str, str], says: str) -> None:
    task = one.task(steps.double, 1)
    [outcome] = one.run(task._replace(code=task.code | change)).outcomes
    assert outcome.failure is not None
    assert outcome.failure.type == "rayflow.errors.IncompatibleVersion"
    assert outcome.failure.retryable is False
    assert outcome.failure.message.startswith("the code of step 'double' cannot be loaded: ")
    assert says in outcome.failure.message
    assert outcome.failure.matches(IncompatibleVersion)


def test_code_that_the_store_does_not_have_is_not_retried(one: Bench) -> None:
    task = one.task(step(lambda n: n, name="same"), 1)
    one.blobs.clear()
    [outcome] = one.run(task).outcomes
    assert outcome.failure is not None
    assert (outcome.failure.type, outcome.failure.retryable) == ("rayflow.errors.StorageError", False)
    assert f"the store has no blob {task.code['digest']}" in outcome.failure.message


# --- a store that is away -----------------------------------------------------------------------------------
def test_a_store_that_comes_back_costs_no_attempt(one: Bench) -> None:
    asked = threading.Event()
    tries: list[str] = []

    class Flaky(Blobs):
        def blob(self, digest: str) -> bytes | None:
            tries.append(digest)
            asked.set()
            if len(tries) == 1:
                raise StorageUnavailable("it restarts")
            return super().blob(digest)

    one.system.kill("store")
    one.system.spawn(ActorSpec(Flaky, "store", (one.blobs,)))
    assert one.result(step(lambda n: n + 1, name="next"), 1) == 2
    assert len(tries) == 2


def test_a_store_that_stays_away_is_a_failure_that_is_retried(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "FETCH_TIMEOUT", 0.0)
    one.system.kill("store")
    found = failure(one, step(lambda n: n, name="same"), 1)
    assert (found.type, found.retryable) == ("rayflow.runtime.actors.base.ActorLost", True)


# --- output -------------------------------------------------------------------------------------------------
def test_what_a_step_prints_comes_with_its_outcome(one: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert one.outcome(steps.say, "one", "two").output == ("one", "two")
    assert sorted(one.outcome(steps.say_async, "hey").output) == ["!", "hey"]
    assert one.outcome(steps.double, 1).output == ()
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("one\ntwo\nhey", "!\n")


def test_what_a_long_step_prints_is_sent_ahead(one: Bench) -> None:
    task = one.task(steps.say_and_wait, "hello", "a")
    pending = one.send(task)
    assert one.news.wait(PATIENCE)
    assert one.heard == [("e1", task.seq, "say_and_wait", ("hello",))]
    STAGE.gate("a").opened.set()
    [outcome] = pending.reply().outcomes
    assert outcome.output == ("bye",), "each line comes once"


def test_nobody_needs_to_listen(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(reporter_module.log, "info", lambda text, *args: said.put(text % args))
    one.system.kill("coordinator")
    pending = one.send(one.task(steps.say_and_wait, "hello", "a"))
    assert said.get(timeout=PATIENCE).startswith(
        "step say_and_wait of e1 has no coordinator to report to: actor 'coordinator' is dead"
    )
    STAGE.gate("a").opened.set()
    assert pending.reply().outcomes[0].failure is None


# --- failures as data ---------------------------------------------------------------------------------------
def test_a_failure_keeps_the_number_of_the_step_that_caused_it() -> None:
    assert failure_from(StepFailed("inner", Failure("ValueError", "no"), attempts=1, seq=7)).step == 7
