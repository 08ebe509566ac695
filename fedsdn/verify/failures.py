"""What the proxy counted of connections that failed or were ended, and what it says of the site.

What VMs do to each other (a closed port, a VM that is not there), and what the federation file
forbids, is shown. What somebody ought to mend is judged, if it has happened lately.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsdn.proxy.ended.record import FAULTS, Reason
from fedsdn.proxy.process.stats_socket import RECENT_SECONDS
from fedsdn.proxy.stats import counted_reasons
from fedsdn.units import ago
from fedsdn.uplinks.status import COMPARE_FILES
from fedsdn.verify.checks import CheckFailedError

_FILES = f"the sites' federation files may differ; {COMPARE_FILES}"
_LOG = "journalctl -u fedsdn-proxy; report it"
_REMEDIES = {
    Reason.FOREIGN_CLIENT: _FILES,
    Reason.FOREIGN_DESTINATION: _FILES,
    Reason.PEER_NO_VM: _FILES,
    Reason.PEER_NO_RULE: _FILES,
    Reason.NO_PATH: "fedsdn uplinks",
    Reason.PEER_SILENT: "see at the peer's site: fedsdn status",
    Reason.LOST: "see at the peer's site whether its proxy was restarted: fedsdn status",
    Reason.FALLBACK: "look for a firewall or NAT on an uplink that strips TCP option 30, "
    "and for a peer without MPTCP",
    Reason.END_UNHEARD: "restart the peer's proxy",
    Reason.PROTOCOL: "install the same version of fedsdn at both sites",
    Reason.CERTIFICATE: "see at both sites whether the identities and the clock are right: fedsdn "
    f"identity check; {COMPARE_FILES}",
    Reason.NOT_RESTORED: "see whether the application runs: fedsdn status",
    Reason.OVERLOAD: "see there who opens so many, or raise LimitNOFILE of fedsdn-proxy.service",
    Reason.WORKER_ENDED: _LOG,
    Reason.FAULT: _LOG,
}


def failures(counted: Mapping[str, int]) -> str:
    """List the reasons, the most frequent first.

    Raises:
        CheckFailedError: one that somebody ought to mend is recent.

    """
    found = counted_reasons(counted)
    now = counted["now"]
    recent = [
        (reason, last)
        for reason, _, last in found
        if reason in FAULTS and now - last < RECENT_SECONDS
    ]
    listed = ", ".join(f"{count} {reason}" for reason, count, _ in found) or "none"
    if recent:
        reason, last = max(recent, key=lambda one: one[1])
        raise CheckFailedError(
            f"{listed}; the last {reason} {ago(last, now)} ago",
            f"fedsdn connections --ended; {_REMEDIES[reason]}",
        )
    return listed
