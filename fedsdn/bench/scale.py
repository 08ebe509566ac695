"""What a large federation costs a site: reading its file, its flows, its paths, a connection.

All times are the process's CPU time, so that a busy machine does not count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path
from statistics import median
from typing import TypeVar

from fedsdn.config.loader import dump_federation, load_federation
from fedsdn.config.model import Federation, Prefix, ProviderNetwork, Site, Uplink
from fedsdn.config.rules import Rule, RuleIndex
from fedsdn.identity.new import NewIdentity, make
from fedsdn.openflow.difference import difference
from fedsdn.openflow.wanted import WantedFlows
from fedsdn.pipeline.build import SiteFlows, site_flows
from fedsdn.proxy.admission.policy import Policy
from fedsdn.socket_address import SocketAddress
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.status import PortState

MOST_SITES = 4096
"""More do not fit into the addresses that are given out here."""

MOST_PREFIXES = 32
"""Prefixes of one site; for the same reason."""

T = TypeVar("T")

_LOOK_UPS = 1000
_PORT = 443


def federation(sites: int, prefixes: int = 10) -> Federation:
    """Make a federation: prefixes of both families, two uplinks with a gateway, one behind NAT."""
    made = tuple(_site(number, prefixes) for number in range(sites))
    return Federation(made, 1080)


@cache
def own_identity(name: str) -> NewIdentity:
    """Return the identity of every site that is called so."""
    return make(name)


def _site(number: int, prefixes: int) -> Site:
    name = f"site-{number}"
    block = 4 * number  # a /30 for each site
    isp, lte = (ip_address(f"{net}.0") + block for net in ("172.16.0", "172.20.0"))
    return Site(
        name=name,
        provider_network=ProviderNetwork("br-provider", table_miss="normal"),
        prefixes=tuple(_prefixes(number, prefixes)),
        uplinks=(
            Uplink("isp", "eth1", ip_interface(f"{isp + 1}/30"), gateway=isp + 2),
            Uplink(
                "lte",
                "eth2",
                ip_interface(f"{lte + 1}/30"),
                gateway=lte + 2,
                public=ip_address("198.18.0.1") + number,
            ),
        ),
        identities=(own_identity(name).identity,),
    )


def _prefixes(site: int, count: int) -> Iterator[Prefix]:
    for index in range(count):
        first: IPv4Address | IPv6Address
        if index % 2:
            first, length = IPv6Address(f"fd00:{site:x}:{index:x}::"), 64
        else:
            place = site * MOST_PREFIXES // 2 + index // 2
            first, length = IPv4Address("10.0.0.0") + 256 * place, 24
        yield Prefix(ip_network(f"{first}/{length}"), first + 2)


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds for a federation of so many ``sites``, medians of some rounds.

    ``change_flows`` is for the flows of one site that leaves, or comes: made, written and compared.
    ``connection`` is for finding the peers of one connection at both of its sites, ``ruled`` the
    same with as many rules as sites, and ``index_rules`` for making these ready.
    """

    sites: int
    file_bytes: int
    load: float
    flows: int
    make_flows: float
    write_flows: float
    change_flows: float
    paths: int
    make_paths: float
    judge_paths: float
    connection: float
    index_rules: float
    ruled: float


def measure(sites: int, prefixes: int, rounds: int, directory: Path) -> Costs:
    """Measure; the federation file is written into ``directory``."""
    file = directory / f"{sites}.yaml"
    file.write_text(dump_federation(federation(sites, prefixes)))
    load, whole = _timed(rounds, lambda: load_federation(file))
    near, far = whole.sites[0], whole.sites[-1]
    make_flows, flows = _timed(rounds, lambda: site_flows(whole, near.name))
    numbers = _port_numbers(flows)
    write_flows, _ = _timed(rounds, lambda: asyncio.run(WantedFlows().take(flows.groups, numbers)))
    change_flows = _change(rounds, whole, flows, numbers)
    make_paths, paths = _timed(rounds, lambda: Paths(whole, near.name, 1, 0.0))
    judge_paths, _ = _timed(rounds, lambda: _lose_a_port(paths, near.uplinks[0].name))
    connections, _ = _timed(rounds, lambda: _look_up(whole, near, far))
    with_rules = replace(whole, allow=rules(whole.sites))
    index_rules, _ = _timed(rounds, lambda: RuleIndex(with_rules.allow or (), (), whole.sites))
    ruled, _ = _timed(rounds, lambda: _look_up(with_rules, near, far))
    return Costs(
        sites=sites,
        file_bytes=file.stat().st_size,
        load=load,
        flows=sum(map(len, flows.groups.values())),
        make_flows=make_flows,
        write_flows=write_flows,
        change_flows=change_flows,
        paths=len(list(paths)),
        make_paths=make_paths,
        judge_paths=judge_paths,
        connection=connections / _LOOK_UPS,
        index_rules=index_rules,
        ruled=ruled / _LOOK_UPS,
    )


def rules(sites: Sequence[Site]) -> tuple[Rule, ...]:
    """Return a rule for each site: its VMs may use a service of the site before it."""
    services = range(_PORT, _PORT + 1), range(8000, 8100)
    return tuple(
        Rule((site.name,), (sites[place - 1].name,), "tcp", services, place)
        for place, site in enumerate(sites)
    )


def _lose_a_port(paths: Paths, uplink: str) -> None:
    """Judge every path: a port was lost, or is back."""
    down = dict.fromkeys(paths.ports, PortState.DOWN)
    lost = paths.ports[uplink] is PortState.UP
    paths.set_ports(down if lost else {**down, uplink: PortState.UP}, 1.0)
    while paths.next_turn() == float("-inf"):
        paths.judge(1.0)


def _port_numbers(flows: SiteFlows) -> dict[str, int]:
    every = (flow for group in flows.groups.values() for flow in group)
    names = sorted({port for flow in every for port in flow.ports})
    return dict(zip(names, range(1, len(names) + 1), strict=True))


def _change(rounds: int, whole: Federation, flows: SiteFlows, numbers: dict[str, int]) -> float:
    """Return the CPU seconds of the flows of one site that leaves, or comes."""
    less = replace(whole, sites=whole.sites[:-1])
    wanted, made = WantedFlows(), flows
    asyncio.run(wanted.take(flows.groups, numbers))
    present = dict(wanted.flows)

    def change(to: Federation) -> None:
        nonlocal made
        made = site_flows(to, flows.site.name, (), made)
        keys = asyncio.run(wanted.take(made.groups, numbers))
        found = difference(keys, wanted.flows, present)
        for flow in found.deletions:
            del present[flow.key]
        present.update((flow.key, flow) for flow in found.additions)

    def leave_and_come() -> None:
        change(less)
        change(whole)
        if present != wanted.flows:
            raise AssertionError("differences lead to the wanted flows")

    return _timed(rounds, leave_and_come)[0] / 2


def _timed(rounds: int, work: Callable[[], T]) -> tuple[float, T]:
    """Return the median of the CPU seconds of some rounds of ``work``, and a result of it."""
    result, times = work(), []
    for _ in range(rounds):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return median(times), result


def _look_up(whole: Federation, near: Site, far: Site) -> None:
    """Do for many connections from ``near`` to ``far`` what the proxies of both do first."""
    at_near, at_far = Policy.at(whole, near.name), Policy.at(whole, far.name)
    client, other = (site.prefixes[-1].proxy_address + 1 for site in (near, far))
    destination = SocketAddress(other, _PORT)
    uplink = near.uplinks[0].peer_address
    for _ in range(_LOOK_UPS):
        peer, opener = at_near.opens(client, destination), at_far.peer_behind(uplink)
        if peer is not far or opener is not near:
            raise AssertionError("the policy knows the federation's own sites")
        if at_far.admits(near, client, destination) is not None:
            raise AssertionError("what is looked up is allowed")


def table(every: Sequence[Costs]) -> tuple[str, list[str], list[list[str]]]:
    """Return title, headings and rows."""
    return (
        "CPU time by the number of sites",
        [
            "sites",
            "file",
            "load",
            "flows",
            "made in",
            "written in",
            "one site less or more",
            "paths",
            "made in",
            "judged in",
            "connection",
            "rules ready in",
            "connection with rules",
        ],
        [
            [
                *(str(one.sites), f"{one.file_bytes / 1024:.0f} KiB", f"{one.load * 1000:.0f} ms"),
                *(str(one.flows), f"{one.make_flows * 1000:.0f} ms"),
                *(f"{one.write_flows * 1000:.0f} ms", f"{one.change_flows * 1000:.1f} ms"),
                *(str(one.paths), f"{one.make_paths * 1000:.1f} ms"),
                *(f"{one.judge_paths * 1000:.1f} ms", f"{one.connection * 1e6:.1f} µs"),
                *(f"{one.index_rules * 1000:.1f} ms", f"{one.ruled * 1e6:.1f} µs"),
            ]
            for one in every
        ],
    )
