"""The neighbours behind which paths are, of which what the kernel has learnt may be forged.

A neighbour on the wire can forge whose link-layer address is whose (ARP and neighbour discovery
prove nothing), and the kernel believes for up to a minute what nobody says any more. So while paths
through a next hop are down and none lives, what was learnt of it is forgotten, and the next probe
asks anew. Its broadcast tells the next hop of us, too. If nothing is heard, and no path is blamed,
connections may go on: then the neighbour is only asked whether it is still there. What ``site up``
has entered for good stays.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from fedsdn.config.model import Address, AddressPair, Federation, Site
from fedsdn.namespace import within
from fedsdn.pipeline.declarations import wan_port
from fedsdn.pipeline.on_link import Neighbour, neighbours
from fedsdn.uplinks.path import Way
from fedsdn.uplinks.teardown import Orders

Hop = tuple[str, Address]
"""An interface of the namespace, and an address on its link."""

_FORGET_SECONDS = 1.0
"""How often a next hop is forgotten behind which no path lives: the kernel asks once a second."""

_AT_ONCE = 50
"""So many are forgotten or asked at once, in turn: a next hop takes a millisecond."""

_REACHABLE, _STALE, _DELAY, _PROBE = 0x02, 0x04, 0x08, 0x10
_LEARNT = _REACHABLE | _STALE | _DELAY | _PROBE
"""NUD states with a link-layer address that was learnt; in the last the kernel asks for it."""
_FAMILY = {4: 2, 6: 10}
_MEANWHILE = frozenset({errno.ENOENT, errno.ENODEV, errno.EINVAL})
"""The entry or the interface has gone, or the entry has no link-layer address any more."""
_NOTHING: frozenset[Hop] = frozenset()


def learnt(federation: Federation, site: Site, probed: Iterable[AddressPair]) -> frozenset[Hop]:
    """Return the next hops of the paths that are probed, without those entered for good."""
    known = {(one.interface, one.address) for one in neighbours(federation, site)}
    return frozenset(hops(probed, site)) - known


def hops(pairs: Iterable[AddressPair], site: Site) -> Iterator[Hop]:
    """Yield the next hops of paths."""
    uplinks = {uplink.address.ip: uplink for uplink in site.uplinks}
    for own, remote in pairs:
        uplink = uplinks.get(own)
        hop = None if uplink is None else uplink.next_hop(remote)
        if uplink is not None and hop is not None:
            yield wan_port(uplink), hop


def entered(federation: Federation, site: Site, ways: Iterable[Way]) -> dict[Way, Neighbour]:
    """Return the next hops that are entered for good, by the ways that go through them."""
    known = {(one.interface, one.address): one for one in neighbours(federation, site)}
    if not known:  # behind gateways alone, with thousands of ways
        return {}
    uplinks = {uplink.name: uplink for uplink in site.uplinks}
    found = {}
    for way in ways:
        uplink, remote = uplinks[way[0]], way[1]
        hop = uplink.next_hop(remote)
        if hop is not None and (wan_port(uplink), hop) in known:
            found[way] = known[wan_port(uplink), hop]
    return found


@dataclass(frozen=True, slots=True)
class Doubtful:
    """Next hops behind which no path lives: ``lost`` ones, and those where nothing is heard."""

    lost: frozenset[Hop] = _NOTHING
    silent: frozenset[Hop] = _NOTHING


def doubtful(orders: Orders, site: Site, learnt: frozenset[Hop]) -> Doubtful:
    """Return which of the next hops that the kernel has ``learnt`` are so."""
    left = set(learnt)
    for hop in hops(orders.live_pairs, site):
        if not left:  # soon, with a gateway for thousands of paths
            break
        left.discard(hop)
    lost = left.intersection(hops(orders.dead_pairs | orders.down_pairs, site)) if left else left
    return Doubtful(frozenset(lost), frozenset(left - lost))


class Neighbours:
    """What the kernel has learnt in a network namespace. One object per thread (pyroute2)."""

    def __init__(self, namespace: str) -> None:
        """Open a netlink socket in the network namespace called ``namespace``.

        Raises:
            MissingNamespaceError: there is none.

        """
        with within(namespace):
            self._netlink = IPRoute()
        self._orders: Orders | None = None
        self._doubtful = Doubtful()
        self._next, self._turn = float("-inf"), 0

    def __enter__(self) -> Neighbours:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def doubt(self, orders: Orders, site: Site, learnt: frozenset[Hop]) -> None:
        """Forget those that are lost, and ask those that are silent: new ones at once, then often.

        ``learnt`` are all that the kernel has asked for.
        """
        now, before = time.monotonic(), self._doubtful
        if orders is not self._orders:
            self._orders, self._doubtful = orders, doubtful(orders, site, learnt)
        if now >= self._next or self._doubtful.lost - before.lost:
            self._next = now + _FORGET_SECONDS
            for interface, address in self._in_turn():
                lost = (interface, address) in self._doubtful.lost
                self._ask(interface, address, anew=lost)

    def _in_turn(self) -> list[Hop]:
        every = sorted(self._doubtful.lost | self._doubtful.silent, key=str)
        start = self._turn if self._turn < len(every) else 0
        self._turn = start + _AT_ONCE
        return every[start : self._turn]

    def _ask(self, interface: str, address: Address, *, anew: bool) -> None:
        for index in self._netlink.link_lookup(ifname=interface):
            which = {"ifindex": index, "dst": str(address), "family": _FAMILY[address.version]}
            try:
                if not any(one["state"] & _LEARNT for one in self._netlink.neigh("get", **which)):
                    continue
                if anew:
                    self._netlink.neigh("del", **which)
                else:
                    self._netlink.neigh("change", state=_PROBE, **which)
            except NetlinkError as error:
                if error.code not in _MEANWHILE:
                    raise
