"""Carries out what the paths' state asks of the kernel: endpoints, and the end of subflows."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from pyroute2.netlink.exceptions import NetlinkError

from fedsdn.config.model import Site
from fedsdn.errors import FedsdnError
from fedsdn.uplinks.endpoints import Endpoint, Endpoints, endpoint_of
from fedsdn.uplinks.paths import Orders, Pair
from fedsdn.uplinks.subflows import Subflows

_LOG = logging.getLogger(__name__)


class Kernel:
    """The path manager and the subflows of the proxy's namespace; for one thread."""

    def __init__(self, namespace: str) -> None:
        """Open the namespace called ``namespace`` at the first use."""
        self._namespace = namespace
        self._open: ExitStack | None = None
        self._ended: frozenset[Pair] = frozenset()

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
        names = {uplink.address.ip: uplink.name for uplink in site.uplinks}
        return {names[one.address]: number for one, number in there.items() if one.address in names}


def _wanted(orders: Orders, site: Site, there: frozenset[Endpoint]) -> list[Endpoint]:
    every = {uplink.name: endpoint_of(uplink) for uplink in site.uplinks}
    return [
        endpoint
        for name, endpoint in every.items()
        if name in orders.usable or (name not in orders.dead and endpoint in there)
    ]
