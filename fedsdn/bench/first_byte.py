"""The benchmark of new connections: the time from ``connect()`` to the answer's first byte.

Between the same sites, one by one in turns: to a destination that is known to listen, to one that
was never asked for, and between two VMs that a wire joins without fedsdn.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from threading import Thread

from fedsdn.bench.figures import Summary, percentile, summary
from fedsdn.bench.guests import DEVICE, Guest, guests
from fedsdn.bench.rig import Rig
from fedsdn.config.model import Family
from fedsdn.lab.build import Progress

_LIMIT_SECONDS = 20.0
_WARM_UP = 20
_DIRECT_PRIORITY = 60_000
"""Above every flow of fedsdn in table 0."""
_FAMILIES: tuple[Family, ...] = (4, 6)


class Way(StrEnum):
    """Where a connection goes."""

    ROUTED = "routed, without fedsdn"
    KNOWN = "known destination"
    FIRST = "first contact"


BOUNDS: dict[Way, tuple[float, float]] = {Way.KNOWN: (0.6, 0.8), Way.FIRST: (1.1, float("inf"))}
"""Of the median and the 99th percentile, as parts of the routed path's."""


FULL, QUICK = 500, 100
"""Connections of each way and family."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Times of one class in ms; the parts are of the routed path's figures."""

    way: Way
    family: Family
    times: Summary
    median_part: float
    p99_part: float

    @property
    def met(self) -> bool | None:
        """Whether both bounds are met; None without."""
        if self.way not in BOUNDS:
            return None
        median, p99 = BOUNDS[self.way]
        return self.median_part <= median and self.p99_part <= p99


@dataclass(slots=True)
class FirstByteResults:
    """Times in ms of all connections so far, and why others failed."""

    times_ms: dict[Family, dict[Way, list[float]]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Say what failed, and which figures are beyond their bounds."""
        beyond = (
            f"{one.way}, IPv{one.family}: {one.median_part:.2f} of the routed path's median, and "
            f"{one.p99_part:.2f} of its 99th percentile, are more than {BOUNDS[one.way][0]:g} "
            f"and {BOUNDS[one.way][1]:g}"
            for one in self.figures()
            if one.met is False
        )
        return [*self.errors, *beyond]

    def figures(self) -> Iterator[Figures]:
        """Sum the classes up."""
        for family, by_way in self.times_ms.items():
            routed = by_way[Way.ROUTED]
            for way, times in by_way.items():
                if (found := summary(times)) is not None and routed:
                    yield Figures(
                        *(way, family, found),
                        found.median / percentile(routed, 50),
                        found.p99 / percentile(routed, 99),
                    )


def run(rig: Rig, count: int, results: FirstByteResults, report: Progress) -> None:
    """Measure; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: the VMs cannot be made.

    """
    near, far = (view.name for view in rig.sites)
    with guests(rig.lab, {near: 2, far: 2}) as made, ExitStack() as stack:
        client, server = made[near][0], made[far][0]
        direct = (made[near][1], made[far][1])
        stack.enter_context(_joined(rig, *direct))
        for family in _FAMILIES:
            to_listen = stack.enter_context(answering(server, family))
            routed = stack.enter_context(answering(direct[1], family))
            ways: dict[Way, Callable[[], float]] = {
                Way.ROUTED: partial(first_byte, direct[0], family, routed),
                Way.KNOWN: partial(first_byte, client, family, to_listen),
                Way.FIRST: partial(_first_contact, client, server, family),
            }
            times = results.times_ms[family] = {way: [] for way in Way}
            _measure(ways, count, times, results.errors)
            report(f"IPv{family}: {count} connections of each way")


def _measure(
    ways: dict[Way, Callable[[], float]],
    count: int,
    times: dict[Way, list[float]],
    errors: list[str],
) -> None:
    order = list(ways)
    for number in range(-_WARM_UP, count):
        for way in order:
            try:
                seconds = ways[way]()
            except OSError as error:
                errors.append(f"{way}: {error.strerror or type(error).__name__}")
                continue
            if number >= 0:
                times[way].append(seconds * 1000)
        order.append(order.pop(0))


def first_byte(client: Guest, family: Family, server: tuple[str, int]) -> float:
    """Connect, ask, and return the seconds until the first byte of the answer is there.

    Raises:
        OSError: there is none.

    """
    with client.open(family) as sock:
        sock.settimeout(_LIMIT_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        sock.connect(server)
        sock.sendall(b"?")
        if not sock.recv(1):
            raise ConnectionResetError
        return time.monotonic() - began


def _first_contact(client: Guest, server: Guest, family: Family) -> float:
    with answering(server, family) as address:
        return first_byte(client, family, address)


@contextmanager
def answering(server: Guest, family: Family) -> Iterator[tuple[str, int]]:
    """Have a server on a port of its own that answers each client; give its address."""
    with server.listen(family) as listener:
        listener.settimeout(None)
        thread = Thread(target=_answer, args=(listener,), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[:2]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept()
            thread.join()


def _answer(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            sock, _ = listener.accept()
            with sock, suppress(OSError):
                sock.settimeout(_LIMIT_SECONDS)
                sock.recv(1)
                sock.sendall(b"!")
                sock.recv(1)


@contextmanager
def _joined(rig: Rig, near: Guest, far: Guest) -> Iterator[None]:
    """Have the first wire carry all frames of two VMs, as a line of their own would.

    The flows are nobody's but ours: fedsdn leaves them alone.
    """
    ends = [(near, far), (far, near)]
    with ExitStack() as stack:
        for (one, other), view in zip(ends, rig.sites, strict=True):
            uplink = rig.uplink(view, 0).port
            flows = (
                (f"in_port={one.vm.name}", f"output:{uplink}"),
                (f"in_port={uplink},dl_dst={one.mac}", f"output:{one.vm.name}"),
            )
            for match, action in flows:
                flow = f"priority={_DIRECT_PRIORITY},{match}"
                _ofctl(one, "add-flow", view.bridge, f"{flow},actions={action}")
                stack.callback(_ofctl, one, "--strict", "del-flows", view.bridge, flow)
            for address in other.vm.addresses:
                one.run("ip", "route", "replace", str(address.ip), "dev", DEVICE)
                one.run(
                    *("ip", "neighbour", "replace", str(address.ip), "lladdr", other.mac),
                    *("dev", DEVICE),
                )
        yield


def _ofctl(guest: Guest, *command: str) -> None:
    guest.host.run("ovs-ofctl", "-O", "OpenFlow13", *command)


Rows = Sequence[Sequence[str]]


def table(results: FirstByteResults) -> tuple[str, Sequence[str], Rows]:
    """Return title, headings and rows."""
    marks = {True: "✓", False: "✗", None: ""}
    return (
        "From connect() to the first byte of the answer, ms",
        (
            *("connections", "IP", "n", "median", "p99", "worst"),
            *("median, of routed", "p99, of routed", ""),
        ),
        [
            (
                *(one.way, f"IPv{one.family}", str(one.times.n), f"{one.times.median:.1f}"),
                *(f"{one.times.p99:.1f}", f"{one.times.worst:.1f}"),
                *(f"{one.median_part:.2f}", f"{one.p99_part:.2f}", marks[one.met]),
            )
            for one in results.figures()
        ],
    )
