"""What the log says of connections that failed or were ended, whichever worker had them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from fedsdn.damped_log import DampedLog
from fedsdn.proxy.ended.record import FAULTS, Reason
from fedsdn.proxy.stats import Statistics

_SEE = "see 'fedsdn connections --ended'"


class EndedLog:
    """Compares what all workers have counted with what was said; the parent looks now and then."""

    def __init__(
        self, statistics: Statistics, log: DampedLog, told: Mapping[str, int] | None = None
    ) -> None:
        """Begin; ``told`` is how many of a reason the program before a reload has said."""
        self._statistics = statistics
        self._log = log
        self._told = {reason: (told or {}).get(reason.key, 0) for reason in Reason}

    @property
    def told(self) -> dict[str, int]:
        """How many of each reason have been said."""
        return {reason.key: count for reason, count in self._told.items()}

    def look(self) -> None:
        """Say what is new of each reason: how often, and the last."""
        totals = self._statistics.totals()
        for reason, told in self._told.items():
            if (count := totals[f"ended_{reason.key}"]) > told:
                self._told[reason] = count
                level = logging.WARNING if reason in FAULTS else logging.INFO
                self._log.say(level, reason, partial(self._last, reason), times=count - told)

    def _last(self, reason: Reason) -> str:
        records = [one for one in self._statistics.ended() if one.reason is reason]
        return f"{records[-1] if records else reason} ({_SEE})"
