"""A connection that failed, or that was ended by us: who, what and why. Pure code."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address

from fedsdn.channel.connection import Direction
from fedsdn.socket_address import SocketAddress


class Who(StrEnum):
    """Who has ended a connection, or refused it."""

    HERE = "proxy"
    PEER = "peer's proxy"
    VM_HERE = "VM"
    VM_THERE = "VM at peer"
    PATHS = "paths"
    """Nobody: no packet arrived."""


class Reason(StrEnum):
    """Why a connection failed, or was ended by us.

    What VMs end themselves, by end of stream or reset, has none.
    """

    REFUSED = "refused"
    """Nobody listens on the destination's port."""
    HOST_UNREACHABLE = "host unreachable"
    """The destination has no MAC address, or sent or caused ICMP host unreachable."""
    NO_ROUTE = "no route"
    TIMED_OUT = "no answer"
    """The destination did not answer the SYN."""
    PROHIBITED = "prohibited"
    """A packet filter says so, or the peer's policy."""
    GIVEN_UP = "given up"
    """Whoever asked for the connection did not wait for it."""
    SILENT = "VM silent"
    """A VM has not answered in mid-connection for as long as TCP waits."""
    PORTS_IN_USE = "ports in use"
    """There is a connection between the same two addresses and ports."""

    UNASKED = "too many SYNs"
    """SYNs of a VM that has too many connections begun or open. It repeats them."""

    NOT_A_PEER = "not a peer's uplink"
    FOREIGN_CLIENT = "client outside the peer's prefixes"
    FOREIGN_DESTINATION = "destination outside this site's prefixes"
    UNFEDERATED = "destination outside all peers' prefixes"
    NO_VM = "an address that no VM has"
    """As client or destination: a network's own, the proxy's, a gateway, multicast and such."""
    NO_RULE = "no rule allows it"
    """The federation file has ``allow``, and nothing there that allows it."""
    PEER_NO_VM = "peer names an address that no VM has"
    """It ought to have refused that itself."""
    PEER_NO_RULE = "peer asks for what no rule allows"
    SILENT_CALLER = "caller silent"
    """Somebody with a peer's address who did not prove in time to be the peer. That is no fault of
    the peer's: it may be anybody who can send in its name."""
    GARBLED = "caller speaks something else"
    """As before, but what came was none of ours."""
    CALLERS_CERTIFICATE = "caller's certificate refused"
    """As before, but who came showed another certificate than the peer's, or one that is not valid
    now. The peer has a fault of its own of that, if it was the peer."""
    CROWDED = "too many callers"
    """As before, but shed for later ones."""
    REVOKED = "revoked by the federation file"
    STOPPING = "proxy stopped"

    NO_PATH = "no path to peer"
    PEER_SILENT = "peer silent"
    """The peer's server did not answer the request."""
    FAILED_AT_PEER = "failed at peer"
    """The peer's server could not make the connection; there it has a record that says why."""
    LOST = "connection between proxies lost"
    """The peer has reset it, has it no more, or could not be reached for as long as TCP waits."""
    FALLBACK = "fallback to TCP"
    END_UNHEARD = "end not acknowledged"
    PROTOCOL = "protocol error"
    CERTIFICATE = "certificate refused"
    """Of the two sites one refuses the other's, when we ask: it is not valid now, or not the one of
    the federation file."""
    NOT_RESTORED = "client's address not restored"
    OVERLOAD = "overload"
    WORKER_ENDED = "worker ended"
    FAULT = "internal fault"

    @property
    def key(self) -> str:
        """Its name in counters and in JSON."""
        return self.name.lower()


FAULTS = frozenset(
    {
        Reason.FOREIGN_CLIENT,
        Reason.FOREIGN_DESTINATION,
        Reason.PEER_NO_VM,
        Reason.PEER_NO_RULE,
        Reason.NO_PATH,
        Reason.PEER_SILENT,
        Reason.LOST,
        Reason.FALLBACK,
        Reason.END_UNHEARD,
        Reason.PROTOCOL,
        Reason.CERTIFICATE,
        Reason.NOT_RESTORED,
        Reason.OVERLOAD,
        Reason.WORKER_ENDED,
        Reason.FAULT,
    }
)
"""Reasons that somebody ought to mend: neither the VMs' own doing nor what the federation file and
its operator want."""

REFUSALS = frozenset(
    {
        Reason.FOREIGN_CLIENT,
        Reason.FOREIGN_DESTINATION,
        Reason.NO_VM,
        Reason.NO_RULE,
        Reason.PEER_NO_VM,
        Reason.PEER_NO_RULE,
        Reason.SILENT_CALLER,
        Reason.GARBLED,
        Reason.CALLERS_CERTIFICATE,
        Reason.CERTIFICATE,
        Reason.CROWDED,
        Reason.REVOKED,
        Reason.PROTOCOL,
        Reason.OVERLOAD,
    }
)
"""Reasons that are counted for each peer, too."""

_BY_ERRNO = {
    errno.ECONNREFUSED: Reason.REFUSED,
    errno.EHOSTUNREACH: Reason.HOST_UNREACHABLE,
    errno.ENETUNREACH: Reason.NO_ROUTE,
    errno.ETIMEDOUT: Reason.TIMED_OUT,
    errno.EACCES: Reason.PROHIBITED,
    errno.EPERM: Reason.PROHIBITED,
    errno.EADDRNOTAVAIL: Reason.PORTS_IN_USE,
    errno.EADDRINUSE: Reason.PORTS_IN_USE,
    errno.EAGAIN: Reason.NOT_RESTORED,
}


def reason_for(error: OSError) -> Reason:
    """Return why a connection to a VM could not be made."""
    return _BY_ERRNO.get(error.errno or 0, Reason.FAULT)


@dataclass(frozen=True, slots=True)
class Ended:
    """One connection that failed or was ended, or ``count`` of them.

    ``direction``, ``client`` and ``destination`` are None, and ``peer`` empty, where they are not
    known. ``detail`` is a few words. ``time`` is Unix time.
    """

    reason: Reason
    who: Who
    direction: Direction | None = None
    peer: str = ""
    client: SocketAddress | None = None
    destination: SocketAddress | None = None
    detail: str = ""
    count: int = 1
    time: float = field(default_factory=time.time)

    def __str__(self) -> str:
        ends = " to ".join(str(one) for one in (self.client, self.destination) if one)
        peer = f"site {self.peer}" if self.peer else ""
        told = (str(self.direction or ""), ends, peer, f"by {self.who}", self.detail)
        return f"{self.reason}: " + ", ".join(one for one in told if one)


def document(ended: Ended) -> dict[str, object]:
    """Write a record as what JSON holds."""
    return {
        "time": ended.time,
        "direction": ended.direction,
        "client": _address_document(ended.client),
        "destination": _address_document(ended.destination),
        "peer": ended.peer or None,
        "who": ended.who,
        "reason": ended.reason.key,
        "detail": ended.detail,
        "count": ended.count,
    }


def _address_document(one: SocketAddress | None) -> list[object] | None:
    return None if one is None else [str(one.address), one.port]


def from_document(found: dict[str, object]) -> Ended:
    """Read what ``document`` wrote.

    Raises:
        ValueError: it is none of this version's.

    """
    try:
        return Ended(
            reason=Reason[str(found["reason"]).upper()],
            who=Who(str(found["who"])),
            direction=None if found["direction"] is None else Direction(str(found["direction"])),
            peer=str(found["peer"] or ""),
            client=_address_from(found["client"]),
            destination=_address_from(found["destination"]),
            detail=str(found["detail"]),
            count=int(str(found["count"])),
            time=float(str(found["time"])),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no record of an ended connection: {error}") from error


def _address_from(found: object) -> SocketAddress | None:
    if found is None:
        return None
    if not isinstance(found, list):
        raise TypeError(found)
    address, port = found
    return SocketAddress(ip_address(str(address)), int(port))
