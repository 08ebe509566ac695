"""Subflows of the MPTCP connections of a network namespace: what they carry, and their end."""

from __future__ import annotations

import socket
import struct
from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from pyroute2.netlink.diag import (
    SS_CONN,
    SS_ESTABLISHED,
    SS_SYN_SENT,
    inet_diag_msg,
)

from fedsdn.config.model import Address, AddressPair
from fedsdn.netlink import Attributes, unpack_attributes
from fedsdn.uplinks.sock_diag import SockDiag, SocketId

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
"""``INET_ULP_INFO_MPTCP`` of linux/inet_diag.h, ``MPTCP_SUBFLOW_*`` of linux/mptcp.h."""

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
        for (family, name), _, attributes in self._kernel.dump(1 << SS_ESTABLISHED):
            mptcp = _mptcp(attributes)
            if mptcp is not None or not attributes[_DIAG_SOCKOPT][0] & _TRANSPARENT:
                found.append(self._subflow(family, name, attributes[_DIAG_INFO], mptcp))
        return found

    def doomed(self, pairs: Container[AddressPair]) -> list[tuple[AddressPair, SocketId, bool]]:
        """Return the subflows on ``pairs`` of connections that have another one elsewhere.

        With each comes whether it has something under way. What is plain TCP is left out.

        Raises:
            FedsdnError: the kernel refuses.

        """
        elsewhere = set()
        found = []
        for (family, name), state, attributes in self._kernel.dump(SS_CONN):
            mptcp = _mptcp(attributes)
            if mptcp is None:
                continue
            pair = self._pair(family, name)
            token = _UNSIGNED.unpack(mptcp[_TOKEN])[0]
            if pair not in pairs:
                if state == SS_ESTABLISHED:
                    elsewhere.add(token)
            elif state == SS_SYN_SENT or _kind(mptcp) is not SubflowKind.FALLBACK:
                found.append((token, (pair, (family, name), _under_way(attributes))))
        return [subflow for token, subflow in found if token in elsewhere]

    def end(self, subflows: Sequence[SocketId]) -> int:
        """End subflows; return how many were still there.

        Their connections go on over their other subflows, which send again what was under way. The
        peer is sent a reset for each, and keeps those whose reset is lost; it should end them too.

        Raises:
            FedsdnError: the kernel refuses.

        """
        return self._kernel.destroy(subflows)

    def _subflow(
        self, family: int, name: bytes, tcp_info: memoryview, mptcp: Attributes | None
    ) -> Subflow:
        kind = _kind(mptcp)
        info = _INFO.unpack_from(tcp_info)
        local_port, remote_port = _PORTS.unpack_from(name)
        local, remote = self._pair(family, name)
        return Subflow(
            kind=kind,
            token=_UNSIGNED.unpack(mptcp[_TOKEN])[0] if mptcp else 0,
            local=local,
            local_port=local_port,
            remote=remote,
            remote_port=remote_port,
            rtt_ms=info[_RTT] / 1000,
            congestion_window=info[_WINDOW],
            bytes_sent=info[_SENT],
            bytes_retransmitted=info[_RETRANSMITTED],
            bytes_received=info[_RECEIVED],
            bytes_unsent=info[_UNSENT],
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


def _under_way(attributes: Attributes) -> bool:
    """Whether a socket has sent what is not acknowledged yet."""
    unacknowledged: int = _INFO.unpack_from(attributes[_DIAG_INFO])[_UNACKNOWLEDGED]
    return unacknowledged > 0
