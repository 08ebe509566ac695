"""The UDP sockets of the probes, in the proxy's namespace.

Each path has a connected socket: probes that wait for neighbour resolution (ARP, ND), as to a peer
that is switched off, fill no other path's send buffer. Each uplink has one more, which receives
from any other source: a NAT may have given the peer another port.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from fedsdn.config.model import Address, Uplink
from fedsdn.errors import FedsdnError
from fedsdn.namespace import MissingNamespaceError

_MOST_BYTES = 2048
_MOST_AT_ONCE = 64
_DSCP_CS6 = 0xC0
"""Type of service of network control (RFC 4594, section 3.1): routers drop it last."""

OpenSocket = Callable[[Uplink, int, Address | None], socket.socket]
"""Does what ``open_socket`` does, in the proxy's namespace; raises FedsdnError without one."""

Receiver = Callable[[list[bytes]], None]
"""Takes the datagrams that were received."""

Way = tuple[str, Address]
"""An uplink's name, and a peer's address."""


def open_socket(uplink: Uplink, port: int, peer: Address | None) -> socket.socket:
    """Open a UDP socket on an uplink's address, in the calling thread's namespace.

    With a ``peer`` it is connected to the same port of that address; without one, it receives from
    any other source. The latter has to be opened first, and fails if another process has the port.

    Raises:
        OSError: the namespace does not have the address, there is no route, or the port is taken.

    """
    v6 = uplink.family == 6
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _DSCP_CS6)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _DSCP_CS6)
        if peer is not None:
            _share(sock)
        sock.bind((str(uplink.address.ip), port))
        if peer is None:
            _share(sock)  # not before: the port may be shared with what is opened from now on only
        else:
            sock.connect((str(peer), port))
    except OSError:
        sock.close()
        raise
    return sock


def _share(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


class ProbeSockets:
    """The sockets of a site's uplinks and paths."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, open_socket: OpenSocket, receive: Receiver
    ) -> None:
        """Start with none; ``receive`` is called with datagrams, in ``loop``."""
        self._loop = loop
        self._open_socket = open_socket
        self._receive = receive
        self._sockets: dict[tuple[str, Address | None], socket.socket] = {}

    def open(self, uplinks: Iterable[Uplink], ways: Iterable[Way], port: int) -> list[str]:
        """Open what is not open; return a line for each socket that cannot be opened.

        A socket that cannot be opened keeps no other uplink or path from being probed.
        """
        troubles: list[str] = []
        wanted = list(ways)
        for uplink in uplinks:
            trouble = self._open(uplink, None, port)
            if trouble is not None:
                troubles.append(trouble)
                continue
            for name, peer in wanted:
                if name == uplink.name and (trouble := self._open(uplink, peer, port)):
                    troubles.append(trouble)
        return troubles

    def _open(self, uplink: Uplink, peer: Address | None, port: int) -> str | None:
        """Open a socket if it is not open; return a line if it cannot be opened."""
        key = (uplink.name, peer)
        if key in self._sockets:
            return None
        try:
            sock = self._open_socket(uplink, port, peer)
        except MissingNamespaceError:
            return None  # said where endpoints are kept
        except FedsdnError as error:
            return f"no probes over {uplink.name}: {error}"
        except OSError as error:
            return _trouble(uplink, peer, port, error.strerror or str(error))
        self._sockets[key] = sock
        self._loop.add_reader(sock, self._read, sock)
        return None

    def send(self, way: Way, datagram: bytes) -> str | None:
        """Send a datagram; return in a few words why it cannot be sent, None if it is.

        A failure closes the uplink's sockets, to be opened anew: the namespace may have been set up
        again. (A port that is down causes none, as its end in the namespace stays up.)
        """
        sock = self._sockets.get(way)
        if sock is None:
            return None  # reported when it could not be opened
        try:
            try:
                sock.send(datagram)
            except ConnectionRefusedError:  # an ICMP error about the last one
                sock.send(datagram)
        except BlockingIOError:
            return "what was sent before still waits in the kernel"
        except ConnectionRefusedError:
            return None
        except OSError as error:
            self._close([way])
            if not any(name == way[0] and peer for name, peer in self._sockets):
                self._close([(way[0], None)])
            return error.strerror or str(error)
        return None

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

    def _close(self, keys: Iterable[tuple[str, Address | None]]) -> None:
        for key in keys:
            sock = self._sockets.pop(key)
            self._loop.remove_reader(sock)
            sock.close()

    def close(self) -> None:
        """Close all."""
        self._close(list(self._sockets))


def _trouble(uplink: Uplink, peer: Address | None, port: int, why: str) -> str:
    if peer is None:
        return (
            f"no probes over {uplink.name}: UDP port {port} of {uplink.address.ip} cannot be had "
            f"({why}): run 'fedsdn site up', and look who has it (ss -lu)"
        )
    return (
        f"no probes over {uplink.name} to {peer} ({why}): run 'fedsdn site up', and look for the "
        "route (ip route get)"
    )
