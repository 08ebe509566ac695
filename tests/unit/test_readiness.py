"""A worker is ready when it knows which paths are down, or when nobody would say so."""

from __future__ import annotations

import asyncio

import pytest

from fedsdn.proxy.process import readiness
from fedsdn.proxy.process.readiness import until_paths_are_known
from tests.unit.loopback import LIMIT_SECONDS


async def said_after(*, told: bool, application: bool) -> bool:
    """Whether it is ready before somebody tells of paths; if ``told``, somebody does soon."""
    event = asyncio.Event()
    waiting = asyncio.create_task(until_paths_are_known(event, lambda: application))
    done, _ = await asyncio.wait([waiting], timeout=0.3 if told else LIMIT_SECONDS)
    if told:
        event.set()
    await waiting
    return bool(done)


def test_it_is_ready_when_it_was_told() -> None:
    assert not asyncio.run(said_after(told=True, application=False))


def test_with_an_application_it_waits_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ALONE_SECONDS", 0.01)
    assert not asyncio.run(said_after(told=True, application=True))


def test_without_an_application_it_is_ready_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ALONE_SECONDS", 0.01)
    assert asyncio.run(said_after(told=False, application=False))


def test_an_application_that_never_tells_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ALONE_SECONDS", 0.01)
    monkeypatch.setattr(readiness, "TOLD_SECONDS", 0.01)
    assert asyncio.run(said_after(told=False, application=True))
