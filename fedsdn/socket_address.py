"""One side of a TCP connection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

_KEPT = 4096


@lru_cache(_KEPT)
def address_of(packed: bytes) -> IPv4Address | IPv6Address:
    """Return the address that these 4 or 16 octets are; the same value for the same ones."""
    return ip_address(packed)


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An IP address and a TCP port."""

    address: IPv4Address | IPv6Address
    port: int

    def __hash__(self) -> int:
        """Hash it by numbers: the hash of an address takes four times as long."""
        return hash((int(self.address), self.port))

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"
