"""The event loop for async steps: contexts, and what ends the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from rayflow.runtime.worker.async_loop import LoopThread
from tests.runtime.actors.actors import PATIENCE

PLACE: ContextVar[str] = ContextVar("place", default="nowhere")


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    made = LoopThread("loop")
    yield made
    made.stop(PATIENCE)


class Waiter:
    """Runs a coroutine from a separate thread, and keeps its outcome."""

    def __init__(self, loop: LoopThread, *, stubborn: bool = False) -> None:
        self.begun = threading.Event()
        self.seen: list[str] = []
        self.release = asyncio.Event()
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._stubborn = stubborn
        threading.Thread(target=self._run, args=(loop,), daemon=True).start()

    def _run(self, loop: LoopThread) -> None:
        try:
            loop.run(self._wait())
        except BaseException as error:  # noqa: BLE001 - the test checks it
            self.error = error
        self.ended.set()

    async def _wait(self) -> None:
        self.begun.set()
        while True:
            try:
                await self.release.wait()
            except asyncio.CancelledError as error:
                self.seen.append(str(error))
                if not self._stubborn:
                    raise


async def place() -> str:
    await asyncio.sleep(0)
    found = PLACE.get()
    PLACE.set("changed")
    return found


def test_a_coroutine_runs_in_a_copy_of_its_callers_context(loop: LoopThread) -> None:
    PLACE.set("here")
    assert [loop.run(place()), loop.run(place()), PLACE.get()] == ["here", "here", "here"]


def test_an_exception_reaches_the_caller(loop: LoopThread) -> None:
    async def fail() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        loop.run(fail())


def test_an_exit_ends_neither_the_loop_nor_what_else_runs_there(
    loop: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        raise SystemExit(1)

    async def child() -> str:
        task = asyncio.create_task(leave())
        await asyncio.wait([task])
        return type(task.exception()).__name__

    other = Waiter(loop)
    assert other.begun.wait(PATIENCE)
    assert loop.run(child()) == "SystemExit"
    assert "a task of a step raised SystemExit" in caplog.text
    assert not other.ended.is_set()


def test_stopping_cancels_what_runs_and_lets_it_clean_up(loop: LoopThread) -> None:
    waiter = Waiter(loop)
    assert waiter.begun.wait(PATIENCE)
    loop.stop(PATIENCE)
    assert waiter.ended.wait(PATIENCE)
    assert isinstance(waiter.error, concurrent.futures.CancelledError)
    assert waiter.seen == ["the worker stops"]


def test_stopping_lets_go_of_whoever_waits_for_what_cannot_be_ended(
    loop: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    waiter = Waiter(loop, stubborn=True)
    assert waiter.begun.wait(PATIENCE)
    loop.stop(0.01)
    assert waiter.ended.wait(PATIENCE)
    assert isinstance(waiter.error, concurrent.futures.CancelledError)


def test_a_stopped_loop_runs_nothing(loop: LoopThread) -> None:
    called: list[int] = []
    loop.call(lambda: called.append(1))
    loop.stop(0.0)
    loop.call(lambda: called.append(2))
    with pytest.raises(concurrent.futures.CancelledError):
        loop.run(place())
    assert called == []
