"""What all workers know of destinations and of held SYNs, in memory that they share.

A part of the key's digest stands in the entry. What finds no room is forgotten: then a destination
is asked first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fedsdn.proxy.memory import SECRET_WORDS, Memory, digest, secret_in, words
from fedsdn.socket_address import SocketAddress

KNOWN_SECONDS = 300.0
"""How long a destination that has answered is known to listen."""

PLACES = 1 << 16
"""Of known destinations: 512 KiB."""

HELD_PLACES = 1 << 14
"""Of the SYNs that one worker holds: sixteen times as many as it may hold, 128 KiB."""

_PROBES = 8
"""In so many places next to each other an entry may stand."""

_TICKS_PER_SECOND = 10
_TICK_BITS = 31
_FORGOTTEN = 1 << _TICK_BITS
_MARK_BITS = 32
_MARK = (1 << _MARK_BITS) - 1


def _digest(secret: bytes, *ends: SocketAddress) -> int:
    return digest(secret, *(end.address.packed + end.port.to_bytes(2, "big") for end in ends))


class KnownDestinations:
    """Addresses and ports that have answered connections in the last minutes.

    An entry says until when its destination is known to listen, or when it was forgotten: an answer
    to a request older than that does not count.
    """

    def __init__(
        self, memory: Memory | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make the table. ``clock`` returns seconds, the same for all workers."""
        self._clock = clock
        found = words(SECRET_WORDS + PLACES, memory)
        self._secret, self._table = secret_in(found[:SECRET_WORDS]), found[SECRET_WORDS:]

    def now(self) -> float:
        """Return the time, to be noted when a request is made."""
        return self._clock()

    def listens(self, destination: SocketAddress) -> bool:
        """Whether ``destination`` is known to listen."""
        found = self._entry(*self._place(destination))
        return not found & _FORGOTTEN and found > self._ticks(self._clock())

    def learn(self, destination: SocketAddress, asked_at: float) -> None:
        """Note that ``destination`` has answered a request made at ``asked_at``."""
        place, mark = self._place(destination)
        found = self._entry(place, mark)
        if found & _FORGOTTEN and found ^ _FORGOTTEN >= self._ticks(asked_at):
            return
        self._table[place] = mark << _MARK_BITS | self._ticks(self._clock() + KNOWN_SECONDS)

    def forget(self, destination: SocketAddress) -> None:
        """Note that ``destination`` has refused or reset a connection, or not answered."""
        place, mark = self._place(destination)
        self._table[place] = mark << _MARK_BITS | _FORGOTTEN | self._ticks(self._clock())

    def _place(self, destination: SocketAddress) -> tuple[int, int]:
        key = _digest(self._secret, destination)
        return (key >> _MARK_BITS) % PLACES, key & _MARK

    def _entry(self, place: int, mark: int) -> int:
        """Return the lower half of the entry with ``mark``; 0 if there is none."""
        word = self._table[place]
        return word & _MARK if word >> _MARK_BITS == mark else 0

    @staticmethod
    def _ticks(seconds: float) -> int:
        return int(seconds * _TICKS_PER_SECOND) & (_FORGOTTEN - 1)


def is_opener(one: SocketAddress, other: SocketAddress) -> bool:
    """Whether, of two VMs that open one connection at once, ``one`` counts as its client."""
    return (int(one.address), one.port) < (int(other.address), other.port)


class HeldTuples:
    """The client and destination of every SYN that a worker holds.

    Each worker writes in a row of its own, all of them read all rows.
    """

    def __init__(self, workers: int, memory: Memory | None = None) -> None:
        """Make the table, for workers with numbers below ``workers``."""
        found = words(SECRET_WORDS + 1 + workers * HELD_PLACES, memory)
        self._secret = secret_in(found[:SECRET_WORDS])
        self._used = found[SECRET_WORDS : SECRET_WORDS + 1]
        """How many rows may have something in them: the others need not be read."""
        table = found[SECRET_WORDS + 1 :]
        starts = range(0, workers * HELD_PLACES, HELD_PLACES)
        self._rows = [table[start : start + HELD_PLACES] for start in starts]

    def hold(self, worker: int, client: SocketAddress, destination: SocketAddress) -> None:
        """Note that ``worker`` holds the SYN of ``client``."""
        row, key = self._rows[worker], self._digest(client, destination)
        self._used[0] = max(self._used[0], worker + 1)
        for place in self._places(key):
            if not row[place]:
                row[place] = key
                return

    def release(self, worker: int, client: SocketAddress, destination: SocketAddress) -> None:
        """Note that ``worker`` does not hold it any more."""
        row, key = self._rows[worker], self._digest(client, destination)
        for place in self._places(key):
            if row[place] == key:
                row[place] = 0
                return

    def release_all(self, worker: int) -> None:
        """Note that ``worker`` holds nothing any more: it has ended."""
        row = self._rows[worker]
        row[:] = memoryview(bytes(row.nbytes)).cast("Q")

    def is_held(self, client: SocketAddress, destination: SocketAddress) -> bool:
        """Whether some worker holds the SYN of ``client`` to ``destination``."""
        key = self._digest(client, destination)
        places = list(self._places(key))
        rows = self._rows[: self._used[0]]
        return any(row[place] == key for row in rows for place in places)

    def _digest(self, client: SocketAddress, destination: SocketAddress) -> int:
        return _digest(self._secret, client, destination) or 1

    @staticmethod
    def _places(key: int) -> tuple[int, ...]:
        return tuple((key + probe) % HELD_PLACES for probe in range(_PROBES))
