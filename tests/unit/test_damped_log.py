"""A log that says each kind once a minute."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from fedsdn.damped_log import DampedLog

_LOG = logging.getLogger(__name__)


class Desk:
    """A damped log with a clock, and timers, of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.log = DampedLog(_LOG, self.later, lambda: self.now)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        self.timers.append((self.now + seconds, act))

    def say(self, text: str, kind: str = "kind", burst: int = 1) -> None:
        self.log.say(logging.WARNING, kind, text, burst)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda one: one[0])
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


@pytest.fixture
def desk(caplog: pytest.LogCaptureFixture) -> Desk:
    caplog.set_level(logging.INFO)
    return Desk()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_the_first_is_said_at_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.say("down")
    assert said(caplog) == ["down"]


def test_of_the_rest_the_last_is_said(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for text in ("down", "up", "down", "up"):
        desk.say(text)
    desk.pass_time(61)
    assert said(caplog) == ["down", "up (3 times since)"]
    desk.pass_time(600)
    assert said(caplog) == ["down", "up (3 times since)"]
    assert not desk.timers


def test_what_changes_back_once_is_said_at_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("down", "up", "down", "up", "down"):
        desk.say(text, burst=2)
    assert said(caplog) == ["down", "up"]
    desk.pass_time(61)
    assert said(caplog) == ["down", "up", "down (3 times since)"]
    desk.say("up", burst=2)
    desk.pass_time(61)
    assert said(caplog)[3:] == ["up"]
    desk.pass_time(120)
    for text in ("down", "up"):
        desk.say(text, burst=2)
    assert said(caplog)[4:] == ["down", "up"]


def test_a_burst_is_of_what_differs(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for text in ("gone", "gone", "gone", "here", "gone", "here"):
        desk.say(text, burst=2)
    assert said(caplog) == ["gone", "here"]
    desk.pass_time(61)
    assert said(caplog)[2:] == ["here (4 times since)"]


def test_faults_are_told_apart_by_place(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    def fails(number: int) -> None:
        try:
            if number % 2:
                int("x")
            int("y")
        except ValueError as error:
            desk.log.fault("broken", error)

    for number in range(10):
        fails(number)
    first, second = said(caplog)
    assert first.startswith("broken\nTraceback")
    assert first.endswith("invalid literal for int() with base 10: 'y'")
    assert second.endswith("invalid literal for int() with base 10: 'x'")


def test_one_that_follows_is_said_as_it_is(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.say("down")
    desk.say("up")
    desk.pass_time(61)
    assert said(caplog) == ["down", "up"]


def test_a_line_a_minute_at_most(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(1000):
        desk.say("again")
        desk.pass_time(1)
    assert 16 <= len(said(caplog)) <= 17
    numbers = [int(text.split("(")[1].split()[0]) for text in said(caplog) if "(" in text]
    assert 900 < 1 + sum(numbers) <= 1000


def test_kinds_have_nothing_to_do_with_each_other(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.say("one", "a")
    desk.say("two", "b")
    assert said(caplog) == ["one", "two"]


def test_endless_kinds_fill_nothing(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5000):
        desk.say("from outside", str(number))
    assert len(said(caplog)) < 1100
    desk.pass_time(200)
    desk.say("later", "new")
    assert said(caplog)[-1] == "later"


def test_without_timers_whoever_looks_says_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = DampedLog(_LOG, clock=lambda: now)
    for _ in range(3):
        log.say(logging.WARNING, "kind", "again")
    log.say_rest()
    now = 60.0
    log.say_rest()
    assert said(caplog) == ["again", "again (2 times since)"]
