"""Carries out what the paths' state asks of the kernel: endpoints, and the end of subflows."""

from __future__ import annotations

import time
from contextlib import ExitStack

from pyroute2.netlink.exceptions import NetlinkError

from fedsdn import namespace
from fedsdn.config.model import Site
from fedsdn.errors import FedsdnError
from fedsdn.uplinks.endpoints import Endpoints, endpoint_of
from fedsdn.uplinks.paths import Orders, Pair
from fedsdn.uplinks.subflows import Subflows

_LOOK_SECONDS = 3.0
"""How often it is looked whether more of the subflows on dead paths may end."""

_MOST_LOAD = 50
"""Looking takes at most one part in so many of the time, however many subflows there are."""


class Kernel:
    """The endpoints and the subflows of the proxy's namespace; for one thread."""

    def __init__(self, namespace: str) -> None:
        """Open the namespace called ``namespace`` at the first use."""
        self._namespace = namespace
        self._open: ExitStack | None = None
        self._identity: int | None = None
        self._ended: frozenset[Pair] = frozenset()
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
            self._ended = frozenset()
            with ExitStack() as stack:
                self._endpoints = stack.enter_context(Endpoints(self._namespace))
                self._subflows = stack.enter_context(Subflows(self._namespace))
                self._open = stack.pop_all()
        if orders.dead_pairs - self._ended or time.monotonic() >= self._next_look:
            self._end(orders.dead_pairs)
        self._ended = orders.dead_pairs
        return self._bring_in_line(orders, site)

    def _end(self, dead: frozenset[Pair]) -> None:
        """End subflows on dead paths, but no connection's last: it may be all that still works."""
        began = time.monotonic()
        if dead:
            self._subflows.end(dead, self._subflows.elsewhere(dead))
        took = time.monotonic() - began
        self._next_look = began + max(_LOOK_SECONDS, took * _MOST_LOAD)

    def _bring_in_line(self, orders: Orders, site: Site) -> dict[str, int]:
        there = self._endpoints.read()
        wanted = [
            endpoint
            for uplink in site.uplinks
            for endpoint in [endpoint_of(uplink)]
            if uplink.name in orders.usable
            or (endpoint in there and uplink.name not in orders.dead)
        ]
        if self._endpoints.apply(wanted):
            there = self._endpoints.read()
        names = {uplink.address.ip: uplink.name for uplink in site.uplinks}
        return {names[one.address]: number for one, number in there.items() if one.address in names}
