"""The neighbours behind which paths are, of which what the kernel has learnt may be forged.

A neighbour on the wire can forge whose link-layer address is whose (ARP and neighbour discovery
prove nothing), and the kernel believes for up to a minute what nobody says any more. So while no
path through a next hop lives, what was learnt of it is forgotten, and the next probe asks anew. Its
broadcast tells the next hop of us, too. What ``site up`` has entered for good stays.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Set

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from fedsdn.config.model import Address, AddressPair, Federation, Site
from fedsdn.namespace import MissingNamespaceError, exists
from fedsdn.pipeline.declarations import wan_port
from fedsdn.pipeline.on_link import neighbours
from fedsdn.uplinks.teardown import Orders

Hop = tuple[str, Address]
"""An interface of the namespace, and an address on its link."""

_FORGET_SECONDS = 1.0
"""How often a next hop is forgotten behind which no path lives: the kernel asks once a second."""

_REACHABLE, _STALE, _DELAY, _PROBE = 0x02, 0x04, 0x08, 0x10
_LEARNT = _REACHABLE | _STALE | _DELAY | _PROBE
"""NUD states with a link-layer address that was learnt."""
_FAMILY = {4: 2, 6: 10}


def known(federation: Federation, site: Site) -> frozenset[Hop]:
    """Return the next hops that are entered for good."""
    return frozenset((one.interface, one.address) for one in neighbours(federation, site))


def lost(orders: Orders, site: Site) -> frozenset[Hop]:
    """Return the next hops of paths that are down, where none lives."""
    down = _hops(orders.dead_pairs | orders.down_pairs, site)
    return down - _hops(orders.live_pairs, site) if down else down


def _hops(pairs: Iterable[AddressPair], site: Site) -> frozenset[Hop]:
    uplinks = {uplink.address.ip: uplink for uplink in site.uplinks}
    found = set()
    for own, remote in pairs:
        uplink = uplinks.get(own)
        hop = None if uplink is None else uplink.next_hop(remote)
        if uplink is not None and hop is not None:
            found.add((wan_port(uplink), hop))
    return frozenset(found)


class Neighbours:
    """What the kernel has learnt in a network namespace. One object per thread (pyroute2)."""

    def __init__(self, namespace: str) -> None:
        """Open a netlink socket in the network namespace called ``namespace``.

        Raises:
            MissingNamespaceError: there is none.

        """
        if not exists(namespace):  # pyroute2 would fork to find out
            raise MissingNamespaceError(namespace)
        try:
            self._netlink = IPRoute(netns=namespace, flags=0)
        except FileNotFoundError as error:
            raise MissingNamespaceError(namespace) from error
        self._orders: Orders | None = None
        self._lost: frozenset[Hop] = frozenset()
        self._next = float("-inf")

    def __enter__(self) -> Neighbours:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def forget_lost(self, orders: Orders, site: Site, known: Set[Hop]) -> None:
        """Forget what was learnt of lost next hops: at once of new ones, then every second.

        The ``known`` ones were not learnt.
        """
        now, before = time.monotonic(), self._lost
        if orders is not self._orders:
            self._orders, self._lost = orders, lost(orders, site) - known
        if now >= self._next or self._lost - before:
            self._next = now + _FORGET_SECONDS
            for interface, address in self._lost:
                self._forget(interface, address)

    def _forget(self, interface: str, address: Address) -> None:
        for index in self._netlink.link_lookup(ifname=interface):
            which = {"ifindex": index, "dst": str(address), "family": _FAMILY[address.version]}
            try:
                found = self._netlink.neigh("get", **which)
                if any(one["state"] & _LEARNT for one in found):
                    self._netlink.neigh("del", **which)
            except NetlinkError as error:
                if error.code not in {errno.ENOENT, errno.ENODEV}:  # gone meanwhile
                    raise
