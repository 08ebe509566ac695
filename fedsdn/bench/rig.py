"""The measured lab, its losses of uplinks, and its application."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedsdn.bench.cases import Control, Kind
from fedsdn.bench.figures import Sample, rate
from fedsdn.config.model import Address, Family, Uplink
from fedsdn.errors import FedsdnError
from fedsdn.lab.host import Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.operator import CONTROLLER, start_controller, wait_for_controller
from fedsdn.lab.topology import Wire
from fedsdn.lab.wait import wait_until
from fedsdn.traffic.values import TransferDirection
from fedsdn.uplinks.status import STATUS_FILE, PathState, PortState, read_status
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.paths import VmPath, paths
from fedsdn.verify.proxy import endpoints
from fedsdn.verify.view import SiteView, uplink_pairs

_STEADY_SECONDS = 30.0
_SAMPLE_SECONDS = 0.02


@dataclass(slots=True)
class Rig:
    """A lab of two sites, of which the first opens all connections."""

    lab: Lab
    views: Sequence[SiteView]
    control: Control = Control.APPLICATION
    wires: list[Wire] = field(init=False)
    """The two between the sites."""

    def __post_init__(self) -> None:
        near, far = self.sites
        ends = [
            {f"{near.name}/{one.name}", f"{far.name}/{other.name}"}
            for one, other in uplink_pairs(near.site, far.site)
        ]
        by_ends = [(w, {end.name for end in w.ends}) for w in self.lab.topology.wires]
        self.wires = [wire for wanted in ends for wire, found in by_ends if found == wanted]
        if len(self.wires) != 2:
            raise FedsdnError(
                f"lab {self.lab.name} joins {near.name} and {far.name} by {len(self.wires)} "
                "wires: give a topology with two"
            )

    @property
    def sites(self) -> tuple[SiteView, SiteView]:
        """The first two sites."""
        return self.views[0], self.views[1]

    def path(self, family: Family) -> VmPath:
        """Return the way from the first site's first VM to the second's."""
        near, far = self.sites
        return next(p for p in paths([near, far]) if p.family == family and p.near is near)

    def sender(self, direction: TransferDirection) -> SiteView:
        """Return the site that sends the data."""
        return self.sites[0 if direction == "upload" else 1]

    def receiver(self, direction: TransferDirection) -> SiteView:
        """Return the site that receives the data."""
        return self.sites[1 if direction == "upload" else 0]

    def uplink(self, view: SiteView, index: int) -> Uplink:
        """Return a site's end of a wire."""
        return next(end.uplink for end in self.wires[index].ends if end.site == view.name)

    def address(self, view: SiteView, index: int) -> Address:
        """Return the address of a site's end of a wire."""
        return self.uplink(view, index).address.ip

    # Losing uplinks

    def lose(self, kind: Kind, index: int, direction: TransferDirection) -> None:
        """Take an uplink away."""
        self._change(kind, index, direction, there=False)

    def restore(self, kind: Kind, index: int, direction: TransferDirection) -> None:
        """Put back what ``lose`` took."""
        self._change(kind, index, direction, there=True)

    @contextmanager
    def losing(self, percent: float) -> Iterator[None]:
        """Have both wires lose that part of the packets while the block runs; 0 changes nothing."""
        if not percent:
            yield
            return
        try:
            for wire in self.wires:
                self.lab.change_wire(wire.name, loss_percent=percent)
            yield
        finally:
            for wire in self.wires:
                self.lab.change_wire(wire.name, loss_percent=wire.quality.loss_percent)

    def _change(self, kind: Kind, index: int, direction: TransferDirection, *, there: bool) -> None:
        wire = self.wires[index]
        match kind:
            case Kind.WIRE:
                self.lab.change_wire(wire.name, carrier=there)
            case Kind.SILENT:
                loss = wire.quality.loss_percent if there else 100.0
                self.lab.change_wire(wire.name, loss_percent=loss)
            case _:
                near = kind is Kind.NEAR_PORT
                view = self.sender(direction) if near else self.receiver(direction)
                device = self.uplink(view, index).port
                view.shell.output("ip", "link", "set", device, "up" if there else "down")

    # Their manager

    def put(self, control: Control) -> None:
        """Start or stop the application at every site, and wait until it has settled.

        Raises:
            FedsdnError: it does not.

        """
        if control is not self.control:
            for host in self.lab.hosts:
                if control is Control.APPLICATION:
                    self.start(host)
                else:
                    _stop(host)
            self.control = control
        self.wait_steady()

    def start(self, host: Host) -> None:
        """Start the application of a site, and wait until it has installed its flows.

        Raises:
            FedsdnError: it does not.

        """
        site = self.lab.topology.federation.site(host.name)
        wait_for_controller(host, site, start_controller(host))

    def wait_steady(self) -> None:
        """Wait until every uplink is used again; without the application there is none to ask.

        Raises:
            FedsdnError: one is not, after ``_STEADY_SECONDS``.

        """
        if self.control is Control.APPLICATION:
            wait_until(
                lambda: all(_all_up(host) for host in self.lab.hosts),
                _STEADY_SECONDS,
                lambda: "an uplink is not up again: " + "; ".join(self.wrong_endpoints() or ["?"]),
            )
        wait_until(
            lambda: not self.wrong_endpoints(),
            _STEADY_SECONDS,
            lambda: "; ".join(self.wrong_endpoints()),
        )

    def wrong_endpoints(self) -> list[str]:
        """Say at which sites the MPTCP endpoints are not what all uplinks want."""
        wrong = []
        for view in self.views:
            try:
                endpoints(view)
            except CheckFailedError as error:
                wrong.append(f"{view.name}: {error.found}")
        return wrong

    def meter(self, direction: TransferDirection) -> Meter:
        """Return a meter of what the wires carry."""
        sender = self.sender(direction)
        ends = [(wire.name, f"{sender.name}/{self.uplink(sender, index).name}")
                for index, wire in enumerate(self.wires)]  # fmt: skip
        return Meter(self.lab, ends)

    def capacity(self, index: int) -> float:
        """Return what a wire can carry, in bytes per second."""
        return self.wires[index].quality.rate_mbit * 1e6 / 8


class Meter:
    """Samples what each wire carries in one direction."""

    def __init__(self, lab: Lab, ends: Sequence[tuple[str, str]]) -> None:
        """Measure the wires by their names and the names of the ends that send."""
        self._lab = lab
        self._ends = ends
        self._samples: list[list[Sample]] = [[] for _ in ends]

    def sample(self) -> float:
        """Wait a little, take a sample, and return its time."""
        time.sleep(_SAMPLE_SECONDS)
        wires = self._lab.wires()
        now = time.monotonic()
        for samples, (wire, end) in zip(self._samples, self._ends, strict=True):
            samples.append((now, wires[wire]["sent"][end]["bytes"]))
        return now

    def rate(self, index: int, seconds: float) -> float:
        """Return the bytes per second that a wire carried in the last ``seconds`` of samples."""
        return rate(self._samples[index], seconds)

    def forget(self) -> None:
        """Drop the samples so far."""
        for samples in self._samples:
            samples.clear()


def _stop(host: Host) -> None:
    daemon = host.daemon(CONTROLLER)
    daemon.signal("TERM")
    wait_until(
        lambda: not daemon.alive(),
        _STEADY_SECONDS,
        lambda: f"{host.name}: the application does not end: {daemon.last_line()}",
    )


def _all_up(host: Host) -> bool:
    outside = host.run_directory / STATUS_FILE.relative_to(Path("/run"))
    status = read_status(outside)
    return (
        status is not None
        and all(one.port is PortState.UP and one.endpoint is not None for one in status.uplinks)
        and all(path.state is not PathState.DOWN for path in status.paths)
    )
