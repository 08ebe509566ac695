"""Workers of a new program take the places of those that run: the parent's part of a reload.

The new ones are started beside the others, and take nothing until all are ready. Then the others
are told to leave; the doors that they give away are dealt out. Until then nothing is lost if a new
one fails.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fedsdn.proxy.process.doors import Doors, Word, say
from fedsdn.proxy.process.handed_on import HandedWorker

READY_SECONDS = 30.0
"""How long new workers may take until they are ready."""

DOORS_SECONDS = 5.0
"""How long the others may take to give their doors away; late ones go to whoever serves then."""


@dataclass(slots=True)
class Child:
    """A worker, as its parent knows it."""

    pid: int
    number: int
    control: socket.socket
    started: float
    fresh: bool = False
    """It takes nothing yet."""
    leaving: bool = False
    """It takes nothing any more."""

    @classmethod
    def taken(cls, one: HandedWorker) -> Child:
        """Return the one that another program has handed on."""
        control = socket.socket(fileno=one.control)
        return cls(one.pid, one.number, control, one.started, leaving=one.leaving)

    def handed(self) -> HandedWorker:
        """Return what is handed on."""
        control = self.control.fileno()
        return HandedWorker(self.pid, self.number, control, self.leaving, self.started)


class Succession:
    """New workers, and those whose places they take."""

    def __init__(self, fresh: Sequence[Child], before: Sequence[Child]) -> None:
        """Begin: the new ones have been started."""
        self.fresh = {child.number: child for child in fresh}
        self._before = {child.number: child for child in before}
        """Also those that leave since an earlier reload: they read the federation file again."""
        self._unready = set(self.fresh)
        self._awaited: set[int] = set()
        """Those told to leave who have not given their doors away yet."""
        self._doors: dict[int, int] = dict.fromkeys(self.fresh, 0)
        self._deadline = time.monotonic() + READY_SECONDS
        self.failure = ""
        """Why the new ones do not take over; empty: nothing has failed."""
        self.over = False

    def heard(self, child: Child, word: Word, doors: Sequence[Doors]) -> None:
        """Take up what a worker says; its ``doors`` are closed here."""
        if word is Word.READY and child.number in self._unready:
            self._unready.discard(child.number)
            if not self._unready:
                self._hand_over()
        elif word is Word.DOORS:
            self._deal(doors)
            self._is_awaited_no_more(child.number)

    def awaits(self, child: Child) -> bool:
        """Whether the doors that a worker gives away are dealt out here."""
        return child.number in self._awaited

    def ended(self, child: Child) -> None:
        """Take up that a worker has ended."""
        if child.number in self._unready:
            self.failure = f"worker {child.number} of the new program ended before it was ready"
        self._before.pop(child.number, None)
        self._doors.pop(child.number, None)
        self._is_awaited_no_more(child.number)

    def look(self) -> None:
        """See whether somebody is late."""
        if time.monotonic() < self._deadline or self.over or self.failure:
            return
        if self._unready:
            self.failure = f"{len(self._unready)} workers of the new program are not ready in time"
        else:
            self._awaited.clear()
            self._finish()

    def _hand_over(self) -> None:
        self._deadline = time.monotonic() + DOORS_SECONDS
        self._awaited = {number for number, child in self._before.items() if not child.leaving}
        for child in self._before.values():
            child.leaving = True
            tell(child, Word.LEAVE)
        for child in self.fresh.values():
            child.fresh = False
        if not self._awaited:
            self._finish()

    def _deal(self, doors: Iterable[Doors]) -> None:
        """Give each of the doors to the new worker that has fewest."""
        for each in doors:
            if self._doors:
                number = min(self._doors, key=self._doors.__getitem__)
                self._doors[number] += 1
                tell(self.fresh[number], Word.TAKE, each)
            each.close()

    def _is_awaited_no_more(self, number: int) -> None:
        if number in self._awaited:
            self._awaited.discard(number)
            if not self._awaited:
                self._finish()

    def _finish(self) -> None:
        self.over = True
        for number, count in self._doors.items():
            if not count:
                tell(self.fresh[number], Word.OPEN)


def give(doors: Iterable[Doors], serving: Sequence[Child], first: int) -> None:
    """Give doors, which are closed here, to those who serve in turn, if any does.

    ``first`` is any number: who it is tells who begins.
    """
    for number, each in enumerate(doors, first):
        if serving:
            tell(serving[number % len(serving)], Word.TAKE, each)
        each.close()


def tell(child: Child, word: Word, *doors: Doors) -> None:
    """Say a word to a worker, if it lives."""
    with suppress(OSError):  # it has ended, which the parent hears
        say(child.control, word, *doors)
