"""A federated connection, as the proxy tells the application of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedsdn.socket_address import SocketAddress


class Direction(StrEnum):
    """Whether a VM of this site opened a connection, or one of a peer's."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"


@dataclass(slots=True)
class Connection:
    """A connection that one worker carries, under a ``number`` of the worker's own.

    ``peer`` is the name of the other site, ``since`` when it was opened (Unix time). ``shown`` is
    as whom the destination sees the client. ``token`` names the Multipath TCP connection with the
    peer in the proxy's namespace; 0 if that is plain TCP. ``sent`` and ``received`` are bytes
    handed to the peer and taken from it.
    """

    number: int
    direction: Direction
    peer: str
    client: SocketAddress
    destination: SocketAddress
    shown: SocketAddress
    token: int
    since: float
    sent: int = 0
    received: int = 0
