"""Subflows of the MPTCP connections of a network namespace, read and ended."""

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
    """How a subflow was opened."""

    FIRST = "first"
    """With its connection (``MP_CAPABLE``, RFC 8684)."""
    JOINED = "joined"
    """Later (``MP_JOIN``)."""
    FALLBACK = "fallback"
    """Its connection is plain TCP."""


@dataclass(frozen=True, slots=True)
class Subflow:
    """An established subflow. IPv4-mapped addresses are IPv4 addresses here.

    ``token`` names the connection within the namespace; 0 for one that has always been plain TCP.
    ``bytes_sent`` includes ``bytes_retransmitted``; ``bytes_unsent`` wait in the send buffer.
    ``rtt_ms`` is the smoothed round-trip time, ``congestion_window`` is in segments.
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
    """A subflow that may end, with the others of its connection that may replace it.

    ``busy``: it has unacknowledged data.
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
        """Return all established subflows, including the plain TCP connections between sites.

        Transparent sockets (``IP_TRANSPARENT``) are connections to VMs, and left out.

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
        """Count the established TCP sockets with this local address: with an uplink's, subflows.

        Raises:
            FedsdnError: the kernel refuses.

        """
        established = self._kernel.dump(1 << ESTABLISHED, about=False)
        return sum(self._pair(*name)[0] == local for name, _, _ in established)

    def doomed(self, pairs: Container[AddressPair]) -> list[Doomed]:
        """Return the subflows on ``pairs`` of connections with an established one elsewhere.

        Plain TCP is left out, as are connections whose peer may still refuse their other subflows.

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

        ``live`` are the paths that carry packets both ways, each with the time of its last change
        to that state (``time.monotonic``). The others of each connection are read again now: one of
        them must be on a live path, be established at both ends, and have received something since
        that time, because the peer may have ended it while its path was dead. A half-closed
        connection keeps all its subflows: its peer would refuse a replacement.

        Data in flight on an ended subflow are retransmitted over the others. The peer gets a reset
        for it, which may be lost; so the peer's site should end it as well.

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
        """Return a subflow's addresses, made once for all subflows that share them."""
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
    """Return the MPTCP attributes of a socket; None if it is no subflow."""
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
    """Whether both ends have established a subflow.

    One that is established to TCP may be refused by the peer a round trip later. To MPTCP it is
    fully established at the opening end after the first acknowledgement at the connection level,
    and at the other end after the opener's HMAC (RFC 8684, section 3.2).
    """
    flags = _UNSIGNED.unpack(mptcp[_FLAGS])[0]
    return state == ESTABLISHED and bool(flags & _FULLY_ESTABLISHED)


def _goes_on(state: int, attributes: Attributes, lives_ms: float) -> bool:
    """Whether a subflow works, and has received something since its path is live."""
    mptcp = _mptcp(attributes)
    if mptcp is None or not _works(state, mptcp):
        return False
    info = _tcp_info(attributes)
    return min(info.last_data_recv, info.last_ack_recv) + _JIFFY_MS <= lives_ms


def _under_way(attributes: Attributes) -> bool:
    """Whether a socket has unacknowledged data."""
    return _tcp_info(attributes).unacked > 0


def _tcp_info(attributes: Attributes) -> TcpInfo:
    return unpack_tcp_info(attributes[_DIAG_INFO])
