"""The connections that a worker carries, why they end, and resetting those not allowed any more."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from fedsdn.channel.connection import Direction
from fedsdn.config.model import AddressPair
from fedsdn.damped_log import DampedLog
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.socket_address import SocketAddress

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
    client: SocketAddress | None = None
    destination: SocketAddress | None = None
    path: AddressPair | None = None


class Carried:
    """The connections of a worker by their tasks, from accept to close."""

    def __init__(self, ended: Callable[[Ended], None]) -> None:
        """Begin without any; ``ended`` keeps the record of one that failed or was ended."""
        self._keep = ended
        self._connections: dict[asyncio.Task[object], PeerConnection] = {}
        self._ended: set[asyncio.Task[object]] = set()
        """Tasks whose connections have left a record."""
        self._log = DampedLog(_LOG)
        self._peers: Counter[str] = Counter()
        self.begun: Callable[[str], object] = lambda _: None
        """Called with the name of a peer when the first connection with it begins."""

    @property
    def peers(self) -> Set[str]:
        """The peers of all connections."""
        return self._peers.keys()

    @contextmanager
    def carrying(self, connection: PeerConnection) -> Iterator[None]:
        """Note that the running task carries ``connection`` during the block.

        An inner block, which knows more of the connection, overrides the outer one.
        """
        task = cast("asyncio.Task[object]", asyncio.current_task())
        outer = self._connections.get(task)
        self._connections[task] = connection
        if outer is None:
            self._peers[connection.peer] += 1
            if self._peers[connection.peer] == 1:
                self.begun(connection.peer)
        try:
            yield
        finally:
            if outer is None:
                del self._connections[task]
                self._peers[connection.peer] -= 1
                if not self._peers[connection.peer]:
                    del self._peers[connection.peer]
            else:
                self._connections[task] = outer
            if outer is None or outer.client is None:  # the next request is another VM's connection
                self._ended.discard(task)

    def ended(self, reason: Reason, who: Who, detail: str = "") -> None:
        """Say why the running task's connection ends; what was said of it first counts."""
        self._leave_record(
            cast("asyncio.Task[object]", asyncio.current_task()), reason, who, detail
        )

    def note(
        self, task: asyncio.Task[object], reason: Reason | None, who: Who, detail: str = ""
    ) -> None:
        """Say why the connection of ``task`` ends; what was said of it first counts.

        One with a peer that carries nothing for a VM leaves no record, nor does one that a VM has
        ended, which has no reason.
        """
        one = self._connections.get(task)
        if one is None or one.client is None:
            return
        if reason is None:
            self._ended.add(task)
        else:
            self._leave_record(task, reason, who, detail)

    def _leave_record(
        self, task: asyncio.Task[object], reason: Reason, who: Who, detail: str
    ) -> None:
        one = self._connections.get(task)
        if one is not None and task not in self._ended:
            self._ended.add(task)
            self._keep(
                Ended(reason, who, one.direction, one.peer, one.client, one.destination, detail)
            )

    def end(self, task: asyncio.Task[object], reason: Reason, who: Who, detail: str = "") -> None:
        """Reset the connection of a task at both ends."""
        self.note(task, reason, who, detail)
        task.cancel()

    async def reset(self, why: Callable[[PeerConnection], str | None]) -> int:
        """Reset, at both ends, each connection that ``why`` gives a reason for; return how many.

        The number for each reason is logged. Returns when the resets have been sent.
        """
        reasons = {
            task: reason
            for task, connection in self._connections.items()
            if (reason := self._judged(why, connection)) is not None
        }
        for place, (task, reason) in enumerate(reasons.items(), 1):
            self.end(task, Reason.REVOKED, Who.HERE, reason)
            if place % _AT_ONCE == 0:
                await asyncio.sleep(_PAUSE_SECONDS)
        if reasons:
            await asyncio.wait(reasons, timeout=_END_SECONDS)
        for reason, count in Counter(reasons.values()).items():
            text = f"{count} connection{'s' * (count > 1)} reset: {reason}"
            self._log.say(logging.WARNING, reason, text)
        return len(reasons)

    def _judged(
        self, why: Callable[[PeerConnection], str | None], connection: PeerConnection
    ) -> str | None:
        """Ask ``why``. A connection that cannot be judged is reset: it may be one to be revoked."""
        try:
            return why(connection)
        except Exception as error:
            self._log.fault(f"a connection with site {connection.peer} cannot be judged", error)
            return "it cannot be judged by the changed federation file"
