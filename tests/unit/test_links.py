"""What is told of interfaces without a carrier, when the kernel or the machine is in the way.

The kernel is a fake; tests/real/test_links.py asks the real one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from fedsdn.uplinks import links
from fedsdn.uplinks.links import Links
from tests.unit.loopback import asynchronous, until

UP1, UP2 = frozenset({"up1"}), frozenset({"up2"})


class FakeCarriers:
    """Answers the looks one after the other, the last one for ever; None: by an error."""

    def __init__(self, answers: Iterable[frozenset[str] | None]) -> None:
        self._answers = list(answers)

    def __call__(self, _names: Sequence[str]) -> FakeCarriers:
        return self

    def __enter__(self) -> FakeCarriers:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def lost(self) -> frozenset[str]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is None:
            raise TimeoutError("no answer")
        return answer


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_TURN_SECONDS", 0)


async def told(last: Set[str]) -> list[Set[str]]:
    """Return what is told until ``last`` is."""
    heard: list[Set[str]] = []
    with ThreadPoolExecutor(1) as executor:
        task = asyncio.create_task(Links(lambda: ["up1", "up2"], heard.append, executor).run())
        try:
            await until(lambda: task.done() or last in heard)
            assert not task.done() or task.result() is None
        finally:
            task.cancel()
            await asyncio.wait([task])
    return heard


@asynchronous
async def test_what_is_lost_stays_so_while_the_kernel_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links, "Carriers", FakeCarriers([UP1, None, None, UP1, UP1 | UP2]))
    assert await told(UP1 | UP2) == [UP1, UP1 | UP2]


@asynchronous
async def test_a_machine_that_stands_still_in_the_middle_of_a_look_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hours: Iterator[int] = itertools.count(0, 3600)
    monkeypatch.setattr(links, "time", SimpleNamespace(monotonic=lambda: next(hours), sleep=None))
    monkeypatch.setattr(links, "Carriers", FakeCarriers([frozenset(), UP1]))
    assert await told(UP1) == [UP1]


@asynchronous
async def test_one_that_comes_and_goes_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(now) / 1000, sleep=lambda _seconds: None)
    monkeypatch.setattr(links, "time", clock)
    none: frozenset[str] = frozenset()
    comes_and_goes = [UP1, none] * 20
    monkeypatch.setattr(links, "Carriers", FakeCarriers([*comes_and_goes, UP1 | UP2]))
    assert await told(UP1 | UP2) == [UP1, none, UP1, UP1 | UP2]
