"""Testing workflows: today's code repeats what was recorded, and code that does not repeat itself shows at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.testing import History, TestEngine, replay
from tests.fundamentals.virtual import DAY, article, ask, asking, double, month


# --- code that changes --------------------------------------------------------------------------------------
@rf.workflow(id="story", version="1")
async def story(topic: str) -> str:
    text = await ask(topic)
    await asyncio.sleep(DAY)
    return f"{text}, {await ask('a title')}"


@rf.workflow(id="story", version="1")
async def reordered(topic: str) -> str:
    text = await ask(topic)
    await asyncio.sleep(DAY)
    return f"{text}, {await double(2)}"


@rf.workflow(id="story", version="1")
async def shortened(topic: str) -> str:
    return await ask(topic)


@pytest.fixture
def history(env: TestEngine) -> History:
    env.script(ask, side_effect=lambda question: f"about {question}")
    env.execute(story.options(id="story-1"), "tides")
    return History.of(env, "story-1")


@pytest.mark.parametrize("name", ["story.json", "story.msgpack"])
def test_a_recorded_journal_is_kept_in_a_file_and_repeated_by_todays_code(
    history: History, tmp_path: Path, name: str
) -> None:
    history.save(tmp_path / name)
    kept = History.load(tmp_path / name)
    assert kept == history
    replay(kept, story)


def test_changed_code_is_told_what_was_expected_and_what_was_seen(history: History) -> None:
    with pytest.raises(rf.NonDeterminismError) as differs:
        replay(history, reordered)
    assert (differs.value.expected, differs.value.seen) == ("step 'ask' (number 1 of this entry)", "step 'double'")
    with pytest.raises(rf.NonDeterminismError, match="the workflow's end"):
        replay(history, shortened)
    with pytest.raises(rf.IncompatibleVersion, match="'story' version '1', but this is 'month'"):
        replay(history, month)


def test_an_execution_that_is_not_over_can_be_replayed_too(env: TestEngine) -> None:
    env.script(ask, returns="a draft")
    env.start(article.options(id="article-1"), "tides")
    env.advance(DAY)
    replay(History.of(env, "article-1"), article)


def test_journals_are_read_from_a_store_that_nobody_runs(store: str) -> None:
    with TestEngine(store) as env:
        for number in range(3):
            env.execute(month.options(id=f"month-{number}"), number)
    assert [history.execution_id for history in History.read_all(store, workflow="month")] == [
        "month-2", "month-1", "month-0"
    ]  # fmt: skip
    replay(History.read(store, "month-1"), month)
    with pytest.raises(rf.ExecutionNotFound):
        History.read(store, "month-3")
    with pytest.raises(rf.StorageUnavailable, match="no-such"):
        History.read(store.replace("flows", "no-such"), "month-1")
    with pytest.raises(rf.InvalidArgument, match=r"History\.of"):
        History.read("memory://", "month-1")


def test_the_code_is_found_by_what_the_journal_says_if_it_can_be(env: TestEngine, history: History) -> None:
    replay(history)

    @rf.workflow
    async def local() -> None: ...

    env.execute(local.options(id="local"))
    with pytest.raises(rf.InvalidArgument, match="pass the workflow"):
        replay(History.of(env, "local"))
    env.execute(local.options(id="off", checkpoints="off"))
    with pytest.raises(rf.InvalidArgument, match="checkpoints='off'"):
        replay(History.of(env, "off"), local)


def test_a_failure_of_todays_code_is_shown_with_the_difference(history: History) -> None:
    @rf.workflow(id="story", version="1")
    async def broken(topic: str) -> str:
        await ask(topic)
        raise KeyError("a typo of today")

    with pytest.raises(rf.NonDeterminismError) as differs:
        replay(history, broken)
    assert "a typo of today" in "".join(differs.value.__notes__)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    for text in ("no json", "[]", '{"format": "rayflow journal 9"}'):
        (tmp_path / "wrong.json").write_text(text)
        with pytest.raises(rf.InvalidArgument, match=r"wrong\.json"):
            History.load(tmp_path / "wrong.json")


# --- code that does not repeat itself -----------------------------------------------------------------------
def fickle() -> rf.WorkflowFunction[[], int]:
    """A workflow that depends on what is not recorded: here, how often its code has begun."""
    begun = iter(range(1_000))

    @rf.workflow
    async def flow() -> int:
        odd = next(begun) % 2
        await double(1)
        if odd:
            await double(2)
        return await double.options(name="last")(3)

    return flow


def test_paranoid_shows_what_a_test_would_not_notice() -> None:
    with TestEngine() as env:
        assert env.execute(fickle()) == 6
    with TestEngine(paranoid=True) as env:
        handle = env.start(fickle().options(id="fickle"))
        with pytest.raises(rf.NonDeterminismError) as differs:
            handle.result()
        assert differs.value.expected == "step 'double' (number 1 of this entry)"
        assert differs.value.seen == "step 'last'"
        assert handle.status().status == "paused"


def test_paranoid_shows_it_also_to_who_only_moves_the_clock() -> None:
    with TestEngine(paranoid=True) as env:
        env.start(fickle())
        with pytest.raises(rf.NonDeterminismError):
            env.advance(DAY)
    with pytest.raises(rf.NonDeterminismError), TestEngine(paranoid=True) as env:
        env.start(fickle()).status()


def test_paranoid_sees_timers_that_differ() -> None:
    begun = iter(range(1, 1_000))

    @rf.workflow
    async def naps() -> None:
        await asyncio.sleep(next(begun))

    with TestEngine() as env:
        assert env.execute(naps) is None
    with TestEngine(paranoid=True) as env, pytest.raises(rf.NonDeterminismError, match="timer 1 due at"):
        env.execute(naps)


@pytest.mark.parametrize(("flow", "given"), [(month, 3), (asking, "3"), (article, "3"), (story, "3")])
def test_what_repeats_itself_comes_to_the_same(flow: rf.WorkflowFunction[..., object], given: object) -> None:
    found = []
    for paranoid in (False, True):
        with TestEngine(paranoid=paranoid) as env:
            env.script(ask, side_effect=[TimeoutError("busy"), *map(str, range(10))])
            found.append((env.execute(flow.options(id="one"), given), History.of(env, "one").rows, env.calls()))
    assert found[0] == found[1]
