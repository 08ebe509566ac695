"""Subflows of the MPTCP connections of a network namespace: what they carry, and their end."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from pyroute2.netlink.diag import SS_CONN

from fedsdn.config.model import Address, AddressPair
from fedsdn.mptcp.info import ESTABLISHED, SYN_SENT, TcpInfo, unpack_tcp_info
from fedsdn.mptcp.netlink import Attributes, unpack_attributes
from fedsdn.mptcp.sock_diag import SockDiag, SocketId

_PORTS = struct.Struct(">HH")
_LOCAL_REMOTE = struct.Struct("16s16s")
_ADDRESSES = slice(_PORTS.size, _PORTS.size + _LOCAL_REMOTE.size)
"""Ports and addresses at the beginning of ``struct inet_diag_sockid``."""

_UNSIGNED = struct.Struct("=I")
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
_FULLY_ESTABLISHED = 0x40
"""``INET_ULP_INFO_MPTCP`` of linux/inet_diag.h, ``MPTCP_SUBFLOW_*`` of linux/mptcp.h."""

_JIFFY_MS = 10
"""The longest tick of the kernel's clock."""


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


@dataclass(frozen=True, slots=True)
class Doomed:
    """A subflow that may end, with the others of its connection that may carry on for it.

    ``busy`` says whether it has sent something that is not acknowledged yet.
    """

    pair: AddressPair
    name: SocketId
    token: int
    busy: bool
    others: tuple[tuple[AddressPair, SocketId], ...]


class Subflows:
    """The subflows of one network namespace. One object per thread."""

    def __init__(self, namespace: str) -> None:
        """Open the network namespace called ``namespace``.

        Raises:
            FedsdnError: there is none.

        """
        self._kernel = SockDiag(namespace)
        self._pairs: dict[tuple[int, bytes], AddressPair] = {}

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
        for (family, name), _, attributes in self._kernel.dump(1 << ESTABLISHED):
            mptcp = _mptcp(attributes)
            if mptcp is not None or not attributes[_DIAG_SOCKOPT][0] & _TRANSPARENT:
                found.append(self._subflow(family, name, _tcp_info(attributes), mptcp))
        return found

    def count(self, local: Address) -> int:
        """Count the established TCP sockets with this local address: subflows, if an uplink's.

        Raises:
            FedsdnError: the kernel refuses.

        """
        established = self._kernel.dump(1 << ESTABLISHED, about=False)
        return sum(self._pair(*name)[0] == local for name, _, _ in established)

    def doomed(self, pairs: Container[AddressPair]) -> list[Doomed]:
        """Return the subflows on ``pairs`` of connections that have another one elsewhere.

        What is plain TCP is left out, as are connections whose other subflows may be refused yet.

        Raises:
            FedsdnError: the kernel refuses.

        """
        elsewhere: dict[int, list[tuple[AddressPair, SocketId]]] = {}
        found = []
        for (family, name), state, attributes in self._kernel.dump(SS_CONN):
            mptcp = _mptcp(attributes)
            if mptcp is None:
                continue
            pair = self._pair(family, name)
            token = _UNSIGNED.unpack(mptcp[_TOKEN])[0]
            if pair not in pairs:
                if _works(state, mptcp):
                    elsewhere.setdefault(token, []).append((pair, (family, name)))
            elif state == SYN_SENT or _kind(mptcp) is not SubflowKind.FALLBACK:
                found.append((pair, (family, name), token, _under_way(attributes)))
        return [Doomed(*one, tuple(elsewhere[one[2]])) for one in found if one[2] in elsewhere]

    def end(self, doomed: Sequence[Doomed], live: Mapping[AddressPair, float]) -> int:
        """End subflows whose connections go on without them; return how many were ended.

        ``live`` are the paths that carry packets both ways, with the time since which they have
        (``time.monotonic``). The others of each connection are looked at again now: one of them has
        to be on such a path, to be established at both ends, and to have been heard of since then,
        for the peer may have ended it while its path was dead. A connection of which either end has
        finished sending keeps all it has: its peer would refuse a new subflow in place of one that
        is ended.

        What an ended subflow had under way is sent again over the others. The peer is sent a reset
        for it, and keeps it if that is lost; it should end it too.

        Raises:
            FedsdnError: the kernel refuses.

        """
        now = time.monotonic()
        ages = {pair: (now - since) * 1000 for pair, since in live.items()}
        others = [(number, *one) for number, each in enumerate(doomed) for one in each.others
                  if one[0] in ages]  # fmt: skip
        states = self._kernel.find([name for _, _, name in others])
        succeeded = {
            number
            for (number, pair, _), found in zip(others, states, strict=True)
            if found is not None and _goes_on(*found, ages[pair])
        }
        candidates = [doomed[number] for number in sorted(succeeded)]
        connections = self._kernel.connection_states([one.token for one in candidates])
        return self._kernel.destroy(
            [
                one.name
                for one, state in zip(candidates, connections, strict=True)
                if state == ESTABLISHED
            ]
        )

    def _subflow(
        self, family: int, name: bytes, info: TcpInfo, mptcp: Attributes | None
    ) -> Subflow:
        kind = _kind(mptcp)
        local_port, remote_port = _PORTS.unpack_from(name)
        local, remote = self._pair(family, name)
        return Subflow(
            kind=kind,
            token=_UNSIGNED.unpack(mptcp[_TOKEN])[0] if mptcp else 0,
            local=local,
            local_port=local_port,
            remote=remote,
            remote_port=remote_port,
            rtt_ms=info.rtt / 1000,
            congestion_window=info.snd_cwnd,
            bytes_sent=info.bytes_sent,
            bytes_retransmitted=info.bytes_retrans,
            bytes_received=info.bytes_received,
            bytes_unsent=info.notsent_bytes,
        )

    def _pair(self, family: int, name: bytes) -> AddressPair:
        """Return a subflow's addresses; thousands of subflows share few, so each is made once."""
        key = (family, name[_ADDRESSES])
        if key not in self._pairs:
            local, remote = _LOCAL_REMOTE.unpack(name[_ADDRESSES])
            self._pairs[key] = _address(family, local), _address(family, remote)
        return self._pairs[key]


def _address(family: int, packed: bytes) -> Address:
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _mptcp(attributes: Attributes) -> Attributes | None:
    """Return what the kernel tells of a socket's part in MPTCP; None if it has none."""
    ulp = attributes.get(_DIAG_ULP_INFO)
    if ulp is None:
        return None
    mptcp = unpack_attributes(ulp).get(_ULP_MPTCP)
    return None if mptcp is None else unpack_attributes(mptcp)


def _kind(mptcp: Attributes | None) -> SubflowKind:
    flags = 0 if mptcp is None else _UNSIGNED.unpack(mptcp[_FLAGS])[0]
    if flags & _JOINED:
        return SubflowKind.JOINED
    return SubflowKind.FIRST if flags & _CAPABLE else SubflowKind.FALLBACK


def _works(state: int, mptcp: Attributes) -> bool:
    """Whether a subflow is established by the word of both ends.

    TCP calls a subflow established that the peer may refuse a round trip later. MPTCP does not: at
    the end that opens it, it waits for an acknowledgement of the connection's data; at the other
    one, for the opener's proof that it has the key (RFC 8684, section 3.2).
    """
    flags = _UNSIGNED.unpack(mptcp[_FLAGS])[0]
    return state == ESTABLISHED and bool(flags & _FULLY_ESTABLISHED)


def _goes_on(state: int, attributes: Attributes, lives_ms: float) -> bool:
    """Whether a subflow works, and was heard of since its path lives."""
    mptcp = _mptcp(attributes)
    if mptcp is None or not _works(state, mptcp):
        return False
    info = _tcp_info(attributes)
    return min(info.last_data_recv, info.last_ack_recv) + _JIFFY_MS <= lives_ms


def _under_way(attributes: Attributes) -> bool:
    """Whether a socket has sent what is not acknowledged yet."""
    return _tcp_info(attributes).unacked > 0


def _tcp_info(attributes: Attributes) -> TcpInfo:
    return unpack_tcp_info(attributes[_DIAG_INFO])
