"""sock_diag(7): TCP sockets of a network namespace, found and ended.

The messages are the structures of linux/inet_diag.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from pyroute2.netlink import (
    NETLINK_SOCK_DIAG,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
)
from pyroute2.netlink.diag import SOCK_DESTROY, SOCK_DIAG_BY_FAMILY

from fedsdn.errors import FedsdnError
from fedsdn.mptcp.netlink import HEADER, Attributes, aligned, pack_attribute, unpack_attributes
from fedsdn.namespace import inside
from fedsdn.socket_address import SocketAddress

_REQUEST = struct.Struct("=BBBxI48s")
"""Family, protocol, extensions, states, socket (``struct inet_diag_req_v2``)."""

_SOCKET = struct.Struct("=BBxx48s20x")
"""Family, state, socket (``struct inet_diag_msg``)."""

_ANSWER = struct.Struct("=BBxx48s8xI8x")
"""Family, state, socket, and the bytes that were not acknowledged, of the same."""

_NAME = struct.Struct(">HH16s16s4x8s")
"""Ports, addresses, any interface, and the cookie (``struct inet_diag_sockid``)."""

_ANY_COOKIE = b"\xff" * 8

_SIGNED, _UNSIGNED = struct.Struct("=i"), struct.Struct("=I")
_ANY_SOCKET = bytes(48)

_CONNECTION = struct.Struct("=40xI4x")
"""The token of an MPTCP connection, in place of a socket's cookie (``mptcp_diag_dump_one``)."""

_MPTCP = pack_attribute(3, _UNSIGNED.pack(socket.IPPROTO_MPTCP))
"""``INET_DIAG_REQ_PROTOCOL``, for a protocol number above 255."""

_ALL_ABOUT_IT = 1 << 1
"""The extension ``INET_DIAG_INFO``, with which ``INET_DIAG_ULP_INFO`` comes."""

_REQUESTS_AT_ONCE = 128
_QUESTIONS_AT_ONCE = 32
"""The answers must fit into the socket's receive buffer; requests are answered only by errors."""

_RECEIVED_AT_ONCE = 1 << 16

_ANSWER_TIME = struct.pack("ll", 5, 0)
"""``struct timeval``: five seconds for a part of an answer."""

SocketId = tuple[int, bytes]
"""A socket's family and ``struct inet_diag_sockid``."""


class Found(NamedTuple):
    """A socket that was asked for.

    ``unacknowledged`` are the bytes for which the remote end has not answered yet; SYN and end of
    stream count as one each. (Of a socket that listens it is the length of its queue.)
    """

    name: SocketId
    state: int
    unacknowledged: int
    attributes: Attributes


def _opened() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)


def _ends(name: SocketId) -> tuple[SocketAddress, SocketAddress]:
    """Return a socket's local and remote end; a socket of IPv6 may have addresses of IPv4."""
    family, packed = name
    local_port, remote_port, *addresses, _ = _NAME.unpack(packed)
    length = 4 if family == socket.AF_INET else 16
    local, remote = (_unmapped(one[:length]) for one in addresses)
    return SocketAddress(local, local_port), SocketAddress(remote, remote_port)


def _unmapped(packed: bytes) -> IPv4Address | IPv6Address:
    address = ip_address(packed)
    return (address.ipv4_mapped if address.version == 6 else None) or address


class SockDiag:
    """Requests of sock_diag(7) about the TCP sockets of a network namespace."""

    def __init__(self, namespace: str | None = None) -> None:
        """Open a netlink socket in the namespace; None: in that of the calling thread.

        Raises:
            FedsdnError: there is no such namespace.

        """
        self._place = "this namespace" if namespace is None else f"namespace {namespace}"
        self._socket = _opened() if namespace is None else inside(namespace, _opened)
        # A lost answer must not block the thread for ever: the socket is then opened anew.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIME)
        self._sequence = 0
        self._first = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dump(
        self, states: int, *, about: bool = True
    ) -> Iterator[tuple[SocketId, int, Attributes]]:
        """Yield the sockets that are in one of ``states``, with their state.

        Their attributes take half of the time; ``about=False`` leaves them out.

        Raises:
            FedsdnError: the kernel refuses.

        """
        more = _ALL_ABOUT_IT if about else 0
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, more, states, _ANY_SOCKET)
            self._send(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, [request])
            for code, message in self._replies():
                if code:
                    raise self._refused(code)
                found, state, name = _SOCKET.unpack_from(message)
                yield (found, name), state, unpack_attributes(message[_SOCKET.size :])

    def find(self, sockets: Sequence[SocketId]) -> list[tuple[int, Attributes] | None]:
        """Return the state of each socket, and what ``dump`` tells of it; None: it is gone.

        Raises:
            FedsdnError: the kernel refuses.

        """
        return [
            answer and (answer.state, answer.attributes)
            for answer in self._ask(
                [
                    _REQUEST.pack(family, socket.IPPROTO_TCP, _ALL_ABOUT_IT, 0, name)
                    for family, name in sockets
                ]
            )
        ]

    def connection_states(self, tokens: Sequence[int]) -> list[int | None]:
        """Return the state of each MPTCP connection, by token; None: it is gone.

        It is ``ESTABLISHED`` until either end half-closes the connection. Subflows have states of
        their own.

        Raises:
            FedsdnError: the kernel refuses.

        """
        return [
            answer and answer.state
            for answer in self._ask(
                [
                    _REQUEST.pack(socket.AF_INET, 0, 0, 0, _CONNECTION.pack(token)) + _MPTCP
                    for token in tokens
                ]
            )
        ]

    def between(self, local: SocketAddress, remote: SocketAddress) -> Found | None:
        """Return the TCP socket that has just these two ends; None: there is none.

        Raises:
            FedsdnError: the kernel refuses.

        """
        family = socket.AF_INET if local.address.version == 4 else socket.AF_INET6
        name = _NAME.pack(
            local.port, remote.port, local.address.packed, remote.address.packed, _ANY_COOKIE
        )
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, _ALL_ABOUT_IT, 0, name)
        (answer,) = self._ask([request])
        # Where there is none, the kernel tells of one that listens on the local end's port.
        return answer if answer and _ends(answer.name) == (local, remote) else None

    def _ask(self, questions: Sequence[bytes]) -> list[Found | None]:
        """Ask about single sockets; return what is told of each that is there."""
        answers: list[Found | None] = [None] * len(questions)
        for start in range(0, len(questions), _QUESTIONS_AT_ONCE):
            self._send(SOCK_DIAG_BY_FAMILY, 0, questions[start : start + _QUESTIONS_AT_ONCE])
            for number, code, message in self._numbered_replies():
                if not code:
                    family, state, name, unacknowledged = _ANSWER.unpack_from(message)
                    attributes = unpack_attributes(message[_ANSWER.size :])
                    found = Found((family, name), state, unacknowledged, attributes)
                    answers[start + number] = found
                elif code != errno.ENOENT:
                    raise self._refused(code)
        return answers

    def destroy(self, doomed: Sequence[SocketId]) -> int:
        """End sockets (``tcp_abort`` of the kernel); return how many were still there.

        Raises:
            FedsdnError: the kernel refuses.

        """
        ended = len(doomed)
        for start in range(0, len(doomed), _REQUESTS_AT_ONCE):
            requests = [
                _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, name)
                for family, name in doomed[start : start + _REQUESTS_AT_ONCE]
            ]
            self._send(SOCK_DESTROY, 0, requests)
            for code, _ in self._replies():
                if code != errno.ENOENT:
                    raise self._refused(code)
                ended -= 1
        return ended

    def _send(self, type_: int, flags: int, requests: Sequence[bytes]) -> None:
        """Send requests together; the last is answered in any case, the others where they fail."""
        messages = []
        for number, request in enumerate(requests, 1):
            self._sequence += 1
            asked = NLM_F_REQUEST | flags | (NLM_F_ACK if number == len(requests) else 0)
            length = HEADER.size + len(request)
            messages += [HEADER.pack(length, type_, asked, self._sequence, 0), request]
        self._first = self._sequence - len(requests) + 1
        self._socket.send(b"".join(messages))

    def _replies(self) -> Iterator[tuple[int, memoryview]]:
        """Yield what answers the requests sent last: an error's code, or 0 and a message's body."""
        return ((code, body) for _, code, body in self._numbered_replies())

    def _numbered_replies(self) -> Iterator[tuple[int, int, memoryview]]:
        """Yield the same, each with the number of its request, from 0."""
        while True:
            received = memoryview(self._socket.recv(_RECEIVED_AT_ONCE))
            while received:
                length, type_, _, sequence, _ = HEADER.unpack_from(received)
                body, received = received[HEADER.size : length], received[aligned(length) :]
                if sequence < self._first:
                    continue  # left over from a request that was given up
                if type_ not in (NLMSG_ERROR, NLMSG_DONE):
                    yield sequence - self._first, 0, body
                    continue
                (code,) = _SIGNED.unpack_from(body)
                if code:
                    yield sequence - self._first, -code, body
                if sequence == self._sequence:
                    return

    def _refused(self, code: int) -> FedsdnError:
        return FedsdnError(
            f"{self._place}: the kernel does not show or end subflows "
            f"({os.strerror(code)}): run as root, on a kernel with INET_DIAG_DESTROY"
        )
