"""What ``ss`` says of the subflows in a proxy's namespace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from fedsdn.config.model import Address
from fedsdn.diagnostics.view import SiteView

_RTT = re.compile(r"\brtt:([0-9.]+)/")
_SENT = re.compile(r"\bbytes_sent:([0-9]+)")
_BUSY_BYTES = 1_000_000
"""A subflow that has sent less is not the fast connection's, but that of an idle one."""


@dataclass(frozen=True, slots=True)
class Subflow:
    """A TCP connection between two proxies; ``rtt_ms`` is the smoothed round-trip time."""

    local: Address
    remote: Address
    rtt_ms: float
    sent: int


def parse(text: str) -> Iterator[Subflow]:
    """Read the output of ``ss --tcp --info --numeric --no-header --oneline`` (ss(8))."""
    for line in text.splitlines():
        rtt, sent = _RTT.search(line), _SENT.search(line)
        if rtt is None:
            continue
        local, remote = line.split()[3:5]
        size = int(sent[1]) if sent else 0
        yield Subflow(_address(local), _address(remote), float(rtt[1]), size)


def _address(text: str) -> Address:
    # An address that is no other interface's is followed by %INTERFACE.
    return ip_address(text.rpartition(":")[0].strip("[]").partition("%")[0])


def _source(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def busy_subflows(view: SiteView) -> list[Subflow]:
    """Return the subflows by which this site's proxy sends much."""
    # Not by port: a subflow that the server's side opened has the proxy's port at neither end.
    ours = " or ".join(f"src {_source(uplink.address.ip)}" for uplink in view.site.uplinks)
    found = view.proxy.output(
        *("ss", "--tcp", "--info", "--numeric", "--no-header", "--oneline"), f"( {ours} )"
    )
    return [subflow for subflow in parse(found) if subflow.sent >= _BUSY_BYTES]


def count_from(view: SiteView, address: Address) -> int:
    """Count the established TCP connections from an address of the proxy's namespace."""
    found = view.proxy.output(
        *("ss", "--tcp", "--numeric", "--no-header", "--oneline", "state", "established"),
        f"src {_source(address)}",
    )
    return len(found.splitlines())
