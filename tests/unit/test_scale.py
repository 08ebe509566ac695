"""What a federation of twice the sites costs: twice as much, and nothing more per connection.

Function calls are counted, not seconds: they are the same on every machine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fedsdn.bench import scale
from fedsdn.config.document import parse_document
from fedsdn.config.loader import dump_federation, parse_federation
from fedsdn.config.model import Federation
from fedsdn.config.rules import Group
from fedsdn.openflow.wanted import WantedFlows
from fedsdn.pipeline.build import pipeline_flows, site_flows
from fedsdn.proxy.admission.policy import Policy
from fedsdn.site.plan import site_plan
from fedsdn.socket_address import SocketAddress
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.status import PortState

FEW, MANY = 40, 80
LINEAR = 2.2
"""Calls for twice the sites, at most so many times as many. In pairs it would be up to 4."""

MOST_CALLS_PER_PEER = 40
"""To make the flows of a peer takes more than a thousand."""


def calls(work: Callable[[], object]) -> int:
    """Count the calls of functions, and the steps of generators."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: Any) -> None:  # noqa: ANN401 - any
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def load(federation: Federation) -> Callable[[], object]:
    text = dump_federation(federation)
    return lambda: parse_federation(parse_document(text, Path("federation.yaml")))


def load_rules(federation: Federation) -> Callable[[], object]:
    """Load as many rules as sites, and as many groups, and make them ready."""
    groups = tuple(Group(f"group-{site.name}", (site.name,)) for site in federation.sites)
    ruled = replace(federation, allow=scale.rules(federation.sites), groups=groups)
    text = dump_federation(ruled)
    return lambda: parse_federation(parse_document(text, Path("federation.yaml"))).prepare()


def flows(federation: Federation) -> Callable[[], object]:
    return lambda: pipeline_flows(federation, "site-0")


def set_up(federation: Federation) -> Callable[[], object]:
    site = federation.site("site-0")
    return lambda: site_plan(federation, site)


def lost_uplinks(federation: Federation) -> Callable[[], object]:
    """Judge all paths when one of two uplinks is down: each path looks for another one."""
    paths = Paths(federation, "site-0", 1, 0.0)
    down = {"isp": PortState.UP, "lte": PortState.DOWN}

    def lose() -> None:
        paths.set_ports(down, 1.0)
        paths.judge(2.0)
        paths.judge(3.0)
        paths.orders()

    return lose


def one_site_less(federation: Federation) -> Callable[[], object]:
    """Follow a file without the last site: make, write and compare flows."""
    less = replace(federation, sites=federation.sites[:-1])
    before = site_flows(federation, "site-0")
    ports = {port: 1 for flow in pipeline_flows(federation, "site-0") for port in flow.ports}
    wanted = WantedFlows()
    asyncio.run(wanted.take(before.groups, ports))
    return lambda: asyncio.run(wanted.take(site_flows(less, "site-0", (), before).groups, ports))


def test_a_site_that_leaves_costs_what_it_had() -> None:
    """Of the others nothing is made, and nothing but their names is looked at."""
    few, many = (one_site_less(scale.federation(count)) for count in (FEW, MANY))
    assert calls(many) - calls(few) < MOST_CALLS_PER_PEER * (MANY - FEW)


@pytest.mark.parametrize("work", [load, load_rules, flows, set_up, lost_uplinks])
def test_costs_grow_no_faster_than_sites(
    work: Callable[[Federation], Callable[[], object]],
) -> None:
    work(scale.federation(2))()  # whatever is done once only; apart, as work may change its paths
    few, many = work(scale.federation(FEW)), work(scale.federation(MANY))
    assert calls(many) < LINEAR * calls(few)


def connections(federation: Federation) -> Callable[[], object]:
    near, far = federation.sites[0], federation.sites[-1]
    outbound, inbound = Policy.at(federation, near.name), Policy.at(federation, far.name)
    client, other = (site.prefixes[-1].proxy_address + 1 for site in (near, far))
    destination = SocketAddress(other, 443)

    def carry() -> None:
        assert outbound.opens(client, destination) is far
        for uplink in near.uplinks:
            assert inbound.peer_behind(uplink.peer_address) is near
        assert inbound.admits(near, client, destination) is None
        assert inbound.own_address(other) == other - 1
        assert inbound.source_restore(near) == "transparent"

    return carry


def test_a_connections_cost_does_not_depend_on_the_number_of_sites() -> None:
    few, many = connections(scale.federation(FEW)), connections(scale.federation(MANY))
    few(), many()  # they make the indexes
    assert calls(many) == calls(few)


def test_a_connections_cost_does_not_depend_on_the_number_of_rules() -> None:
    few, many = (
        connections(replace(federation, allow=scale.rules(federation.sites)))
        for federation in map(scale.federation, (FEW, MANY))
    )
    few(), many()  # they make the indexes
    assert calls(many) == calls(few)


@pytest.mark.parametrize("sites", [2, 3, 50])
@pytest.mark.parametrize("prefixes", [2, 10, 32])
def test_the_benchmarks_federations_are_good(sites: int, prefixes: int) -> None:
    made = scale.federation(sites, prefixes)
    assert {len(site.prefixes) for site in made.sites} == {prefixes}
    assert load(made)() == made
