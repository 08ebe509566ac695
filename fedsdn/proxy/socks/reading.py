"""Reading a SOCKS message from a socket, and not a byte more: the rest belongs to the relay."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TypeVar

from fedsdn.proxy.sockets.exchange import receive

Message = TypeVar("Message")


class CutOffError(ConnectionResetError):
    """The stream ended in the middle of a message."""


async def read_message(
    sock: socket.socket, parse: Callable[[bytes], Message | int], seen: bytes = b""
) -> Message:
    """Read until ``parse`` returns a message instead of how many more bytes it takes at least.

    ``seen`` has been read already.

    Raises:
        CutOffError: the stream ended in the middle of it.
        OSError: the connection broke, or the stream ended before.
        SocksError: it is no such message.

    """
    while isinstance(found := parse(seen), int):
        more = await receive(sock, found)
        if not more:
            kind = CutOffError if seen else ConnectionResetError
            raise kind(errno.ECONNRESET, "closed in the middle of the SOCKS dialogue")
        seen += more
    return found
