"""Carries out what the paths' state asks of the kernel: endpoints, and the end of subflows."""

from __future__ import annotations

import time
from contextlib import ExitStack

from pyroute2.netlink.exceptions import NetlinkError

from fedsdn import namespace
from fedsdn.config.model import Site
from fedsdn.errors import FedsdnError
from fedsdn.uplinks.endpoints import Endpoint, Endpoints, endpoint_of
from fedsdn.uplinks.paths import Orders, Pair
from fedsdn.uplinks.subflows import Subflows

_REPAIR_SECONDS = 3.0
"""How often it is looked for uplinks that are not used; twice in a row, as joining takes time."""

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
        self._next_repair = 0.0

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
            self._ended = frozenset()
            with ExitStack() as stack:
                self._endpoints = stack.enter_context(Endpoints(self._namespace))
                self._subflows = stack.enter_context(Subflows(self._namespace))
                self._open = stack.pop_all()
        there = self._endpoints.read()
        wanted = _wanted(orders, site, frozenset(there))
        if self._endpoints.apply(wanted):
            there = self._endpoints.read()
        if new := orders.dead_pairs - self._ended:
            self._subflows.end(new)
        self._ended = orders.dead_pairs
        if time.monotonic() >= self._next_repair:
            self._repair(orders, site)
        names = {uplink.address.ip: uplink.name for uplink in site.uplinks}
        return {names[one.address]: number for one, number in there.items() if one.address in names}

    def _repair(self, orders: Orders, site: Site) -> None:
        """Announce uplinks anew on which no connection has a subflow although it could.

        What opened them may have been lost, or have come when a connection had no subflow at all.
        """
        began = time.monotonic()
        carried = {subflow.local for subflow in self._subflows.read()}
        idle = {
            endpoint_of(uplink)
            for uplink in site.uplinks
            if uplink.name in orders.usable and uplink.address.ip not in carried
        }
        if carried:
            for endpoint in idle & self._idle:
                self._endpoints.renew(endpoint)
        self._idle = idle if carried else set()
        took = time.monotonic() - began
        self._next_repair = began + max(_REPAIR_SECONDS, took * _MOST_LOAD)


def _wanted(orders: Orders, site: Site, there: frozenset[Endpoint]) -> list[Endpoint]:
    every = {uplink.name: endpoint_of(uplink) for uplink in site.uplinks}
    return [
        endpoint
        for name, endpoint in every.items()
        if name in orders.usable or (name not in orders.dead and endpoint in there)
    ]
