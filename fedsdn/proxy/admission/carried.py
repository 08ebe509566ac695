"""The connections that a worker carries, and resetting those that are not allowed any more."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from fedsdn.channel.connection import Direction
from fedsdn.config.model import Address, AddressPair

_LOG = logging.getLogger(__name__)

_AT_ONCE = 50
_PAUSE_SECONDS = 0.005
"""After so many resets there is a pause: a burst of them would overflow the bridge's queue."""

_END_SECONDS = 1.0
"""How long the tasks of connections that are reset may take to end."""


@dataclass(frozen=True, slots=True)
class PeerConnection:
    """A connection with ``peer``, open or being opened, as the federation file judges it.

    ``client`` and ``destination`` are None before the peer's request. ``path`` is the path that the
    connection depends on; None if Multipath TCP can move it to another.
    """

    direction: Direction
    peer: str
    client: Address | None = None
    destination: Address | None = None
    path: AddressPair | None = None


class Carried:
    """The connections of a worker by their tasks, from accept to close."""

    def __init__(self) -> None:
        """Begin without any."""
        self._connections: dict[asyncio.Task[object], PeerConnection] = {}

    @contextmanager
    def carrying(self, connection: PeerConnection) -> Iterator[None]:
        """Note that the running task carries ``connection`` during the block.

        An inner block, which knows more of the connection, overrides the outer one.
        """
        task = cast("asyncio.Task[object]", asyncio.current_task())
        outer = self._connections.get(task)
        self._connections[task] = connection
        try:
            yield
        finally:
            if outer is None:
                del self._connections[task]
            else:
                self._connections[task] = outer

    async def reset(self, why: Callable[[PeerConnection], str | None]) -> int:
        """Reset, at both ends, each connection that ``why`` gives a reason for; return how many.

        The number for each reason is logged. Returns when the resets have been sent.
        """
        reasons = {
            task: reason
            for task, connection in self._connections.items()
            if (reason := _judged(why, connection)) is not None
        }
        for place, task in enumerate(reasons, 1):
            task.cancel()
            if place % _AT_ONCE == 0:
                await asyncio.sleep(_PAUSE_SECONDS)
        if reasons:
            await asyncio.wait(reasons, timeout=_END_SECONDS)
        for reason, count in Counter(reasons.values()).items():
            _LOG.warning("%d connection%s reset: %s", count, "s" * (count > 1), reason)
        return len(reasons)


def _judged(why: Callable[[PeerConnection], str | None], connection: PeerConnection) -> str | None:
    """Ask ``why``. A connection that cannot be judged is reset: it may be one to be revoked."""
    try:
        return why(connection)
    except Exception:
        _LOG.exception("a connection with site %s cannot be judged", connection.peer)
        return "it cannot be judged by the changed federation file"
