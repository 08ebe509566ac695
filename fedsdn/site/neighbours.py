"""Neighbours as netlink has them (rtnetlink(7)). Pure code.

The kernel lists every VM that it has learnt, too: only those that are entered for good are read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pyroute2.netlink import NLM_F_CREATE, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_NEWNEIGH

from fedsdn.pipeline.on_link import Neighbour
from fedsdn.site.listed import attribute, attributes, request

_HEADER = struct.Struct("=BxxxiHBB")
"""``struct ndmsg``: family, interface, state, flags and type."""
_FAMILY = {4: 2, 6: 10}
_DST, _LLADDR, _CACHEINFO, _PROBES = 1, 2, 3, 4
_PERMANENT = 0x80
"""NUD_PERMANENT."""

Said = tuple[tuple[int, ...], frozenset[bytes]]
"""What a neighbour's header says, and its attributes."""


def addition(neighbour: Neighbour, indexes: Mapping[str, int]) -> bytes:
    """Write the request to have a neighbour for good, in place of what was learnt of it.

    ``indexes`` are the interfaces' numbers.

    Raises:
        KeyError: the neighbour's interface is not there.

    """
    return request(RTM_NEWNEIGH, _written(neighbour, indexes), NLM_F_CREATE | NLM_F_REPLACE)


def wanted(neighbour: Neighbour, indexes: Mapping[str, int]) -> Said | None:
    """Return what ``said`` returns for the neighbour when it is there; None if it cannot be."""
    if neighbour.interface not in indexes:
        return None
    return said(_written(neighbour, indexes))


def is_permanent(listed: bytes) -> bool:
    """Whether somebody entered a listed neighbour for good; the kernel has learnt the others."""
    return bool(_HEADER.unpack_from(listed)[2] & _PERMANENT)


def said(listed: bytes) -> Said:
    """Return what a listed neighbour says; ``listed`` has no netlink header."""
    family, index, state, flags, _ = _HEADER.unpack_from(listed)
    found = (
        data
        for code, data in attributes(listed[_HEADER.size :])
        if code not in {_CACHEINFO, _PROBES}
    )
    return (family, index, state, flags), frozenset(found)


def _written(neighbour: Neighbour, indexes: Mapping[str, int]) -> bytes:
    family, index = _FAMILY[neighbour.address.version], indexes[neighbour.interface]
    mac = bytes.fromhex(neighbour.mac.replace(":", ""))
    return (
        _HEADER.pack(family, index, _PERMANENT, 0, 0)
        + attribute(_DST, neighbour.address.packed)
        + attribute(_LLADDR, mac)
    )
