"""Writes what the uplinks' monitor knows for whoever shows it, as often as the processor allows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from fedsdn.damped_log import DampedLog
from fedsdn.uplinks.status import (
    COMPARE_FILES,
    WRITE_SECONDS,
    DifferingFile,
    SiteStatus,
    keep_status,
    write_status,
)

_MOST_NAMED = 5
"""So many sites are named in one line of the log."""

_CHANGES_AT_ONCE = 4
"""So many changes of these sites are logged at once, and of more the last one each minute."""

_WRITE_SHARE, _CHANGED_SHARE = 200, 20
"""Writing the status takes at most one part in so many of a processor's time; while states change
the second counts."""


class StatusFile:
    """The status file of a site, and the log of sites with another federation file."""

    def __init__(self, file: Path, log: DampedLog) -> None:
        """Begin with a status that is due."""
        self._file = file
        self._log = log
        self._differing: list[str] = []
        """Sites with another federation file, as logged last."""
        self._unwritten = True
        """Whether a state has changed since the file was written."""
        self._written = float("-inf")
        self._cost = 0.0
        """How long writing it took, in seconds of a processor."""

    def next_write(self) -> float:
        """After how many seconds a change may be written; infinite if there is none."""
        if not self._unwritten:
            return float("inf")
        return max(0.0, self._written + self._cost * _CHANGED_SHARE - time.monotonic())

    def write_or_keep(self, status: Callable[[], SiteStatus], *, due: bool) -> None:
        """Write the file if something has changed, and that does not take too long."""
        self._unwritten |= due
        since = time.monotonic() - self._written
        rest = max(WRITE_SECONDS, self._cost * _WRITE_SHARE)
        if since >= (self._cost * _CHANGED_SHARE if self._unwritten else rest):
            self._write(status)
        else:
            with suppress(OSError):
                keep_status(self._file)

    def _write(self, status: Callable[[], SiteStatus]) -> None:
        began, used = time.monotonic(), time.thread_time()
        written = status()
        self._say_files(written.differing)
        try:
            write_status(written, self._file)
        except OSError as error:
            text = f"the uplinks' status cannot be written: {error}"
            self._log.say(logging.WARNING, text, text)
        self._unwritten, self._written = False, began
        self._cost = time.thread_time() - used

    def _say_files(self, differing: Sequence[DifferingFile]) -> None:
        """Log which sites have another federation file, whenever these are others."""
        sites = sorted(one.site for one in differing)
        if sites == self._differing:
            return
        self._differing = sites
        named = ", ".join(sites[:_MOST_NAMED]) + (" and others" if sites[_MOST_NAMED:] else "")
        level, text = logging.INFO, "no site has another federation file than ours any more"
        if sites:
            level = logging.WARNING
            text = f"the federation file of {named} differs from ours; {COMPARE_FILES}"
        self._log.say(level, "files", text, _CHANGES_AT_ONCE)
