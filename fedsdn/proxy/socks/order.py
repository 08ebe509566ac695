"""The order in which clients open connections: the last request for each destination.

What a client opens towards one address and port of a destination arrives in the order of its SYNs.
Its SYNs may come to different workers, so these share what they have asked for.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedsdn.pipeline.declarations import MOST_WORKERS
from fedsdn.proxy.memory import digest, words
from fedsdn.socket_address import SocketAddress

_PLACE_BITS = 32 - (MOST_WORKERS - 1).bit_length()
"""The lower bits of a request's number; the upper ones are its worker, so that no two of a site are
the same."""

_KEYS = 1 << 14
"""Of clients and destinations: 128 KiB. Two that fall together keep each other waiting, rarely."""

_UNANSWERED = 1 << 12
"""Of the requests of one worker: 32 KiB. What is older than so many requests has no successor."""

_NUMBER_BITS = 32
_NUMBER = (1 << _NUMBER_BITS) - 1
_WORKER_UNKNOWN, _FIRST_WORKER = 1, 2


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A request that the peer has not answered; ``worker`` of the peer has it, None: not known."""

    worker: int | None


class Order:
    """What all workers have asked for; made before they are forked."""

    def __init__(self, workers: int) -> None:
        """Make the tables, empty."""
        self._secret = os.urandom(16)
        self._last = words(_KEYS)
        self._states = [words(_UNANSWERED) for _ in range(workers)]

    def of(self, worker: int) -> WorkerOrder:
        """Return what the worker with this number may write, with nothing unanswered."""
        states = self._states[worker]
        for place in range(len(states)):
            states[place] = 0
        return WorkerOrder(self, worker, states)

    def follow(self, client: SocketAddress, destination: SocketAddress, number: int) -> int:
        """Note the last request for a destination; return the number of the one before it, or 0."""
        port = destination.port.to_bytes(2, "big")
        key = digest(self._secret, client.address.packed, destination.address.packed, port)
        place, mark = key % _KEYS, key >> _NUMBER_BITS
        word = self._last[place]
        self._last[place] = mark << _NUMBER_BITS | number
        return word & _NUMBER if word >> _NUMBER_BITS == mark else 0

    def unanswered(self, number: int) -> Unanswered | None:
        """Return the state of a request; None if it is answered, or was never made."""
        worker = number >> _PLACE_BITS
        if not number or worker >= len(self._states):
            return None
        word = self._states[worker][number % _UNANSWERED]
        state = word & _NUMBER
        if word >> _NUMBER_BITS != number or not state:
            return None
        return Unanswered(None if state == _WORKER_UNKNOWN else state - _FIRST_WORKER)


class WorkerOrder:
    """What one worker asks for."""

    def __init__(self, shared: Order, worker: int, states: memoryview[int]) -> None:
        """Write in ``states``; the numbers begin anywhere, as the worker may be a new one."""
        self._shared = shared
        self._states = states
        self._first = worker << _PLACE_BITS
        self._place = random.randrange(1 << _PLACE_BITS)  # noqa: S311  (a beginning, no secret)
        self.unanswered = shared.unanswered

    @contextmanager
    def asking(
        self, client: SocketAddress, destination: SocketAddress
    ) -> Iterator[tuple[int, int]]:
        """Take up a SYN; yield the number of its request, and that of the one it comes after, or 0.

        After the block the request is answered, or will not be made.
        """
        self._place = self._place % ((1 << _PLACE_BITS) - 1) + 1
        number = self._first | self._place
        self._write(number, _WORKER_UNKNOWN)
        before = self._shared.follow(client, destination, number)
        try:
            yield number, before if self.unanswered(before) else 0
        finally:
            self._write(number, 0)

    def sent(self, number: int, worker: int) -> None:
        """Note that a ``worker`` of the peer has the request."""
        self._write(number, _FIRST_WORKER + worker)

    def _write(self, number: int, state: int) -> None:
        place = number % _UNANSWERED
        if state == _WORKER_UNKNOWN or self._states[place] >> _NUMBER_BITS == number:
            self._states[place] = number << _NUMBER_BITS | state
