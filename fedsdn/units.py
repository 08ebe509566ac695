"""Amounts as people read them."""

from __future__ import annotations


def size(number: float) -> str:
    """Write a number of bytes with a prefix of the SI, as 1.5 MB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} B"


def ago(since: float | None, now: float) -> str:
    """Say in words for how long something has been so; nothing if that is not known."""
    if since is None:
        return ""
    seconds = max(0.0, now - since)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{int(seconds)} s"
