"""Subflows of the MPTCP connections of a network namespace: what they carry, and their end.

Both by sock_diag(7), whose messages are the structures of linux/inet_diag.h. pyroute2 builds one
object for each of their fields, which takes seconds for thousands of subflows; here only what is
asked for is unpacked.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from operator import itemgetter

from pyroute2.netlink import (
    NETLINK_SOCK_DIAG,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
)
from pyroute2.netlink.diag import (
    SOCK_DESTROY,
    SOCK_DIAG_BY_FAMILY,
    SS_CONN,
    SS_ESTABLISHED,
    SS_SYN_SENT,
    inet_diag_msg,
)

from fedsdn.config.model import Address
from fedsdn.errors import FedsdnError
from fedsdn.namespace import inside

_HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port (``struct nlmsghdr``)."""

_ATTRIBUTE = struct.Struct("=HH")
"""Length and type, before the value (``struct nlattr``)."""

_REQUEST = struct.Struct("=BBBxI48s")
"""Family, protocol, extensions, states, socket (``struct inet_diag_req_v2``)."""

_SOCKET = struct.Struct("=BBxx48s20x")
"""Family, state, socket (``struct inet_diag_msg``)."""

_NAMES = struct.Struct(">HH16s16s")
"""Ports and addresses at the beginning of ``struct inet_diag_sockid``."""

_SIGNED = struct.Struct("=i")
_UNSIGNED = struct.Struct("=I")
_ANY_SOCKET = bytes(48)

_ALL_ABOUT_IT = 1 << 1
"""The extension ``INET_DIAG_INFO``, with which ``INET_DIAG_ULP_INFO`` comes."""

_REQ_BYTECODE = 1
_DIAG_INFO = 2
_DIAG_ULP_INFO = 19
_DIAG_SOCKOPT = 22
"""``INET_DIAG_*`` of linux/inet_diag.h."""

_TRANSPARENT = 0x20
"""A bit of the first byte of ``struct inet_diag_sockopt``."""

_ULP_MPTCP = 3
_TOKEN = 2
_FLAGS = 8
_CAPABLE = 0x1
_JOINED = 0x4
"""``INET_ULP_INFO_MPTCP`` of linux/inet_diag.h, ``MPTCP_SUBFLOW_*`` of linux/mptcp.h."""

_JUMP, _SOURCE, _DESTINATION = 1, 7, 8
_OPERATION = struct.Struct("=BBH")
_HOST = struct.Struct("=BBxxi")
_ANY_PORT = -1
"""``INET_DIAG_BC_*``, ``struct inet_diag_bc_op``, ``struct inet_diag_hostcond``."""

_PAIRS_AT_ONCE = 500
"""A filter's jumps have 16 bits, and a pair takes up to 60 bytes of it."""

_REQUESTS_AT_ONCE = 128
"""Should all of them fail, the answers must find room in the socket's receive buffer."""

_RECEIVED_AT_ONCE = 1 << 16

_INFO_FIELDS = [name for name, _ in inet_diag_msg.tcp_info.fields]
_INFO = struct.Struct("=" + "".join(code for _, code in inet_diag_msg.tcp_info.fields))
"""``struct tcp_info`` of linux/tcp.h, which has no gaps."""

_SENT = _INFO_FIELDS.index("tcpi_bytes_sent")
_RETRANSMITTED = _INFO_FIELDS.index("tcpi_bytes_retrans")
_RECEIVED = _INFO_FIELDS.index("tcpi_bytes_received")
_UNSENT = _INFO_FIELDS.index("tcpi_notsent_bytes")
_RTT = _INFO_FIELDS.index("tcpi_rtt")
_UNACKNOWLEDGED = _INFO_FIELDS.index("tcpi_unacked")
_WINDOW = _INFO_FIELDS.index("tcpi_snd_cwnd")


class SubflowKind(StrEnum):
    """How a subflow came into being."""

    FIRST = "first"
    """With its connection (``MP_CAPABLE``, RFC 8684)."""
    JOINED = "joined"
    """Later (``MP_JOIN``)."""
    FALLBACK = "fallback"
    """It is the whole of its connection, which is plain TCP."""


@dataclass(frozen=True, slots=True)
class Subflow:
    """An established subflow. IPv4 addresses are such, whatever the family of the socket.

    ``token`` names the connection within the namespace; 0 where it has never been an MPTCP one.
    ``bytes_sent`` has those in it that were sent again, ``bytes_retransmitted`` is how many these
    are; ``bytes_unsent`` wait in the send buffer. ``rtt_ms`` is the smoothed round-trip time,
    ``congestion_window`` is in segments (``struct tcp_info``).
    """

    kind: SubflowKind
    token: int
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    rtt_ms: float
    congestion_window: int
    bytes_sent: int
    bytes_retransmitted: int
    bytes_received: int
    bytes_unsent: int


_Attributes = dict[int, memoryview]
_Id = tuple[int, bytes]
"""A socket's family and ``struct inet_diag_sockid``."""


class Subflows:
    """The subflows of one network namespace. One object per thread."""

    def __init__(self, namespace: str) -> None:
        """Open the network namespace called ``namespace``.

        Raises:
            FedsdnError: there is none.

        """
        self._kernel = _SockDiag(namespace)
        self._addresses: dict[tuple[int, bytes], Address] = {}

    def __enter__(self) -> Subflows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the netlink socket."""
        self._kernel.close()

    def read(self) -> list[Subflow]:
        """Return all established subflows, and the connections between sites that are plain TCP.

        Connections to VMs are left out: they are transparent (``IP_TRANSPARENT``).

        Raises:
            FedsdnError: the kernel refuses.

        """
        found = []
        for (family, name), _, attributes in self._kernel.dump(1 << SS_ESTABLISHED):
            mptcp = _mptcp(attributes)
            if mptcp is not None or not attributes[_DIAG_SOCKOPT][0] & _TRANSPARENT:
                found.append(self._subflow(family, name, attributes[_DIAG_INFO], mptcp))
        return found

    def end(self, pairs: Collection[tuple[Address, Address]], tokens: Container[int]) -> int:
        """End the subflows of some connections from a local to a remote address of ``pairs``.

        Those that have something under way come first. The connections, named by their ``tokens``,
        go on over their other subflows, which send it again. The peer is sent a reset for each, and
        keeps those whose reset is lost; it should end them too. What is plain TCP is left alone.
        The kernel opens no new subflow in place of an ended one before the endpoint is deleted and
        added. Returns how many there were.

        Raises:
            FedsdnError: the kernel refuses.

        """
        every = list(pairs)
        ended = 0
        for start in range(0, len(every), _PAIRS_AT_ONCE):
            filter_ = _filter(every[start : start + _PAIRS_AT_ONCE])
            found = self._kernel.dump(SS_CONN, filter_)
            doomed = [
                (not _under_way(attributes), name)
                for name, state, attributes in found
                if _may_end(state, attributes, tokens)
            ]
            doomed.sort(key=itemgetter(0))
            ended += self._kernel.destroy([name for _, name in doomed])
        return ended

    def _subflow(
        self, family: int, name: bytes, tcp_info: memoryview, mptcp: _Attributes | None
    ) -> Subflow:
        kind = _kind(mptcp)
        info = _INFO.unpack_from(tcp_info)
        local_port, remote_port, local, remote = _NAMES.unpack_from(name)
        return Subflow(
            kind=kind,
            token=_UNSIGNED.unpack(mptcp[_TOKEN])[0] if mptcp else 0,
            local=self._address(family, local),
            local_port=local_port,
            remote=self._address(family, remote),
            remote_port=remote_port,
            rtt_ms=info[_RTT] / 1000,
            congestion_window=info[_WINDOW],
            bytes_sent=info[_SENT],
            bytes_retransmitted=info[_RETRANSMITTED],
            bytes_received=info[_RECEIVED],
            bytes_unsent=info[_UNSENT],
        )

    def _address(self, family: int, packed: bytes) -> Address:
        """Return an address; thousands of subflows share few, so each is made once."""
        key = (family, packed)
        if key not in self._addresses:
            self._addresses[key] = _address(family, packed)
        return self._addresses[key]


def _address(family: int, packed: bytes) -> Address:
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _mptcp(attributes: _Attributes) -> _Attributes | None:
    """Return what the kernel tells of a socket's part in MPTCP; None if it has none."""
    ulp = attributes.get(_DIAG_ULP_INFO)
    if ulp is None:
        return None
    mptcp = _attributes(ulp).get(_ULP_MPTCP)
    return None if mptcp is None else _attributes(mptcp)


def _kind(mptcp: _Attributes | None) -> SubflowKind:
    flags = 0 if mptcp is None else _UNSIGNED.unpack(mptcp[_FLAGS])[0]
    if flags & _JOINED:
        return SubflowKind.JOINED
    return SubflowKind.FIRST if flags & _CAPABLE else SubflowKind.FALLBACK


def _may_end(state: int, attributes: _Attributes, tokens: Container[int]) -> bool:
    """Whether a socket is a subflow of one of the connections, be it one that is being opened."""
    mptcp = _mptcp(attributes)
    if mptcp is None or _UNSIGNED.unpack(mptcp[_TOKEN])[0] not in tokens:
        return False
    return state == SS_SYN_SENT or _kind(mptcp) is not SubflowKind.FALLBACK


def _under_way(attributes: _Attributes) -> bool:
    """Whether a socket has sent what is not acknowledged yet."""
    unacknowledged: int = _INFO.unpack_from(attributes[_DIAG_INFO])[_UNACKNOWLEDGED]
    return unacknowledged > 0


def _filter(pairs: Iterable[tuple[Address, Address]]) -> bytes:
    """Return the kernel's program (``inet_diag_bc_run``) that lets sockets on ``pairs`` pass.

    For each pair: source, destination, jump to the end. A condition that does not hold goes on
    behind that jump; the last pair has none, so there it leads past the end, and nothing passes.
    """
    program = b""
    for local, remote in pairs:
        destination = _condition(_DESTINATION, remote, 0)
        pair = _condition(_SOURCE, local, len(destination)) + destination
        if program:
            pair += _OPERATION.pack(_JUMP, _OPERATION.size, _OPERATION.size + len(program))
        program = pair + program
    return program


def _condition(operation: int, address: Address, behind: int) -> bytes:
    """Compare an address; ``behind`` is the length of the pair's other condition, if it follows."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    host = _HOST.pack(family, address.max_prefixlen, _ANY_PORT) + address.packed
    length = _OPERATION.size + len(host)
    return _OPERATION.pack(operation, length, length + behind + _OPERATION.size) + host


class _SockDiag:
    """Requests of sock_diag(7) about the TCP sockets of a network namespace."""

    def __init__(self, namespace: str) -> None:
        """Open a netlink socket in the namespace.

        Raises:
            FedsdnError: there is no such namespace.

        """
        self._namespace = namespace
        self._socket = inside(
            namespace,
            lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG),
        )
        self._sequence = 0
        self._first = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dump(self, states: int, filter_: bytes = b"") -> Iterator[tuple[_Id, int, _Attributes]]:
        """Yield the sockets that are in one of ``states`` and pass the filter, with their state.

        Raises:
            FedsdnError: the kernel refuses.

        """
        length = _ATTRIBUTE.size + len(filter_)
        attribute = _ATTRIBUTE.pack(length, _REQ_BYTECODE) + filter_ if filter_ else b""
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, _ALL_ABOUT_IT, states, _ANY_SOCKET)
            self._send(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, [request + attribute])
            for code, message in self._replies():
                if code:
                    raise self._refused(code)
                found, state, name = _SOCKET.unpack_from(message)
                yield (found, name), state, _attributes(message[_SOCKET.size :])

    def destroy(self, doomed: Sequence[_Id]) -> int:
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
            length = _HEADER.size + len(request)
            messages += [_HEADER.pack(length, type_, asked, self._sequence, 0), request]
        self._first = self._sequence - len(requests) + 1
        self._socket.send(b"".join(messages))

    def _replies(self) -> Iterator[tuple[int, memoryview]]:
        """Yield what answers the requests sent last: an error's code, or 0 and a message's body."""
        while True:
            received = memoryview(self._socket.recv(_RECEIVED_AT_ONCE))
            while received:
                length, type_, _, sequence, _ = _HEADER.unpack_from(received)
                body, received = received[_HEADER.size : length], received[_aligned(length) :]
                if sequence < self._first:
                    continue  # left over from a request that was given up
                if type_ not in (NLMSG_ERROR, NLMSG_DONE):
                    yield 0, body
                    continue
                (code,) = _SIGNED.unpack_from(body)
                if code:
                    yield -code, body
                if sequence == self._sequence:
                    return

    def _refused(self, code: int) -> FedsdnError:
        return FedsdnError(
            f"namespace {self._namespace}: the kernel does not show or end subflows "
            f"({os.strerror(code)}): run as root, on a kernel with INET_DIAG_DESTROY"
        )


def _attributes(packed: memoryview) -> _Attributes:
    """Return netlink attributes by type; of two with the same type the last."""
    found = {}
    offset = 0
    while offset < len(packed):
        length, type_ = _ATTRIBUTE.unpack_from(packed, offset)
        found[type_ & ~NLA_F_NESTED] = packed[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found


def _aligned(length: int) -> int:
    """Return where the next message or attribute begins (netlink(7))."""
    return (length + 3) & ~3
