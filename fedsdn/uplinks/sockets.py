"""The UDP sockets that probes come and go by: one for each uplink, in the proxy's namespace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from fedsdn.config.model import Address, Uplink
from fedsdn.errors import FedsdnError

_MOST_BYTES = 2048
_MOST_AT_ONCE = 64
_DSCP_CS6 = 0xC0
"""Type of service of network control (RFC 4594, section 3.1): routers drop it last."""

OpenSocket = Callable[[Uplink, int], socket.socket]
"""Does what ``open_socket`` does, in the proxy's namespace."""

Receiver = Callable[[list[bytes]], None]
"""Takes datagrams that have come."""


def open_socket(uplink: Uplink, port: int) -> socket.socket:
    """Open a UDP socket on an uplink's address, in the calling thread's namespace.

    Raises:
        OSError: the namespace does not have the address, or the port is taken.

    """
    v6 = uplink.family == 6
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _DSCP_CS6)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _DSCP_CS6)
        sock.bind((str(uplink.address.ip), port))
    except OSError:
        sock.close()
        raise
    return sock


class ProbeSockets:
    """The sockets of a site's uplinks, by the uplinks' names."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, open_socket: OpenSocket, receive: Receiver
    ) -> None:
        """Start with none; what comes is handed to ``receive``, in ``loop``."""
        self._loop = loop
        self._open_socket = open_socket
        self._receive = receive
        self._sockets: dict[str, socket.socket] = {}

    def open(self, uplinks: Iterable[Uplink], port: int) -> None:
        """Open what is not open.

        Raises:
            FedsdnError: one cannot be opened; the others are.

        """
        for uplink in uplinks:
            if uplink.name in self._sockets:
                continue
            try:
                sock = self._open_socket(uplink, port)
            except OSError as error:
                raise FedsdnError(
                    f"no probes over {uplink.name}: UDP port {port} of {uplink.address.ip} cannot "
                    f"be had ({error.strerror}): run 'fedsdn site up', and look who has it (ss -lu)"
                ) from error
            self._sockets[uplink.name] = sock
            self._loop.add_reader(sock, self._read, sock)

    def send(self, uplink: str, datagram: bytes, address: Address, port: int) -> None:
        """Send a datagram by an uplink.

        A socket that cannot send is closed, to be opened anew: the set-up of the namespace may have
        changed. An uplink that is down is no reason, as its end in the namespace stays up.
        """
        sock = self._sockets.get(uplink)
        if sock is None:
            return
        try:
            sock.sendto(datagram, (str(address), port))
        except (BlockingIOError, ConnectionRefusedError):
            return
        except OSError:
            self._close(uplink)

    def _read(self, sock: socket.socket) -> None:
        datagrams = []
        for _ in range(_MOST_AT_ONCE):
            try:
                datagrams.append(sock.recv(_MOST_BYTES))
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error about a probe of ours
        self._receive(datagrams)

    def _close(self, uplink: str) -> None:
        sock = self._sockets.pop(uplink)
        self._loop.remove_reader(sock)
        sock.close()

    def close(self) -> None:
        """Close all."""
        for uplink in list(self._sockets):
            self._close(uplink)
