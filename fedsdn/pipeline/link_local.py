"""IPv6 link-local addresses of the proxy's interfaces."""

from __future__ import annotations

from ipaddress import IPv6Address

_PREFIX = 0xFE80 << 112
_UNIVERSAL_BIT = 0x02


def link_local(mac: str) -> IPv6Address:
    """Link-local address with the modified EUI-64 of a MAC (RFC 4291, appendix A)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= _UNIVERSAL_BIT
    identifier = bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
    return IPv6Address(_PREFIX | int.from_bytes(identifier, "big"))
