"""The packet to trace, by the two ends of its connection or flow as the VMs see them. Pure code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from fedsdn.channel.connection import Direction
from fedsdn.config.model import Address, Federation, Site
from fedsdn.config.rules import Protocol
from fedsdn.errors import FedsdnError
from fedsdn.ovs.conntrack import Entry
from fedsdn.socket_address import SocketAddress

ANY_CLIENT_PORT = 49152
"""The client's port where none is named: the first of the dynamic ones (RFC 6335, section 6)."""


_PORT = re.compile("[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Question:
    """A packet from client to destination, or with ``reply`` one back.

    ICMP, that is an echo, has port 0 at both ends.
    """

    client: Address
    client_port: int | None
    destination: SocketAddress
    reply: bool = False
    protocol: Protocol = "tcp"

    def ends(self, entry: Entry | None) -> tuple[SocketAddress, SocketAddress]:
        """Return the two sockets: those of an entry, or those that were asked about."""
        if entry is not None:
            return entry.client, entry.destination
        any_port = 0 if self.protocol == "icmp" else ANY_CLIENT_PORT
        return SocketAddress(self.client, self.client_port or any_port), self.destination


def parse_question(
    source: str, destination: str, *, reply: bool, protocol: Protocol = "tcp"
) -> Question:
    """Read ``SRC[:PORT]`` and ``DST:PORT``; of ICMP both without ports.

    Raises:
        FedsdnError: one of them is no address, or has a port too much or too few.

    """
    client, client_port = parse_end(source)
    server, port = parse_end(destination)
    if protocol == "icmp":
        for text, found in ((source, client_port), (destination, port)):
            if found is not None:
                raise FedsdnError(f"{text!r} has a port, ICMP has none: leave it out")
    elif port is None:
        raise FedsdnError(f"{destination!r} has no port: write it behind, as '10.2.0.11:80'")
    if client.version != server.version:
        raise FedsdnError(f"{client} and {server} are of different families: name two of one")
    return Question(client, client_port, SocketAddress(server, port or 0), reply, protocol)


def parse_end(text: str) -> tuple[Address, int | None]:
    """Read an address, and a port behind it.

    Raises:
        FedsdnError: it is none.

    """
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, _, behind = text[1:].partition("]")
        colon, port = behind[:1], behind[1:]
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    wrong = FedsdnError(
        f"{text!r} is no address: write '10.2.0.11:80', '[fd00:2::11]:80' or 'fd00:1::11'"
    )
    try:
        address = ip_address(host)
    except ValueError:
        raise wrong from None
    if not colon:
        return address, None
    if colon != ":" or not _PORT.fullmatch(port) or not 0 < int(port) < 1 << 16:
        raise wrong
    return address, int(port)


def direction_at(site: Site, question: Question) -> Direction:
    """Say whether a connection leaves a site or comes to it.

    Raises:
        FedsdnError: neither end is at the site.

    """
    if _holds(site, question.client):
        return Direction.OUTBOUND
    if _holds(site, question.destination.address):
        return Direction.INBOUND
    raise FedsdnError(
        f"neither {question.client} nor {question.destination.address} is in a prefix of site "
        f"{site.name}: ask at the site that has one of them"
    )


def peer_of(federation: Federation, site: Site, question: Question) -> Site | None:
    """Return the site at the other end; None if no peer has it, and nothing is federated."""
    for end in (question.client, question.destination.address):
        held = federation.prefix_of(end)
        if held is not None and held[0].name != site.name:
            return held[0]
    return None


def _holds(site: Site, address: Address) -> bool:
    return any(address in prefix.network for prefix in site.prefixes)


def find_entry(entries: Iterable[Entry], question: Question) -> Entry | None:
    """Find the question's connection among those that have not ended."""
    for entry in entries:
        if (
            not entry.ended
            and entry.client.address == question.client
            and entry.destination == question.destination
            and question.client_port in (None, entry.client.port)
        ):
            return entry
    return None
