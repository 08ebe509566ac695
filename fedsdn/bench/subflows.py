"""What ``ss`` says of the subflows in a proxy's namespace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from fedsdn.config.model import Address
from fedsdn.verify.view import SiteView

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


_SS = ("ss", "--tcp", "--numeric", "--no-header", "--oneline")
_MAPPED = "::ffff:"


def parse(text: str) -> Iterator[Subflow]:
    """Read the output of ``ss --tcp --info --numeric --no-header --oneline`` (ss(8))."""
    for line in text.splitlines():
        rtt, sent = _RTT.search(line), _SENT.search(line)
        if rtt is None:
            continue
        local, remote = (ip_address(_address(end)) for end in line.split()[3:5])
        yield Subflow(local, remote, float(rtt[1]), int(sent[1]) if sent else 0)


def _address(end: str) -> str:
    # An address that is no other interface's is followed by %INTERFACE. An IPv4 subflow of a
    # connection that began over IPv6 has IPv4-mapped addresses.
    address = end.rpartition(":")[0].strip("[]").partition("%")[0]
    return address.removeprefix(_MAPPED)


def count(text: str, address: Address) -> int:
    """Count the established connections from an address in the output of ss."""
    ends = (line.split()[3] for line in text.splitlines() if line.startswith("ESTAB"))
    return sum(_address(end) == str(address) for end in ends)


# ss is not asked for addresses or ports: it does not find mapped addresses by their IPv4 address,
# and a subflow that the server's side opened has the proxy's port at neither end.


def busy_subflows(view: SiteView) -> list[Subflow]:
    """Return the subflows by which this site's proxy sends much."""
    every = parse(view.proxy.output(*_SS, "--info"))
    return [subflow for subflow in every if subflow.sent >= _BUSY_BYTES]


def count_from(view: SiteView, address: Address) -> int:
    """Count the subflows from an address of the proxy's namespace."""
    return count(view.proxy.output(*_SS), address)
