"""Why a connection could not be opened, out of what the dialogue ended with. Pure code."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass

from fedsdn.proxy.ended.record import Reason, Who, reason_for
from fedsdn.proxy.socks.protocol import Reply, SocksError
from fedsdn.proxy.tls.secured import TlsError

Cause = tuple[Reason, Who]

_BY_REPLY: dict[Reply, Cause] = {
    Reply.REFUSED: (Reason.REFUSED, Who.VM_THERE),
    Reply.HOST_UNREACHABLE: (Reason.HOST_UNREACHABLE, Who.VM_THERE),
    Reply.NETWORK_UNREACHABLE: (Reason.NO_ROUTE, Who.PEER),
    Reply.TIMED_OUT: (Reason.TIMED_OUT, Who.VM_THERE),
    Reply.NOT_ALLOWED: (Reason.PROHIBITED, Who.PEER),
}


_SEE_THERE = "the peer's site knows why: fedsdn connections --ended"


def refused_by_peer(reply: Reply) -> tuple[Reason, Who, str]:
    """Say what a peer's answer means, with a detail where it alone knows more."""
    if reply in _BY_REPLY:
        return *_BY_REPLY[reply], ""
    return Reason.FAILED_AT_PEER, Who.PEER, _SEE_THERE


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the opening of a connection: what an error, and what a time-out means in it."""

    broken: Cause
    late: Cause


CONNECTING = Phase((Reason.NO_PATH, Who.PATHS), (Reason.NO_PATH, Who.PATHS))
ASKING = Phase((Reason.LOST, Who.PEER), (Reason.PEER_SILENT, Who.PEER))
HANDSHAKE = Phase((Reason.GIVEN_UP, Who.VM_HERE), (Reason.GIVEN_UP, Who.VM_HERE))
"""That of the VM here."""


def not_opened(error: BaseException, phase: Phase) -> Cause | None:
    """Say why a connection was not opened; None if ``error`` is a fault, which others tell.

    Whoever is cancelled was given up by the VM, unless another reason was said before.
    """
    match error:
        case asyncio.CancelledError():
            return Reason.GIVEN_UP, Who.VM_HERE
        case TlsError():
            return error.reason, error.who
        case SocksError():
            return Reason.PROTOCOL, Who.PEER
        case TimeoutError():
            return phase.late
        case OSError():
            fell_back = error.errno == errno.EPROTONOSUPPORT
            return (Reason.FALLBACK, Who.PATHS) if fell_back else phase.broken
    return None


_OURS = (Reason.PORTS_IN_USE, Reason.NOT_RESTORED, Reason.FAULT, Reason.NO_ROUTE)


def not_connected(error: OSError) -> Cause:
    """Say why this site's server could not connect to its VM."""
    reason = reason_for(error)
    return reason, Who.HERE if reason in _OURS else Who.VM_HERE


def in_words(error: BaseException) -> str:
    """Say in a few words what went wrong."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
