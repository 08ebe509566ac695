"""Checks that one connection fills every uplink between two sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from fedsdn.config.model import Uplink
from fedsdn.pipeline.declarations import wan_port
from fedsdn.site.nft import MEASURED, TABLE
from fedsdn.traffic.counters import recording
from fedsdn.traffic.runner import PORT, Transfer, send, serving
from fedsdn.traffic.values import Amount, ClientView, TransferDirection
from fedsdn.verify import site as site_checks
from fedsdn.verify.checks import Check, CheckFailedError
from fedsdn.verify.paths import VmPath
from fedsdn.verify.view import SiteView, uplink_pairs

LEAST_RATIO = 0.95
"""Of the sum of what the uplinks carry singly, one connection is to carry this much."""
_WARM_UP = 1 / 3
"""Part of a transfer that is not measured, at its start: congestion control looks for the rate."""
_LEAST_SHARE = 0.05
"""An uplink that carries less of its part than this is not used: it only acknowledges."""


@dataclass(frozen=True, slots=True)
class Wires:
    """The uplinks between two sites. Each transfer over them takes ``seconds``."""

    near: SiteView
    far: SiteView
    seconds: float
    _alone: dict[TransferDirection, tuple[float, ...]] = field(default_factory=dict)

    @property
    def pairs(self) -> tuple[tuple[Uplink, Uplink], ...]:
        """Uplinks of the near and the far site, one to one."""
        return uplink_pairs(self.near.site, self.far.site)

    def alone(self, direction: TransferDirection) -> tuple[float, ...]:
        """Bit/s that plain TCP gets from proxy to proxy over each pair; measured once."""
        if direction not in self._alone:
            self._alone[direction] = tuple(self._measure(*p, direction) for p in self.pairs)
        return self._alone[direction]

    def _measure(self, uplink: Uplink, other: Uplink, direction: TransferDirection) -> float:
        source, destination = uplink.address.ip, other.peer_address
        transfer = Transfer(destination, Amount(seconds=self.seconds), direction, source=source)
        with _admitted(self.far), serving(self.far.proxy, other.address.ip):
            connection = send(self.near.proxy, transfer)[0]
        rate = self.rate(connection)
        if connection.error or not rate:
            raise CheckFailedError(
                f"plain TCP from {source} to {destination}: {connection.error or 'no data came'}",
                f"see the checks of uplink {uplink.name} above",
            )
        return rate

    def rate(self, connection: ClientView) -> float:
        """Bit/s of a transfer, without its start."""
        received = connection.received
        return received.rate(_WARM_UP * self.seconds, self.seconds) if received else 0.0


@contextmanager
def _admitted(view: SiteView) -> Iterator[None]:
    """Let the proxy's packet filter take our measurement from the peers, besides the proxy's port.

    Raises:
        FedsdnError: the site's packet filter is not there.

    """
    port = (*TABLE.split(), MEASURED, "{", str(PORT), "}")
    view.proxy.output("nft", "add", "element", *port)
    try:
        yield
    finally:
        view.proxy.output("nft", "delete", "element", *port)


def throughput_checks(wires: Wires, same_sites: Sequence[VmPath]) -> list[Check]:
    """Return the checks of two sites, for their paths ``same_sites``, one of each family."""
    checks = []
    directions: tuple[TransferDirection, ...] = ("upload", "download")
    for direction in directions:
        start, end = wires.near.name, wires.far.name
        if direction == "download":
            start, end = end, start
        for path in same_sites:
            checks.append(
                Check(
                    "all uplinks at once",
                    f"one connection, IPv{path.family}, data {start} → {end}",
                    f"every uplink carries it, and it gets at least {LEAST_RATIO} of the sum of "
                    "what each uplink carries alone",
                    partial(_uses_all, wires, path, direction),
                    (path.connects, *_prerequisites(wires)),
                )
            )
    return checks


def _prerequisites(wires: Wires) -> tuple[str, ...]:
    near, far = wires.near, wires.far
    return (
        *(site_checks.title(view, site_checks.SiteCheck.ENDPOINTS) for view in (near, far)),
        *(
            site_checks.title(near, site_checks.reach(uplink, far.site, other))
            for uplink, other in wires.pairs
        ),
    )


@dataclass(frozen=True, slots=True)
class Carried:
    """A connection over all uplinks, and the bytes that came over each of the receiver's."""

    connection: ClientView
    receiver: SiteView
    shares: dict[str, int]


def carry(wires: Wires, path: VmPath, direction: TransferDirection) -> Carried:
    """Move data in one connection of two VMs, and count what each uplink carries of it.

    Raises:
        CheckFailedError: the connection broke.

    """
    transfer = Transfer(path.destination, Amount(seconds=wires.seconds), direction)
    receiver = wires.far if direction == "upload" else wires.near
    with serving(path.far_vm.shell), recording(receiver.proxy) as recorded:
        connection = send(path.near_vm.shell, transfer)[0]
    if connection.error:
        raise CheckFailedError(connection.error, path.ask_proxies)
    came = recorded.received()
    receiving = [other if direction == "upload" else uplink for uplink, other in wires.pairs]
    shares = {uplink.name: came[wan_port(uplink)] for uplink in receiving}
    return Carried(connection, receiver, shares)


def _uses_all(wires: Wires, path: VmPath, direction: TransferDirection) -> str:
    alone = wires.alone(direction)
    carried = carry(wires, path, direction)
    check_shares(carried, alone)
    together, total = wires.rate(carried.connection), sum(alone)
    sums = " + ".join(f"{rate / 1e6:.0f}" for rate in alone)
    listed = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in carried.shares.items())
    found = f"{together / 1e6:.0f} of {sums} Mbit/s: {together / total:.2f} ({listed})"
    if together < LEAST_RATIO * total:
        raise CheckFailedError(
            found, "look for a saturated CPU (top) and at each uplink's retransmissions (ss -ti)"
        )
    return found


def check_shares(carried: Carried, alone: Sequence[float]) -> None:
    """Compare bytes per uplink with what they carry singly: each must have had a real part.

    Raises:
        CheckFailedError: an uplink carried next to nothing.

    """
    shares = carried.shares
    for (name, size), rate in zip(shares.items(), alone, strict=True):
        fair = sum(shares.values()) * rate / sum(alone)
        if size < _LEAST_SHARE * fair:
            listed = ", ".join(f"{name} {size} bytes" for name, size in shares.items())
            raise CheckFailedError(
                f"uplink {name} carries nothing: {listed}",
                "see during a transfer which subflow is missing: "
                + carried.receiver.proxy.by_hand("ss -tinM"),
            )
