"""Which frames of a port are the network's: the flows' answer beside NORMAL's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

import pytest

from fedsdn.config.model import ProviderNetwork
from fedsdn.pipeline.declarations import ROUTER_PORT, SERVER_PORT, SOCKSIFIER_PORT
from tests.real.site_host import BRIDGE, SiteHost, federation
from tests.unit.federations import with_provider_network

pytestmark = pytest.mark.real

VLAN = 101
MODES = ("", "access", "trunk", "native-tagged", "native-untagged", "dot1q-tunnel")
TAGS = ("", "0", "7", str(VLAN))
TRUNKS = ("", "0,7", f"7,{VLAN}")
FRAMES = {
    "untagged": "vlan_tci=0",
    "priority": "vlan_tci=0xb000",
    "of 7": "dl_vlan=7",
    "of 101": f"dl_vlan={VLAN}",
}
PACKET = (
    "tcp,dl_src=02:00:00:00:01:01,dl_dst=ff:ff:ff:ff:ff:ff,"
    "nw_src=10.1.0.11,nw_dst=10.2.0.11,tcp_src=40000,tcp_dst=80,tcp_flags=syn"
)
NEXT = "next trace"


def columns() -> Iterator[str]:
    """Every way to set a port's VLANs that differs by the modes' rules."""
    for mode, tag, trunks in product(MODES, TAGS, TRUNKS):
        words = [f"vlan_mode={mode}"] if mode else []
        words += [f"tag={tag}"] if tag else []
        words += [f"trunks={trunks}"] if trunks else []
        yield " ".join(words)
        if mode == "dot1q-tunnel":
            yield " ".join((*words, "cvlans=7"))
            yield " ".join((*words, "cvlans=0,7"))


PORTS = {f"port{number}": setting for number, setting in enumerate(columns())}


@pytest.fixture(scope="module")
def host() -> Iterator[SiteHost]:
    """A host whose bridge has a port of every kind, and a witness for NORMAL."""
    ours = SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT, "wan-up1", "wan-up2"
    own = dict.fromkeys((*ours, "witness"), "")
    with SiteHost() as one:
        ports = " -- ".join(
            f"add-port {BRIDGE} {name} {setting} -- set Interface {name} type=internal"
            for name, setting in (own | PORTS).items()
        )
        one.output(f"ovs-vsctl {ports}")
        yield one


@pytest.mark.parametrize("vlan", [0, VLAN], ids=["flat", "VLAN"])
def test_a_frame_is_of_the_network_in_which_normal_forwards_it(host: SiteHost, vlan: int) -> None:
    """NORMAL's copy at an access port of the network, without a tag, says so."""
    for name in (SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT, "witness"):
        host.output(f"ovs-vsctl set Port {name} tag={vlan}")
    host.output(f"ovs-ofctl del-flows {BRIDGE}; ovs-ofctl add-flow {BRIDGE} actions=NORMAL")
    normal = traces(host)
    network = ProviderNetwork(BRIDGE, segmentation_id=vlan or None, table_miss="normal")
    host.output(f"ovs-ofctl del-flows {BRIDGE}")
    host.give_flows(with_provider_network(federation(), network))
    taken = {about: "resume conntrack" in text for about, text in traces(host).items()}
    expected = {
        about: bool(re.search(r"^Datapath actions: .*\bwitness\b", text, re.MULTILINE))
        for about, text in normal.items()
    }
    assert {about for about, ours in taken.items() if ours is not expected[about]} == set()
    assert 20 < sum(taken.values()) < len(taken) - 20


def traces(host: SiteHost) -> dict[tuple[str, str], str]:
    """Trace every kind of frame from every kind of port: a port's columns and a frame's name."""
    asked = {
        (setting, name): f"in_port={port},{PACKET},{frame}"
        for port, setting in PORTS.items()
        for name, frame in FRAMES.items()
    }
    commands = [f"ovs-appctl ofproto/trace --names {BRIDGE} '{one}'" for one in asked.values()]
    said = host.output("sh -e", stdin=f"\necho {NEXT}\n".join(commands)).split(NEXT)
    return dict(zip(asked, said, strict=True))
