"""Which tunnels' packets the packet filter lets in by the uplinks, as text for ``nft -f -``.

WireGuard itself knows its peers. Of a VXLAN nothing is proven, so it gets what has its path's
addresses and identifier: whoever sends in a peer's name there is on a line that the federation file
calls protected.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedsdn.site.nft_text import listed
from fedsdn.tunnels.plan import Tunnel

_WORD = {4: "ip", 6: "ip6"}
_IDENTIFIER = "@th,96,24"
"""Behind UDP's header of eight octets, and four of VXLAN's own (RFC 7348, section 5)."""


def arriving(found: tuple[Tunnel, ...]) -> Iterator[str]:
    """Yield the rules about UDP that peers send."""
    ports = sorted({tunnel.port for tunnel in found if tunnel.identifier is None})
    if ports:
        yield f"udp dport {listed(map(str, ports))} accept"
    for tunnel in found:
        if tunnel.identifier is None:
            continue
        word = _WORD[tunnel.local.version]
        for peer in tunnel.peers:
            yield (
                f"{word} saddr {peer.address} {word} daddr {tunnel.local} "
                f"udp dport {tunnel.port} {_IDENTIFIER} {tunnel.identifier} accept"
            )
