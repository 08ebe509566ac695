"""What a site says of its federation file; no clock."""

from __future__ import annotations

from dataclasses import dataclass

_FRESH_SECONDS = 60.0
"""What was heard longer ago says nothing of the site now: it may have left. (A site that is heard
says something at least each ``pace.SHARES`` seconds.)"""


@dataclass(slots=True)
class HeardFile:
    """The ``digest`` of a site's federation file, as heard last; None before the first probe.

    ``since`` is when it began to be another than ours, if it is.
    """

    digest: str | None = None
    since: float = 0.0
    heard: float = float("-inf")
    """When its last probe came."""

    def note(self, digest: str, ours: str, now: float) -> None:
        """Note what a probe says."""
        if self.digest != digest and self.digest in (None, ours):
            self.since = now
        self.digest, self.heard = digest, now

    def differs(self, ours: str, now: float) -> bool:
        """Whether it is another than ours, by what was heard within a minute."""
        return self.digest not in (None, ours) and not self.is_old(now)

    def is_old(self, now: float) -> bool:
        """Whether nothing was heard for so long that it says nothing any more."""
        return now - self.heard >= _FRESH_SECONDS
