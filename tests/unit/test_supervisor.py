"""Whatever fails in the loop leaves its thread, and the log says what it was."""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest

from fedsdn.controller.loop_thread import LoopThread
from fedsdn.controller.supervisor import supervise


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """Tasks that never end are found pending when memory is swept; other tests read the log."""
    yield
    gc.collect()


class InjectedError(Exception):
    """Nothing that any code expects."""


async def for_ever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise InjectedError("here")


async def end() -> None:
    pass


def test_a_task_that_fails_ends_all_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with pytest.raises(InjectedError, match="here"):
            await supervise({"patient": for_ever, "weak": fail})

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert "task 'weak' failed: InjectedError('here')" in caplog.text


def test_a_task_that_ends_is_a_failure_too(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="'short' has ended"):
            await supervise({"patient": for_ever, "short": end})

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert "task 'short' has ended" in caplog.text


def test_a_task_that_does_not_stop_keeps_nobody() -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await for_ever()
        await for_ever()

    async def scenario() -> None:
        with pytest.raises(InjectedError):
            await supervise({"stubborn": stubborn, "weak": fail})

    asyncio.run(asyncio.wait_for(scenario(), 60))


def failure_of(
    main: Callable[[], Coroutine[Any, Any, None]],
    monkeypatch: pytest.MonkeyPatch,
    then: Callable[[LoopThread], None] = lambda _thread: None,
) -> BaseException | None:
    """Return what leaves a loop's thread."""
    left: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: left.append(failed.exc_value))
    thread = LoopThread(main)
    thread.start()
    then(thread)
    thread.join(60)
    assert not thread.is_alive()
    [error] = left
    return error


def test_what_leaves_main_leaves_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(failure_of(fail, monkeypatch), InjectedError)


def raise_injected() -> None:
    raise InjectedError("posted")


def test_a_callback_that_fails_leaves_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    error = failure_of(for_ever, monkeypatch, lambda thread: thread.post(raise_injected))
    assert isinstance(error, InjectedError)


def test_a_timer_that_fails_leaves_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(0.01, raise_injected)
        await for_ever()

    assert isinstance(failure_of(main, monkeypatch), InjectedError)


def raise_unreachable() -> None:
    raise OSError(errno.ENETUNREACH, "injected")


@pytest.mark.parametrize("when", ["posted", "later"])
def test_an_error_of_the_system_in_a_callback_is_no_transports(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """asyncio logs those of its transports, and goes on."""

    async def main() -> None:
        if when == "later":
            asyncio.get_running_loop().call_later(0.01, raise_unreachable)
        await for_ever()

    post = None if when == "later" else lambda thread: thread.post(raise_unreachable)
    error = failure_of(main, monkeypatch, *([post] if post else []))
    assert isinstance(error, OSError)


def test_main_begins_before_what_was_posted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def main() -> None:
        seen.append("main")
        await for_ever()

    monkeypatch.setattr(threading, "excepthook", lambda _failed: None)
    thread = LoopThread(main)
    thread.post(seen.append, "posted")
    thread.post(raise_injected)
    thread.start()
    thread.join(60)
    assert seen == ["main", "posted"]


def test_work_that_is_finished_in_the_loop_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = threading.Event()

    async def quick() -> None:
        done.set()

    def finish(thread: LoopThread) -> None:
        thread.finish(quick(), 60)
        assert done.is_set()
        thread.finish(for_ever(), 0.01)
        thread.post(raise_injected)

    failure_of(for_ever, monkeypatch, finish)
