"""The order in which clients open connections: which request comes after which.

What a client opens towards one address and port of a destination arrives in the order of its SYNs.
These all come to one worker (``site.steering``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from fedsdn.config.model import Address
from fedsdn.pipeline.declarations import MOST_WORKERS
from fedsdn.socket_address import SocketAddress

_PLACE_BITS = 32 - (MOST_WORKERS - 1).bit_length()
"""The lower bits of a request's number; the upper ones are its worker, so that no two of a site are
the same."""


class Order:
    """The last unanswered request of each client for each destination."""

    def __init__(self, worker: int) -> None:
        """Begin without any; the numbers begin anywhere, as the worker may be a new one."""
        self._first = worker << _PLACE_BITS
        self._place = random.randrange(1 << _PLACE_BITS)  # noqa: S311  (a beginning, no secret)
        self._last: dict[tuple[Address, SocketAddress], int] = {}

    @contextmanager
    def asking(
        self, client: SocketAddress, destination: SocketAddress
    ) -> Iterator[tuple[int, int]]:
        """Take up a SYN; yield the number of its request, and that of the one it comes after, or 0.

        After the block the request is answered, or will not be made.
        """
        self._place = self._place % ((1 << _PLACE_BITS) - 1) + 1
        number = self._first | self._place
        key = client.address, destination
        before = self._last.get(key, 0)
        self._last[key] = number
        try:
            yield number, before
        finally:
            if self._last.get(key) == number:
                del self._last[key]
