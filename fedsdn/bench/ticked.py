"""What became of numbered datagrams that were sent all the time. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

CHANGE_SECONDS = 1.0
"""Datagrams may come out of order for so long after a path is lost or has returned."""


@dataclass(frozen=True, slots=True)
class OneWay:
    """Datagrams one way: when each was sent, number 1 first, and which came when, in seconds."""

    sent: Sequence[float]
    came: Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of the datagrams that were sent between two moments.

    ``lost`` never came, ``again`` came once more, ``late`` came behind one with a greater number,
    ``late_elsewhere`` of these at no change of paths. ``silence`` is the receiver's longest, in
    seconds.
    """

    sent: int
    lost: int
    again: int
    late: int
    late_elsewhere: int
    silence: float


def fate(one_way: OneWay, begin: float, end: float, changes: Sequence[float]) -> Fate:
    """Find out what became of them; ``changes`` are the moments when paths changed."""
    numbers = {n for n, at in enumerate(one_way.sent, 1) if begin <= at < end}
    times = Counter(number for number, _ in one_way.came if number in numbers)
    late = list(_late(one_way, numbers))
    return Fate(
        sent=len(numbers),
        lost=len(numbers - times.keys()),
        again=sum(times.values()) - len(times),
        late=len(late),
        late_elsewhere=sum(not _is_near(at, changes) for at in late),
        silence=_silence([at for _, at in one_way.came if begin <= at <= end], begin),
    )


def _late(one_way: OneWay, numbers: set[int]) -> list[float]:
    """Return when datagrams came that later ones had overtaken."""
    newest, found, seen = 0, [], set[int]()
    for number, at in one_way.came:
        if number < newest and number in numbers and number not in seen:
            found.append(at)
        newest = max(newest, number)
        seen.add(number)
    return found


def _is_near(at: float, changes: Sequence[float]) -> bool:
    return any(change <= at < change + CHANGE_SECONDS for change in changes)


def _silence(came: Sequence[float], begin: float) -> float:
    return max(
        (later - earlier for earlier, later in zip([begin, *came], came, strict=False)), default=0.0
    )
