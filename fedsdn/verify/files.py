"""Whether all sites follow the federation file that this site has."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fedsdn.config.differences import digest
from fedsdn.units import ago
from fedsdn.uplinks.status import COMPARE_FILES, DifferingFile, SiteStatus
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.view import SiteView

_MOST_NAMED = 5


def files(view: SiteView, status: SiteStatus | None) -> str:
    """See that the application and all peers that it hears follow the site's file.

    Raises:
        CheckFailedError: one of them has another.

    """
    if status is None:
        return "unknown: no application says so"
    if status.file != digest(view.federation):
        raise CheckFailedError(
            "the application does not follow this file",
            "its log says why: journalctl -u fedsdn-app; " + view.set_up,
        )
    if status.differing:
        raise CheckFailedError("; ".join(differing(status.differing)), COMPARE_FILES)
    return "no peer has another"


def differing(sites: Sequence[DifferingFile], now: float | None = None) -> list[str]:
    """Say of each site with another file for how long that is known; of many, how many more."""
    now = time.time() if now is None else now
    lines = [
        f"site {one.site}'s federation file differs from ours, for {ago(one.since, now)}"
        for one in sites[:_MOST_NAMED]
    ]
    more = len(sites) - _MOST_NAMED
    return [*lines, f"so do those of {more} more"] if more > 0 else lines
