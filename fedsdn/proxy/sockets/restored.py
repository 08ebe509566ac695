"""Connecting to VMs from the proxy's own address, for the bridge to restore the client's."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from fedsdn.channel.messages import ChannelError
from fedsdn.config.model import Address
from fedsdn.pipeline.declarations import SocketMark
from fedsdn.pipeline.restore import Restoration
from fedsdn.proxy.sockets import transparent
from fedsdn.proxy.sockets.transparent import Call
from fedsdn.socket_address import SocketAddress

ANSWER_SECONDS = 10.0
"""How long the application may take, or be away."""

_TAKEN = {errno.EADDRINUSE, errno.EADDRNOTAVAIL}

RequestRestoration = Callable[[Restoration], Awaitable[None]]
"""Returns when the bridge restores the client; raises ``ChannelError`` if it does not."""


async def connect_restored(
    client: SocketAddress, call: Call, own: Address, restore: RequestRestoration
) -> socket.socket:
    """Make a connection from ``own``, seen at its destination as from ``client``.

    Raises:
        OSError: the connection failed; ``EAGAIN`` when the bridge could not be told.

    """
    try:
        # The client's own port, if nobody else has it: what conntrack still knows of the client's
        # last connection can only be forgotten if this one is between the same sockets.
        return await _connect_from(SocketAddress(own, client.port), client, call, restore)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
    any_port = SocketAddress(own, transparent.ANY_PORT)
    return await _connect_from(any_port, client, call, restore)


async def _connect_from(
    own: SocketAddress, client: SocketAddress, call: Call, restore: RequestRestoration
) -> socket.socket:
    with _claimed(own) as claimed:
        sock = transparent.bound(claimed, SocketMark.SERVER, alone=True)
        try:
            await _restored(Restoration(claimed, client, call.destination), restore)
            await transparent.connect(sock, call)
        except BaseException:
            sock.close()
            raise
        return sock


@contextmanager
def _claimed(own: SocketAddress) -> Iterator[SocketAddress]:
    """Keep a port for one connection while it is being opened, among all workers.

    Flows that restore two clients on one port could be the same flow. A UDP socket on that port can
    be had by one only, at every moment.

    Raises:
        OSError: ``EADDRINUSE``: it is another's.

    """
    family = socket.AF_INET if own.address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as claim:
        claim.bind((str(own.address), own.port))
        yield SocketAddress(own.address, claim.getsockname()[1])


async def _restored(wanted: Restoration, restore: RequestRestoration) -> None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await restore(wanted)
    except (TimeoutError, ChannelError) as error:
        reason = str(error) or "the application does not answer"
        raise OSError(errno.EAGAIN, f"{wanted.client} is not restored: {reason}") from error
