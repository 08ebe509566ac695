"""The UDP sockets of the probes, in the proxy's namespace.

Each path has a connected socket: probes that wait for neighbour resolution (ARP, ND), as to a peer
that is switched off, fill no other path's send buffer. Each uplink has one more, which receives
from any other source: a NAT may have given the peer another port.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from itertools import islice

from fedsdn.config.model import Address, Uplink
from fedsdn.errors import FedsdnError
from fedsdn.namespace import MissingNamespaceError
from fedsdn.uplinks.path import Way

_MOST_BYTES = 2048
_MOST_AT_ONCE = 64
_OPENED_AT_ONCE = 500
_DSCP_CS6 = 0xC0
"""Type of service of network control (RFC 4594, section 3.1): routers drop it last."""

OpenSocket = Callable[[Uplink, int, Address | None], socket.socket]
"""Does what ``open_socket`` does."""

Receiver = Callable[[list[tuple[Way, bytes]]], None]
"""Takes the datagrams that were received, each with the uplink and the address it came from."""

_Key = tuple[str, Address | None]
_Opened = socket.socket | OSError
Inside = Callable[[Callable[[], list[_Opened]]], list[_Opened]]
"""Does something in the proxy's namespace; raises FedsdnError without one."""


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
        self,
        loop: asyncio.AbstractEventLoop,
        receive: Receiver,
        inside: Inside,
        open_one: OpenSocket = open_socket,
        place: Callable[[], object] = lambda: None,
    ) -> None:
        """Start with none; ``receive`` is called with datagrams, in ``loop``.

        ``place`` tells one namespace of that name from the next.
        """
        self._loop = loop
        self._open_one = open_one
        self._inside = inside
        self._place = place
        self._opened_in = place()
        self._receive = receive
        self._port = 0
        self._uplinks: dict[str, Uplink] = {}
        self._sockets: dict[_Key, socket.socket] = {}
        self._missing: dict[_Key, None] = {}
        """What is to be opened: an uplink's own socket before those of its paths."""
        self._untried = 0
        self.sent = 0
        """Datagrams that were sent."""

    def want(self, uplinks: Iterable[Uplink], ways: Iterable[Way], port: int) -> None:
        """Close what is not wanted any more, and leave what is as it was; ``open`` opens more."""
        before = self._uplinks if port == self._port else {}
        self._port, self._uplinks = port, {uplink.name: uplink for uplink in uplinks}
        kept = {
            name
            for name, uplink in self._uplinks.items()
            if name in before and before[name].address == uplink.address
        }
        wanted: list[_Key] = [(name, None) for name in self._uplinks]
        wanted += (way for way in ways if way[0] in self._uplinks)
        self._close(set(self._sockets) - {key for key in wanted if key[0] in kept})
        self._missing = {key: None for key in wanted if key not in self._sockets}
        self._untried = len(self._missing)

    @property
    def is_opening(self) -> bool:
        """Whether there are sockets that nobody has tried to open yet."""
        return self._untried > 0

    def open(self, most: int = _OPENED_AT_ONCE) -> list[str]:
        """Try to open what is missing, ``most`` sockets; return a line for each that fails.

        A socket that cannot be opened keeps no other uplink or path from being probed. It is tried
        again after all others. In a new namespace all are missing.
        """
        if self._opened_in != (here := self._place()):
            self._opened_in = here
            self._missing = dict.fromkeys((*self._sockets, *self._missing))
            self._close(list(self._sockets))
            self._untried = len(self._missing)
        keys = list(islice(self._missing, most))
        self._untried = max(0, self._untried - len(keys))
        if not keys:
            return []
        try:
            opened = self._inside(lambda: self._open(keys))
        except MissingNamespaceError:
            return []  # said where endpoints are kept
        except (FedsdnError, OSError) as error:
            return [f"no probes over {', '.join({name: 0 for name, _ in keys})}: {error}"]
        troubles = {}
        for key, found in zip(keys, opened, strict=True):
            del self._missing[key]
            if isinstance(found, OSError):
                self._missing[key] = None
                troubles[key] = self._trouble(key, found.strerror or str(found))
            else:
                self._sockets[key] = found
                self._loop.add_reader(found, self._read, found, key)
        return [
            trouble
            for (name, peer), trouble in troubles.items()
            if peer is None or (name, None) not in troubles
        ]

    def _open(self, keys: Iterable[_Key]) -> list[_Opened]:
        """Open sockets in this namespace; those of an uplink's paths only after its own."""
        found: list[_Opened] = []
        there = {name for name, peer in self._sockets if peer is None}
        for name, peer in keys:
            if peer is not None and name not in there:
                found.append(OSError(errno.EADDRNOTAVAIL, "its uplink has no socket"))
                continue
            try:
                found.append(self._open_one(self._uplinks[name], self._port, peer))
                there.add(name)
            except OSError as error:
                found.append(error)
        return found

    def _trouble(self, key: _Key, why: str) -> str:
        name, peer = key
        if peer is None:
            return (
                f"no probes over {name}: UDP port {self._port} of {self._uplinks[name].address.ip} "
                f"cannot be had ({why}): run 'fedsdn site up', and look who has it (ss -lu)"
            )
        return (
            f"no probes over {name} to {peer} ({why}): run 'fedsdn site up', and look for the "
            "route (ip route get)"
        )

    def send(self, way: Way, datagram: bytes) -> str | None:
        """Send a datagram; return in a few words why it cannot be sent, None if it is.

        A failure closes the path's socket, to be opened anew: routes may have changed. (A port that
        is down causes none, as its end in the namespace stays up.)
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
            self._missing[way] = None
            return error.strerror or str(error)
        self.sent += 1
        return None

    def _read(self, sock: socket.socket, key: _Key) -> None:
        uplink, peer = key
        datagrams: list[tuple[Way, bytes]] = []
        for _ in range(_MOST_AT_ONCE):
            try:
                datagram, (sender, *_) = sock.recvfrom(_MOST_BYTES)
                datagrams.append(((uplink, peer or ip_address(sender)), datagram))
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error about a probe of ours
        self._receive(datagrams)

    def _close(self, keys: Iterable[_Key]) -> None:
        for key in keys:
            sock = self._sockets.pop(key)
            self._loop.remove_reader(sock)
            sock.close()

    def close(self) -> None:
        """Close all."""
        self._close(list(self._sockets))
