"""Carries out what the paths' state asks of the kernel: endpoints, and the end of subflows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack

from pyroute2.netlink.exceptions import NetlinkError

from fedsdn import namespace
from fedsdn.config.model import Address, Site
from fedsdn.errors import FedsdnError
from fedsdn.uplinks.endpoints import Endpoint, Endpoints, endpoint_of
from fedsdn.uplinks.paths import Orders, Pair
from fedsdn.uplinks.subflows import Subflow, SubflowKind, Subflows

_LOOK_SECONDS = 3.0
"""How often subflows are looked at. An uplink must be found unused twice in a row, as joining takes
time."""

_MOST_LOAD = 50
"""Looking takes at most one part in so many of the time, however many subflows there are."""


class Kernel:
    """The path manager and the subflows of the proxy's namespace; for one thread."""

    def __init__(self, namespace: str) -> None:
        """Open the namespace called ``namespace`` at the first use."""
        self._namespace = namespace
        self._open: ExitStack | None = None
        self._identity: int | None = None
        self._ended: frozenset[Pair] = frozenset()
        self._idle: set[Endpoint] = set()
        self._seen: list[Subflow] = []
        self._kept: set[Endpoint] = set()
        """Endpoints of dead uplinks with a connection's last subflow: to be announced anew."""
        self._next_look = 0.0

    def obey(self, orders: Orders, site: Site) -> dict[str, int]:
        """Bring endpoints in line and end subflows on paths that have died.

        Returns the identifiers of the endpoints that are there, by uplink.

        Raises:
            FedsdnError: the namespace is missing, or the kernel refuses.

        """
        try:
            return self._obey(orders, site)
        except (NetlinkError, OSError) as error:
            self.close()
            raise FedsdnError(f"namespace {self._namespace}: {error}") from error

    def close(self) -> None:
        """Close the netlink sockets; the next use opens them anew."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _obey(self, orders: Orders, site: Site) -> dict[str, int]:
        identity = namespace.identity(self._namespace)
        if identity != self._identity:
            self.close()  # what is open keeps a namespace that was removed alive
            self._identity = identity
        if self._open is None:
            self._ended, self._seen = frozenset(), []
            with ExitStack() as stack:
                self._endpoints = stack.enter_context(Endpoints(self._namespace))
                self._subflows = stack.enter_context(Subflows(self._namespace))
                self._open = stack.pop_all()
        if orders.dead_pairs - self._ended:
            self._end(orders.dead_pairs)
        self._ended = orders.dead_pairs
        if time.monotonic() >= self._next_look:
            self._look(orders, site)
        return self._bring_in_line(orders, site)

    def _end(self, dead: frozenset[Pair]) -> None:
        """End subflows on dead paths, but no connection's last: that would not come back."""
        self._subflows.end(dead, self._subflows.elsewhere(dead))
        self._seen = self._subflows.read()

    def _look(self, orders: Orders, site: Site) -> None:
        """Look at all subflows: whether more of them may end, and all uplinks are in use."""
        began = time.monotonic()
        if orders.dead_pairs:
            self._end(orders.dead_pairs)
        else:
            self._seen = self._subflows.read()
        self._repair(orders, site)
        took = time.monotonic() - began
        self._next_look = began + max(_LOOK_SECONDS, took * _MOST_LOAD)

    def _bring_in_line(self, orders: Orders, site: Site) -> dict[str, int]:
        there = self._endpoints.read()
        last = _lasts(self._seen)
        for uplink in site.uplinks:
            endpoint = endpoint_of(uplink)
            if uplink.name in orders.dead:
                keep = endpoint in there and uplink.address.ip in last
                (self._kept.add if keep else self._kept.discard)(endpoint)
        wanted = _wanted(orders, site, frozenset(there), frozenset(self._kept))
        if self._endpoints.apply(wanted):
            there = self._endpoints.read()
        names = {uplink.address.ip: uplink.name for uplink in site.uplinks}
        return {names[one.address]: number for one, number in there.items() if one.address in names}

    def _repair(self, orders: Orders, site: Site) -> None:
        """Announce uplinks anew that connections could use, and have no subflow on.

        What opened them may have been lost, or have come when a connection had no subflow at all;
        or the endpoint was kept while the uplink was dead, for connections that had no other.
        """
        carried = {subflow.local for subflow in self._seen}
        last = _lasts(self._seen)
        every = {endpoint_of(uplink): uplink for uplink in site.uplinks}
        usable = {one for one, uplink in every.items() if uplink.name in orders.usable}
        idle = {one for one in usable if one.address not in carried}
        kept = {one for one in usable & self._kept if one.address not in last}
        if carried:
            for endpoint in (idle & self._idle) | kept:
                self._endpoints.renew(endpoint)
        self._kept -= kept
        self._kept &= every.keys()
        self._idle = idle if carried else set()


def _lasts(seen: Iterable[Subflow]) -> set[Address]:
    """Local addresses of subflows that are the only ones of their connections."""
    subflows = [one for one in seen if one.kind is not SubflowKind.FALLBACK]
    of = Counter(one.token for one in subflows)
    return {one.local for one in subflows if of[one.token] == 1}


def _wanted(
    orders: Orders, site: Site, there: frozenset[Endpoint], kept: frozenset[Endpoint]
) -> list[Endpoint]:
    every = {uplink.name: endpoint_of(uplink) for uplink in site.uplinks}
    return [
        endpoint
        for name, endpoint in every.items()
        if name in orders.usable
        or (endpoint in there and (name not in orders.dead or endpoint in kept))
    ]
