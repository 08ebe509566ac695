"""Figures from measurements: silences, percentiles, rates. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Sample = tuple[float, int]
"""A time in seconds, and the bytes carried until then."""


def longest_silence(buckets: Mapping[int, int], first: int, last: int) -> int:
    """Count the buckets of the longest run without a byte, from bucket ``first`` to ``last``."""
    longest = run = 0
    for bucket in range(first, last + 1):
        run = 0 if buckets.get(bucket) else run + 1
        longest = max(longest, run)
    return longest


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a value that was measured, never one in between.

    Raises:
        ValueError: there are no values.

    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary of many measurements of one figure, in the unit of the values."""

    n: int
    median: float
    p99: float
    worst: float


def summary(values: Iterable[float]) -> Summary | None:
    """Sum measurements up; None if there are none."""
    found = list(values)
    if not found:
        return None
    return Summary(len(found), median(found), percentile(found, 99), max(found))


def rate(samples: Sequence[Sample], seconds: float) -> float:
    """Bytes per second over the last ``seconds`` of samples; 0 if they do not reach back so far."""
    if not samples:
        return 0.0
    end, total = samples[-1]
    for at, size in reversed(samples):
        if end - at >= seconds:
            return (total - size) / (end - at)
    return 0.0
