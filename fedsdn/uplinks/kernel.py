"""Brings the kernel in line with the paths' states: endpoints, and subflows that are to end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pyroute2.netlink.exceptions import NetlinkError

from fedsdn import namespace
from fedsdn.config.model import AddressPair, Site
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.mptcp.endpoints import Endpoint, Endpoints, endpoint_of
from fedsdn.mptcp.subflows import Doomed, Subflows
from fedsdn.uplinks.next_hops import Hop, Neighbours
from fedsdn.uplinks.teardown import Orders

_LOG = logging.getLogger(__name__)

_SEARCH_SECONDS = 3.0
"""How often dead paths are searched for more subflows that may end."""

_FRESH_SECONDS = 0.5
"""The result of an older search is not acted on; a round trip is shorter."""

_BATCH = 100
"""Subflows are checked and ended in batches of so many; the plan is read before each."""

_IDLE_PAUSE_SECONDS = 0.01
"""Pause between batches of subflows with no data in flight, which end last: the retransmissions of
the others need the processor first."""

_SEARCH_SHARE = 50
"""A search takes at most one part in so many of the time, however many subflows there are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the kernel is to be brought in line with: orders, and the site with its uplinks.

    ``learnt`` are the next hops that are asked for where they are.
    """

    orders: Orders
    site: Site
    learnt: frozenset[Hop] = frozenset()


class Kernel:
    """The endpoints and the subflows of the proxy's namespace; for one thread."""

    def __init__(self, namespace: str) -> None:
        """Open the namespace called ``namespace`` at the first use."""
        self._namespace = namespace
        self._open: ExitStack | None = None
        self._identity: int | None = None
        self._searched: frozenset[AddressPair] = frozenset()
        self._ended: frozenset[AddressPair] = frozenset()
        self._doomed: list[Doomed] = []
        self._searched_at = self._next_search = float("-inf")
        self._left: frozenset[Endpoint] | None = None
        """The endpoints as the last call left them; None before the first one."""
        self._log = DampedLog(_LOG)

    def obey(self, plan: Callable[[], Plan]) -> dict[str, int]:
        """Bring endpoints in line and end subflows on paths that have died.

        ``plan`` returns the current plan: it is read again and again, as thousands of subflows take
        a while to end. If it changes meanwhile, this may return early, and has to be called again.

        Returns the identifiers of the endpoints that are there, by uplink.

        Raises:
            FedsdnError: the namespace is missing, or the kernel refuses.

        """
        try:
            return self._obey(plan)
        except (NetlinkError, OSError) as error:
            self.close()
            raise FedsdnError(f"namespace {self._namespace}: {error}") from error

    def close(self) -> None:
        """Close the netlink sockets; the next use opens them anew."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _obey(self, plan: Callable[[], Plan]) -> dict[str, int]:
        identity = namespace.identity(self._namespace)
        if identity != self._identity:
            self.close()  # an open socket keeps a removed namespace alive
            self._identity = identity
        if self._open is None:
            self._searched, self._ended, self._doomed = frozenset(), frozenset(), []
            self._left = None
            with ExitStack() as stack:
                self._endpoints = stack.enter_context(Endpoints(self._namespace))
                self._subflows = stack.enter_context(Subflows(self._namespace))
                self._neighbours = stack.enter_context(Neighbours(self._namespace))
                self._open = stack.pop_all()
        self._end_subflows(plan)
        numbers = self._bring_in_line(plan())
        self._doubt(plan())
        return numbers

    def _doubt(self, now: Plan) -> None:
        """Doubt next hops, last of all: connections depend on the rest, and that does not fail."""
        try:
            self._neighbours.doubt(now.orders, now.site, now.learnt)
        except (NetlinkError, OSError) as error:
            text = f"next hops of network namespace {self._namespace} cannot be asked anew: {error}"
            self._log.say(logging.WARNING, "next hops", text)
            if isinstance(error, OSError):
                self.close()  # of netlink itself

    def _end_subflows(self, plan: Callable[[], Plan]) -> None:
        """End the subflows on dead paths of connections that have others which work."""
        began, known = time.monotonic(), plan().orders
        dead, down = known.dead_pairs, known.down_pairs
        due = bool(dead - self._ended) and began > self._searched_at + _FRESH_SECONDS
        if (dead | down) - self._searched or due or began >= self._next_search:
            self._search(dead | down)
        self._searched, self._ended = dead | down, dead
        now = [one for one in self._doomed if one.pair in dead]
        self._doomed = [one for one in self._doomed if one.pair not in dead]
        for batch in _batches([one for one in now if one.busy]):
            self._end(batch, plan().orders)
        self._end_idle([one for one in now if not one.busy], plan)

    def _end_idle(self, idle: Sequence[Doomed], plan: Callable[[], Plan]) -> None:
        """End subflows with no data in flight. A changed plan goes first: they can wait."""
        began = plan()
        for batch in _batches(idle):
            if plan() != began:
                self._doomed += batch
                continue
            time.sleep(_IDLE_PAUSE_SECONDS)
            self._end(batch, plan().orders)

    def _end(self, batch: Sequence[Doomed], orders: Orders) -> None:
        dead = [one for one in batch if one.pair in orders.dead_pairs]
        self._subflows.end(dead, orders.live_pairs)

    def _search(self, pairs: frozenset[AddressPair]) -> None:
        """Search for subflows that may have to end.

        Among thousands that takes a round trip or more, for which their end has to wait anyway
        (``teardown.drained_at``); so it is done meanwhile.
        """
        self._searched_at = time.monotonic()
        self._doomed = self._subflows.doomed(pairs) if pairs else []
        took = time.monotonic() - self._searched_at
        self._next_search = self._searched_at + max(_SEARCH_SECONDS, took * _SEARCH_SHARE)

    def _bring_in_line(self, plan: Plan) -> dict[str, int]:
        orders, uplinks = plan.orders, plan.site.uplinks
        there = self._endpoints.read()
        if self._left not in {None, frozenset(there)}:
            text = f"put back MPTCP endpoints of network namespace {self._namespace}"
            self._log.say(logging.WARNING, "endpoints", f"{text}: changed by somebody else")
        wanted = [
            endpoint
            for uplink in uplinks
            for endpoint in [endpoint_of(uplink)]
            if uplink.name in orders.usable
            or (endpoint in there and uplink.name not in orders.dead)
        ]
        if self._endpoints.apply(wanted):
            there = self._endpoints.read()
        self._left = frozenset(there)
        self._log.say_rest()
        names = {uplink.address.ip: uplink.name for uplink in uplinks}
        return {names[one.address]: number for one, number in there.items() if one.address in names}


def _batches(every: Sequence[Doomed]) -> Iterator[Sequence[Doomed]]:
    for start in range(0, len(every), _BATCH):
        yield every[start : start + _BATCH]
