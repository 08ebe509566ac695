"""Whose a frame is: by its tag, and by the VLANs of the port that it comes in by."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from fedsdn.config.model import ProviderNetwork, Site
from fedsdn.openflow.messages import match_fields
from fedsdn.ovs.database import Bridge, Interface, Port
from fedsdn.ovs.local_vlans import ambiguity
from fedsdn.ovs.wanted import flows_among, tenant_ports
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import (
    LOCAL_PORT,
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    HookPriority,
    Table,
)
from fedsdn.pipeline.flows import Flow, Match, Output, icmp, tcp
from fedsdn.pipeline.network import HANDED_BACK, TenantPort
from tests.unit.federations import two_sites, with_provider_network, with_source_restore
from tests.unit.table_model import NORMAL, Delivery, Packet, TableModel

VLAN = 101
FLAT = ProviderNetwork("br-provider", table_miss="normal")
TAGGED = replace(FLAT, segmentation_id=VLAN)


def port(
    name: str,
    tag: int | None = None,
    mode: str | None = None,
    trunks: tuple[int, ...] = (),
    cvlans: tuple[int, ...] = (),
) -> Port:
    return Port(name, (Interface(name, 1, 1500, "up", None),), tag, trunks, cvlans, mode, {})


def site(network: ProviderNetwork) -> Site:
    return with_provider_network(two_sites(), network).site("a")


def bridge(name: str, *ports: Port) -> Bridge:
    return Bridge(name, "netdev", (), {}, {one.name: one for one in ports})


def numbered(name: str, ofport: int) -> Port:
    return replace(port(name), interfaces=(Interface(name, ofport, 1500, "up", None),))


def found(network: ProviderNetwork, *ports: Port, proxy_tag: int | None = -1) -> list[TenantPort]:
    """Return the tenants' ports of a bridge with the site's own ports, and these."""
    tag = (network.segmentation_id or 0) if proxy_tag == -1 else proxy_tag
    own = [port(SOCKSIFIER_PORT, tag), port(SERVER_PORT, tag), port(ROUTER_PORT, tag)]
    own += [port(name, mode="trunk", trunks=(4095,)) for name in ("up1", "up2", "wan-up1")]
    every = (*own, *ports)
    return list(tenant_ports(site(network), {"br-provider": bridge("br-provider", *every)}))


def test_before_an_upgrades_site_up_tcp_needs_no_router() -> None:
    own = [port(name, tag=0) for name in (SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT)]
    for there, served in ((own, True), (own[:2], True), (own[1:], False)):
        bridges = {"br-provider": bridge("br-provider", *there, port("vm", tag=0))}
        names = [one.name for one in tenant_ports(site(FLAT), bridges)]
        assert names == (["vm"] if served else [])
        flows = flows_among(bridges, with_provider_network(two_sites(), FLAT), "a", None).groups[""]
        [routed] = [flow for flow in flows if flow.table is Table.ROUTED]
        assert (routed.actions == HANDED_BACK) is (len(there) == 2 and served)


NATIVE = ("native-tagged", "native-untagged")
KINDS = [
    # A port's columns, and which of its frames are of the flat network, and of the VLAN:
    # (untagged, tagged with its tag).
    (port("p"), (True, False), (False, True)),
    (port("p", mode="trunk"), (True, False), (False, True)),
    (port("p", mode="trunk", tag=VLAN), (True, False), (False, True)),
    (port("p", trunks=(7, VLAN)), (False, False), (False, True)),
    (port("p", trunks=(0, 7)), (True, False), (False, False)),
    (port("p", tag=VLAN), (False, False), (True, False)),
    (port("p", tag=VLAN, mode="access", trunks=(0, 7)), (False, False), (True, False)),
    (port("p", tag=7), (False, False), (False, False)),
    (port("p", tag=7, trunks=(VLAN,)), (False, False), (False, False)),
    (port("p", tag=0), (True, False), (False, False)),
    (port("p", mode="access"), (True, False), (False, False)),
    *((port("p", VLAN, mode), (False, False), (True, True)) for mode in NATIVE),
    *((port("p", VLAN, mode, (7,)), (False, False), (True, True)) for mode in NATIVE),
    *((port("p", 7, mode), (False, False), (False, True)) for mode in NATIVE),
    *((port("p", 7, mode, (7, 8)), (False, False), (False, False)) for mode in NATIVE),
    *((port("p", None, mode, (VLAN,)), (True, False), (False, True)) for mode in NATIVE),
    (port("p", VLAN, "dot1q-tunnel"), (False, False), (True, False)),
    (port("p", VLAN, "dot1q-tunnel", cvlans=(7, VLAN)), (False, False), (False, False)),
    (port("p", 7, "dot1q-tunnel"), (False, False), (False, False)),
]


@pytest.mark.parametrize(("kind", "flat", "vlan"), KINDS, ids=lambda value: str(value)[:80])
def test_every_kind_of_port(kind: Port, flat: tuple[bool, bool], vlan: tuple[bool, bool]) -> None:
    for network, expected in ((FLAT, flat), (TAGGED, vlan)):
        ports = [TenantPort("p", *expected)] if any(expected) else []
        assert found(network, kind) == ports


def test_the_bridges_own_port_is_local() -> None:
    assert found(TAGGED, port("br-provider", tag=VLAN)) == [
        TenantPort(LOCAL_PORT, untagged=True, tagged=False)
    ]


def test_every_interface_of_a_bond_is_a_port_if_it_could_be_opened() -> None:
    numbers = {"e1": 7, "e2": 8, "gone": -1, "new": None}
    members = tuple(Interface(name, n, None, None, None) for name, n in numbers.items())
    bond = replace(port("bond"), interfaces=members)
    assert [one.name for one in found(FLAT, bond)] == ["e1", "e2"]


def test_a_port_has_the_name_that_openflow_tells_if_it_is_the_only_one() -> None:
    long = [port("patch-to-br-int"), port("patch-to-br-inside"), port("patch-to-the-others")]
    assert [one.name for one in found(FLAT, *long[1:])] == ["patch-to-br-ins", "patch-to-the-ot"]


def test_of_ports_that_openflow_tells_by_one_name_each_has_its_number() -> None:
    """OVN's patch ports of two networks, when their identifiers begin with the same digit."""
    twins = [
        numbered("patch-provnet-5b1f8a36-to-br-int", 7),
        numbered("patch-provnet-5c20d9e1-to-br-int", 8),
        numbered("patch-provnet-6", 9),
    ]
    ports = found(FLAT, *twins)
    assert [one.name for one in ports] == [7, 8, "patch-provnet-6"]
    flows = pipeline_flows(two_sites(), "a", ports)
    texts = [str(flow) for flow in flows if flow.match.in_port == 8]
    assert ["in_port=8," in text for text in texts] == [True]
    assert "8" not in {port for flow in flows for port in flow.ports}, "nobody waits for a name"
    assert [*match_fields(Match(in_port=8), {})] == [("in_port", 8)]


@pytest.mark.parametrize("network", [FLAT, TAGGED], ids=["flat", "VLAN"])
def test_nobody_is_served_while_the_proxys_ports_are_in_another_network(
    network: ProviderNetwork,
) -> None:
    everybody = port("p", network.segmentation_id or 0)
    assert found(network, everybody, proxy_tag=7) == []
    assert found(network, everybody) != []
    assert tenant_ports(site(network), {"br-provider": bridge("br-provider", everybody)}) == ()
    assert tenant_ports(site(network), {}) == ()


ENDS = [("10.1.0.11", "10.2.0.11"), ("fd00:1::11", "fd00:2::11")]


def packet(ends: tuple[str, str], in_port: str, tag: int | None) -> Packet:
    near, far = map(ip_address, ends)
    return Packet(
        in_port=in_port,
        protocol=tcp(near),
        source=near,
        destination=far,
        source_port=40000,
        destination_port=80,
        syn=True,
        ack=False,
        tag=tag,
    )


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize(
    ("network", "ours", "others"),
    [
        (
            FLAT,
            [("trunk", None), ("trunk", 0), ("untagged", None), ("untagged", 0)],
            [("trunk", VLAN), ("trunk", 7), ("untagged", 7), ("in7", None), ("in7", 0)],
        ),
        (
            TAGGED,
            [("trunk", VLAN), ("in101", None), ("in101", 0), ("native", VLAN), ("native", None)],
            [
                *(("trunk", None), ("trunk", 0), ("trunk", 7), ("untagged", None)),
                *(("untagged", VLAN), ("in7", None), ("in7", VLAN), ("in101", VLAN)),
                *(("in101", 7), ("native", 7), ("not101", VLAN)),
            ],
        ),
    ],
    ids=["flat", "VLAN"],
)
def test_other_networks_stay_normal_and_share_no_state(
    ends: tuple[str, str],
    network: ProviderNetwork,
    ours: list[tuple[str, int | None]],
    others: list[tuple[str, int | None]],
) -> None:
    """Whatever comes from a federated VM, the same from another network is left as it is."""
    federation = with_provider_network(two_sites(), network)
    ports = found(
        network,
        port("trunk"),
        port("not101", trunks=(7,)),
        port("untagged", 0),
        port("in7", 7),
        port("in101", VLAN),
        port("native", VLAN, "native-untagged"),
    )
    model = TableModel(pipeline_flows(federation, "a", ports))
    opening = {place: packet(ends, *place) for place in (*ours, *others)}
    for place in others:
        assert model.push(opening[place]) == [Delivery(NORMAL, opening[place])]
    assert model.connections == {}
    answer = packet((ends[1], ends[0]), SOCKSIFIER_PORT, None)
    answer = replace(answer, source_port=80, destination_port=40000, ack=True)
    protocol = icmp(ip_address(ends[0]))
    for place in ours:
        [taken] = model.push(opening[place])
        assert (taken.port, taken.packet.tag) == (SOCKSIFIER_PORT, None)
        model.push(answer)
        known = dict(model.connections)
        for other in others:
            error = replace(opening[other], protocol=protocol, error_about=answer.connection)
            rest = [
                replace(opening[other], syn=syn, ack=ack, rst=not syn)
                for syn, ack in ((True, False), (True, True), (False, True))
            ]
            for one in (*rest, error):
                assert model.push(one) == [Delivery(NORMAL, one)]
        assert model.connections == known


def test_where_sources_are_not_restored_the_proxys_address_is_the_networks_too() -> None:
    federation = with_source_restore(with_provider_network(two_sites(), TAGGED), "none")
    ports = found(TAGGED, port("in7", 7), port("in101", VLAN))
    model = TableModel(pipeline_flows(federation, "a", ports))
    for near, own in (("10.1.0.11", "10.1.0.2"), ("fd00:1::11", "fd00:1::2")):
        for name, to in (("in7", [NORMAL]), ("in101", [SOCKSIFIER_PORT])):
            sent = model.push(packet((near, own), name, None))
            assert [delivery.port for delivery in sent] == to


def test_flows_are_as_many_as_ports() -> None:
    for network in (FLAT, TAGGED):
        federation = with_provider_network(two_sites(), network)
        few, many = (
            len(
                pipeline_flows(
                    federation,
                    "a",
                    found(
                        network,
                        *(
                            port(f"p{number}", network.segmentation_id or 0)
                            for number in range(count)
                        ),
                    ),
                )
            )
            for count in (1, 101)
        )
        assert many - few == 100


def test_the_network_is_decided_in_one_table_alone() -> None:
    """Every way from the hook to the tenants' tables leads through it, and none comes twice."""
    for how in ("transparent", "nat", "none"):
        federation = with_source_restore(two_sites(), how)
        flows = pipeline_flows(federation, "a", found(FLAT, port("p")))
        to_tenants = {flow.table for flow in flows if "resubmit(,110)" in str(flow)}
        assert to_tenants == {Table.NETWORK}
        assert {flow.table for flow in flows if "resubmit(,107)" in str(flow)} == {Table.REMOTE}
        hooks = [flow for flow in flows if "resubmit(,106)" in str(flow)]
        assert hooks
        assert all(flow.match.handed_back is False for flow in hooks)


def test_no_flow_of_ours_in_table_0_can_be_another_owners() -> None:
    """Or adding ours would replace his."""
    for how in ("transparent", "nat", "none"):
        flows = pipeline_flows(with_source_restore(two_sites(), how), "a", found(FLAT, port("p")))
        hooks = [flow for flow in flows if flow.table is Table.HOOK]
        assert any(flow.priority == HookPriority.MISS for flow in hooks)
        assert [flow for flow in hooks if flow.match.handed_back is None] == []


# Behind Neutron's integration bridge

PATCH = "phy-br-provider"
LOCAL_FLAT, LOCAL_VLAN, LOCAL_OTHER = 1, 2, 3


def patch(name: str, peer: str, **columns: Any) -> Port:  # noqa: ANN401 -- a port's
    end = Interface(name, 1, None, "up", None, peer)
    return replace(port(name, **columns), interfaces=(end,))


def bound(tag: int, kind: str, segment: int | None, physical: str = "physnet1") -> Port:
    """Return a port of br-int as Neutron's agent binds it."""
    said = {"net_uuid": f"of {tag}", "network_type": kind, "physical_network": physical}
    said |= {"tag": str(tag)} | ({} if segment is None else {"segmentation_id": str(segment)})
    return replace(port(f"tap{tag}{physical}", tag), other_config=said)


BOUND = (
    bound(LOCAL_FLAT, "flat", None),
    bound(LOCAL_VLAN, "vlan", VLAN),
    bound(LOCAL_OTHER, "vlan", 7),
    bound(9, "vxlan", VLAN, "None"),
)


def bridges(network: ProviderNetwork, *on_br_int: Port, **columns: Any) -> dict[str, Bridge]:  # noqa: ANN401
    """Return a provider bridge, and a br-int with these ports behind its patch port."""
    tag = network.segmentation_id or 0
    own = (port(SOCKSIFIER_PORT, tag), port(SERVER_PORT, tag), port(ROUTER_PORT, tag))
    there = bridge("br-int", *on_br_int, patch("int-br-provider", PATCH))
    here = bridge("br-provider", *own, patch(PATCH, "int-br-provider", **columns))
    return {"br-int": there, "br-provider": here}


NETWORKS = [(FLAT, LOCAL_FLAT), (TAGGED, LOCAL_VLAN)]


@pytest.mark.parametrize(("network", "local"), NETWORKS, ids=["flat", "VLAN"])
def test_a_patch_port_to_neutrons_bridge_has_the_local_vlan(
    network: ProviderNetwork, local: int
) -> None:
    behind = TenantPort(PATCH, untagged=False, tagged=False, local=local)
    assert tenant_ports(site(network), bridges(network, *BOUND)) == (behind,)
    assert ambiguity(site(network), bridges(network, *BOUND)) is None
    others = tuple(one for one in BOUND if one.tag != local)
    assert tenant_ports(site(network), bridges(network, *others)) == (), "no VM of it here"
    carrying_neither = bridges(network, *BOUND, trunks=(8,))
    assert tenant_ports(site(network), carrying_neither) == (), "NORMAL would drop it"
    real = TenantPort(PATCH, untagged=network is FLAT, tagged=network is TAGGED)
    assert tenant_ports(site(network), bridges(network, port("vm", 5))) == (real,), "no agent's"


@pytest.mark.parametrize(("network", "local"), NETWORKS, ids=["flat", "VLAN"])
def test_a_port_that_the_agent_has_not_bound_says_nothing(
    network: ProviderNetwork, local: int
) -> None:
    dead = [replace(one, tag=tag) for one in BOUND if one.tag == local for tag in (None, 4095)]
    for one in dead:
        assert tenant_ports(site(network), bridges(network, one)) == ()


@pytest.mark.parametrize(("network", "local"), NETWORKS, ids=["flat", "VLAN"])
def test_of_two_networks_of_one_number_neither_is_served(
    network: ProviderNetwork, local: int
) -> None:
    second = bound(8, "flat" if network is FLAT else "vlan", network.segmentation_id, "physnet2")
    both = bridges(network, *BOUND, second)
    assert tenant_ports(site(network), both) == ()
    assert ambiguity(site(network), both) == (
        f"the provider network may be local VLAN {local} (physnet1) and 8 (physnet2) of br-int: "
        f"VMs behind port {PATCH} are not served",
        "let it differ by type or segmentation id from this host's other networks",
    )


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize(("network", "local"), NETWORKS, ids=["flat", "VLAN"])
def test_a_local_vlan_is_translated_where_a_frame_is_delivered_and_not_before(
    ends: tuple[str, str], network: ProviderNetwork, local: int
) -> None:
    federation = with_provider_network(two_sites(), network)
    ports = tenant_ports(site(network), bridges(network, *BOUND))
    model = TableModel(pipeline_flows(federation, "a", ports))
    [taken] = model.push(packet(ends, PATCH, local))
    assert (taken.port, taken.packet.tag) == (SOCKSIFIER_PORT, None)
    assert model.learned_tags == {network.segmentation_id}, "what NORMAL sends back has this one"
    unfederated = packet(("172.16.0.1" if "." in ends[0] else "fd99::1", ends[1]), PATCH, local)
    assert model.push(unfederated) == [Delivery(NORMAL, unfederated)], "the owner's to translate"
    model.learned_tags.clear()
    ping = replace(packet(ends, PATCH, local), protocol=icmp(ip_address(ends[0])), icmp_type=8)
    [routed] = model.push(ping)
    assert (routed.port, routed.packet.tag) == (ROUTER_PORT, None)
    assert model.learned_tags == {network.segmentation_id}
    for tag in {None, 0, VLAN, *(LOCAL_FLAT, LOCAL_VLAN, LOCAL_OTHER)} - {local}:
        other = packet(ends, PATCH, tag)
        assert model.push(other) == [Delivery(NORMAL, other)]


@pytest.mark.parametrize("network", [FLAT, TAGGED], ids=["flat", "VLAN"])
def test_what_is_not_ours_is_the_other_owners(network: ProviderNetwork) -> None:
    """His flow in table 0 is found, though a flow of ours stands above it."""
    federation = with_provider_network(two_sites(), network)
    ours = pipeline_flows(federation, "a", found(network, port("p", network.segmentation_id or 0)))
    theirs = Flow(Table.HOOK, 4, Match(in_port="q"), (Output("theirs"),), 0x1234, "another's")
    model = TableModel((*ours, theirs))
    for ends in ENDS:
        [sent] = model.push(packet(ends, "q", 5))
        assert (sent.port, sent.packet.tag) == ("theirs", 5)
        assert [one.port for one in model.push(packet(ends, "p", None))] == [SOCKSIFIER_PORT]
    assert len(model.connections) == len(ENDS)
