"""How many requests were refused for each peer and reason, in memory that outlives the worker.

One process writes, any may read, and nobody waits: an entry counts once its number is not zero,
which is written last.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from fedsdn.proxy.ended.record import Ended, Reason

ENTRIES = 512
"""Of one worker. More pairs of peer and reason are not told apart; each reason counts all."""

_NAME_BYTES = 32
_ENTRY = struct.Struct(f"<{_NAME_BYTES}sBQQ")
"""The peer's name, filled up with zeroes; reason; how many; Unix time of the last."""

_NUMBERS = struct.Struct("<QQ")
_NUMBERS_AT = _NAME_BYTES + 1
TABLE_BYTES = ENTRIES * _ENTRY.size

_REASONS = tuple(Reason)


@dataclass(frozen=True, slots=True)
class Refused:
    """So many requests of a ``peer``, or to it, were refused; ``last`` is Unix time."""

    peer: str
    reason: Reason
    count: int
    last: int

    def document(self) -> dict[str, object]:
        """Write it as what JSON holds."""
        return {**asdict(self), "reason": self.reason.key}


class ByPeer:
    """A worker's refusals, in ``TABLE_BYTES`` of shared memory, zero at first."""

    def __init__(self, memory: memoryview[int]) -> None:
        """Go on with what is there."""
        self._memory = memory
        self._places = {(one.peer, one.reason): place for place, one in enumerate(self.refused())}

    def add(self, ended: Ended) -> None:
        """Count a refusal."""
        key = ended.peer, ended.reason
        place = self._places.setdefault(key, len(self._places))
        if place >= ENTRIES:
            del self._places[key]
            return
        at = place * _ENTRY.size
        name, _, count, _ = _ENTRY.unpack_from(self._memory, at)
        if not count:
            name = ended.peer.encode()[:_NAME_BYTES]
            _ENTRY.pack_into(self._memory, at, name, _REASONS.index(ended.reason), 0, 0)
        _NUMBERS.pack_into(self._memory, at + _NUMBERS_AT, count + ended.count, int(ended.time))

    def refused(self) -> Iterator[Refused]:
        """Yield what was counted, in the order of the first ones."""
        for name, reason, count, last in _ENTRY.iter_unpack(self._memory):
            if not count or reason >= len(_REASONS):  # a worker of ours writes no such number
                return
            peer = name.rstrip(b"\0").decode(errors="replace")
            yield Refused(peer, _REASONS[reason], count, last)


def summed(every: Iterable[Refused]) -> list[Refused]:
    """Add up what several workers have counted, the most frequent first."""
    found: dict[tuple[str, Reason], Refused] = {}
    for one in every:
        key = one.peer, one.reason
        so_far = found.get(key, Refused(*key, 0, 0))
        found[key] = Refused(*key, so_far.count + one.count, max(so_far.last, one.last))
    return sorted(found.values(), key=lambda one: (-one.count, one.peer, one.reason))
