"""Paths between the sites of a federation, over wires and a clock that are modelled.

Each step is a millisecond; a probe travels for the wire's delay, or is lost.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from fedsdn.config.model import Federation, Probes
from fedsdn.uplinks.path import Path, PathName
from fedsdn.uplinks.paths import PHASES, Paths, Taken
from fedsdn.uplinks.probe import Probe
from fedsdn.uplinks.status import PathState, PortState

UP, DOWN, UNKNOWN = PathState.UP, PathState.DOWN, PathState.UNKNOWN
STEP = 0.001
SETTLED = 2.1
"""A bit more than the time in which connections open subflows on a recovered path."""
PROBES = Probes()
Way = tuple[str, str, str]
"""A sending site, a receiving one, and the uplink that both use (each uplink has a wire)."""


def drawn_by_lot(lot: random.Random, when: float) -> int:
    """Return an epoch: a later one may be greater or less; when rounds are sent depends on when."""
    return lot.randrange(1, 2**46) * PHASES + round(when % 1 * PHASES)


def arrive(paths: Paths, probe: Probe, now: float) -> Taken:
    """Have a site take a probe that came by the path that it names, if there is one."""
    name = PathName(probe.to_uplink, probe.site, probe.uplink)
    path = next((path for path in paths if path.name == name), None)
    return paths.take(probe, path.way if path else ("nowhere", ip_address("::")), now)


@dataclass
class Model:
    """The sites of a federation, each with its paths; uplinks of one name share a wire."""

    federation: Federation
    delay: float = 0.015
    slower: dict[str, float] = field(default_factory=dict)
    """Delays of wires that are not like the others, in seconds."""
    now: float = 1000.0
    sites: dict[str, Paths] = field(default_factory=dict)
    cut: set[Way] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    """Sites whose processes are not scheduled; probes to them wait."""
    under_way: list[tuple[float, str, Probe]] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    changes: list[tuple[float, str, str, PathState]] = field(default_factory=list)
    lot: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311
    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Probes, by who sent them and to whom."""

    def __post_init__(self) -> None:
        for number, site in enumerate(self.federation.sites):
            self.start(site.name, self.now + number * 0.037)
        self.run(SETTLED)

    def start(self, site: str, when: float) -> None:
        """Start a site's application, for the first time or again."""
        self.sites[site] = Paths(self.federation, site, drawn_by_lot(self.lot, when), now=when)
        self.sites[site].set_ports(
            {up.name: PortState.UP for up in self.federation.site(site).uplinks}, when
        )
        self.running.add(site)

    def stop(self, site: str, *, leaving: bool) -> None:
        if leaving:
            self.send(site, self.sites[site].last_probes(self.now))
        self.running.remove(site)

    def send(self, site: str, probes: Iterable[tuple[Path, Probe]]) -> None:
        for path, probe in probes:
            self.sent[site, path.name.peer] += 1
            if (site, path.name.peer, path.name.uplink) not in self.cut:
                delay = self.slower.get(path.name.uplink, self.delay)
                self.under_way.append((self.now + delay, path.name.peer, probe))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()

    def step(self) -> None:
        self.now += STEP
        running = [site for site in self.sites if site in self.running - self.stalled]
        for arrival, site, probe in [one for one in self.under_way if one[0] <= self.now]:
            if site not in self.stalled:
                self.under_way.remove((arrival, site, probe))
            if site in running and self.has_port(site, probe.to_uplink):
                self.take(site, probe)
        for site in running:
            self.turn(site)

    def take(self, site: str, probe: Probe) -> None:
        """Have a probe arrive at a site, which may send a greeting back."""
        paths = self.sites[site]
        if greeting := arrive(paths, probe, self.now).greeting:
            names = PathName(greeting.uplink, greeting.to, greeting.to_uplink)
            self.send(site, [(path, greeting) for path in paths if path.name == names])

    def turn(self, site: str) -> None:
        """Do what is due at a site, as its application does."""
        paths = self.sites[site]
        while paths.next_turn() <= self.now:
            for path in paths.judge(self.now):
                if path.said is not path.state:
                    path.said = path.state
                    self.changes.append((self.now, site, path.name.uplink, path.state))
            self.send(site, paths.probes(self.now))

    def set_port(self, site: str, uplink: str, state: PortState) -> None:
        ports = {**self.sites[site].ports, uplink: state}
        assert self.sites[site].set_ports(ports, self.now)
        if site in self.running:
            self.turn(site)

    def has_port(self, site: str, uplink: str) -> bool:
        return self.sites[site].ports[uplink] is PortState.UP

    def carries(self, source: str, target: str, uplink: str) -> bool:
        """Whether a packet from one site to the other would arrive now."""
        ports = all(self.has_port(site, uplink) for site in (source, target))
        return ports and (source, target, uplink) not in self.cut

    def cut_wire(self, uplink: str, *ends: str) -> None:
        """Lose every packet that the ``ends`` send over a wire; by default both."""
        names = [site.name for site in self.federation.sites]
        self.cut |= {(source, target, uplink) for source in ends or names for target in names}

    def mend(self) -> None:
        self.cut.clear()

    def states(self, site: str) -> dict[str, PathState]:
        """By uplink; of two sites, so there is one path for each."""
        return {path.name.uplink: path.state for path in self.sites[site]}

    def seconds_until(self, site: str, uplink: str, state: PathState, limit: float = 10.0) -> float:
        start = self.now
        while self.states(site)[uplink] is not state:
            assert self.now < start + limit, f"{uplink} of {site} is not {state}"
            self.run(STEP)
        return self.now - start
