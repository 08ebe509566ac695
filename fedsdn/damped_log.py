"""A log that says each kind of event once a minute at most, and how often it happened meanwhile.

What happens is not damped, only what is said of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass

AGAIN_SECONDS = 60.0

_LATE_SECONDS = 0.1
"""So much later than due the rest is said: a timer may expire a moment early."""

_MOST_KINDS = 1000

Later = Callable[[float, Callable[[], None]], object]
"""Calls something after so many seconds, as ``call_later`` of an event loop does."""


Text = str | Callable[[], str]
"""What is logged, or what makes it when it is."""


@dataclass(slots=True)
class _Said:
    """A kind: quiet ``until``, but for ``left`` more. ``unsaid`` since; ``text`` the last."""

    until: float
    left: int
    level: int
    text: Text
    unsaid: int = 0


def _in_running_loop(seconds: float, act: Callable[[], None]) -> None:
    """Call ``act`` then, if there is an event loop here; else somebody calls ``say_rest``."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    loop.call_later(seconds, act)


class DampedLog:
    """Says the first event of a kind at once, and the last of those in the minute after at its end.

    So the last line about a kind that goes back and forth is how it was left.
    """

    def __init__(
        self,
        logger: logging.Logger,
        later: Later = _in_running_loop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Log with ``logger``. Who has no event loop calls ``say_rest`` now and then."""
        self._logger = logger
        self._later = later
        self._clock = clock
        self._said: dict[Hashable, _Said] = {}

    def say(self, level: int, kind: Hashable, text: Text, burst: int = 1, times: int = 1) -> None:
        """Log ``text``, an event of this ``kind``, unless one was logged in the last minute.

        There may have been several at once, ``times``, of which this is the last.

        In a ``burst`` of so many one that differs from the one before is logged nevertheless: with
        2, what changes and changes back once.
        """
        now = self._clock()
        if kind not in self._said and len(self._said) >= _MOST_KINDS:
            kind = None  # all others together: nobody outside may fill log or memory
        said = self._said.get(kind)
        if said is None or (now >= said.until and not said.unsaid):
            self._said[kind] = _Said(now + AGAIN_SECONDS, burst - 1, level, text)
            self._logger.log(level, "%s%s", _words(text), _how_often(times, "times"))
            self._later(AGAIN_SECONDS + _LATE_SECONDS, self.say_rest)
            return
        if said.left and text != said.text and now < said.until:
            said.left, said.level, said.text = said.left - 1, level, text
            self._logger.log(level, "%s", _words(text))
            return
        said.level, said.text, said.unsaid = level, text, said.unsaid + times
        if now >= said.until:
            self._say_unsaid(said, now)

    def fault(self, text: str, error: BaseException) -> None:
        """Log an exception with its traceback; those raised in one place are of one kind."""
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        place = [(one.filename, one.lineno) for one in frame]
        told = "".join(traceback.format_exception(error)).rstrip()
        self.say(logging.ERROR, (text, *place), f"{text}\n{told}")

    def say_rest(self, *, at_the_end: bool = False) -> None:
        """Log the last event of each kind whose minute is over, with how many there were.

        ``at_the_end`` every minute is over.
        """
        now = self._clock()
        for kind, said in list(self._said.items()):
            if now < said.until and not at_the_end:
                continue
            if said.unsaid:
                self._say_unsaid(said, now)
            else:
                del self._said[kind]

    def _say_unsaid(self, said: _Said, now: float) -> None:
        more = _how_often(said.unsaid, "times since")
        self._logger.log(said.level, "%s%s", _words(said.text), more)
        said.until, said.left, said.unsaid = now + AGAIN_SECONDS, 0, 0
        self._later(AGAIN_SECONDS + _LATE_SECONDS, self.say_rest)


def _words(text: Text) -> str:
    return text if isinstance(text, str) else text()


def _how_often(number: int, times: str) -> str:
    return f" ({number} {times})" if number > 1 else ""
