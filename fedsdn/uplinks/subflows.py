"""Subflows of the MPTCP connections of a network namespace: what they carry, and their end."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Container
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from operator import itemgetter

from pyroute2.netlink.diag import (
    SS_CONN,
    SS_ESTABLISHED,
    SS_SYN_SENT,
    inet_diag_msg,
)

from fedsdn.config.model import Address
from fedsdn.netlink import Attributes, unpack_attributes
from fedsdn.uplinks.sock_diag import SockDiag, pairs_filter

_NAMES = struct.Struct(">HH16s16s")
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

_PAIRS_AT_ONCE = 500
"""A filter's jumps have 16 bits, and a pair takes up to 60 bytes of it."""

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

    def elsewhere(self, pairs: Collection[tuple[Address, Address]]) -> set[int]:
        """Return the tokens of connections with an established subflow that is not on ``pairs``.

        Raises:
            FedsdnError: the kernel refuses.

        """
        tokens = set()
        for (family, name), _, attributes in self._kernel.dump(1 << SS_ESTABLISHED):
            _, _, local, remote = _NAMES.unpack_from(name)
            if (self._address(family, local), self._address(family, remote)) not in pairs:
                mptcp = _mptcp(attributes)
                if mptcp is not None:
                    tokens.add(_UNSIGNED.unpack(mptcp[_TOKEN])[0])
        return tokens

    def end(self, pairs: Collection[tuple[Address, Address]], tokens: Container[int]) -> int:
        """End the subflows of some connections from a local to a remote address of ``pairs``.

        Those that have something under way come first. The connections, named by their ``tokens``,
        go on over their other subflows, which send it again. The peer is sent a reset for each, and
        keeps those whose reset is lost; it should end them too. What is plain TCP is left alone.
        Returns how many there were.

        Raises:
            FedsdnError: the kernel refuses.

        """
        every = list(pairs)
        ended = 0
        for start in range(0, len(every), _PAIRS_AT_ONCE):
            filter_ = pairs_filter(every[start : start + _PAIRS_AT_ONCE])
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
        self, family: int, name: bytes, tcp_info: memoryview, mptcp: Attributes | None
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


def _may_end(state: int, attributes: Attributes, tokens: Container[int]) -> bool:
    """Whether a socket is a subflow of one of the connections, be it one that is being opened."""
    mptcp = _mptcp(attributes)
    if mptcp is None or _UNSIGNED.unpack(mptcp[_TOKEN])[0] not in tokens:
        return False
    return state == SS_SYN_SENT or _kind(mptcp) is not SubflowKind.FALLBACK


def _under_way(attributes: Attributes) -> bool:
    """Whether a socket has sent what is not acknowledged yet."""
    unacknowledged: int = _INFO.unpack_from(attributes[_DIAG_INFO])[_UNACKNOWLEDGED]
    return unacknowledged > 0
