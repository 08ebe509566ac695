"""What conntrack and WireGuard say of datagrams, read, joined with the plan, and shown."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from ipaddress import ip_address

import pytest

from fedsdn.cli.datagrams import lines
from fedsdn.config.model import PairEncryption
from fedsdn.inspect.datagrams import FlowView, by_rate, document, tunnel_paths, views
from fedsdn.pipeline.declarations import (
    ct_received_mark,
    ct_sent_mark,
    ct_tunnel_received,
    ct_tunnel_sent,
)
from fedsdn.tunnels.plan import TunnelKind, tunnels
from fedsdn.tunnels.tracked import Sent, parse_tracked
from fedsdn.tunnels.wireguard import PeerState, parse_peers
from fedsdn.uplinks.path import PathName
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.tunnels import TunnelView, judged
from fedsdn.verify.tunnels import views as tunnel_views
from tests.unit.federations import three_sites, two_sites

FEDERATION = two_sites()
SITE = FEDERATION.site("a")
UP1, UP2 = PathName("up1", "b", "up1"), PathName("up2", "b", "up2")
PATHS = tunnel_paths(tunnels(FEDERATION, SITE))
SLOTS = {path: slot for (slot, _), path in PATHS.items()}
MARK = ct_sent_mark(SLOTS[UP1]) | ct_received_mark(SLOTS[UP2]) | 1 << 14

# As conntrack 1.4.7 prints them with 'extended,timestamp'.
UDP = (
    "ipv4     2 udp      17 26 src=10.1.0.11 dst=10.2.0.11 sport=12149 dport=53 packets=1 bytes=60 "
    "src=10.2.0.11 dst=10.1.0.11 sport=53 dport=12149 packets=1 bytes=90 [ASSURED] "
    f"mark={MARK} delta-time=70 use=1"
)
SILENT = (
    "ipv6     10 udp      17 26 src=fd00:2::11 dst=fd00:1::11 sport=5060 dport=5060 packets=3 "
    "bytes=300 [UNREPLIED] src=fd00:1::11 dst=fd00:2::11 sport=5060 dport=5060 packets=0 bytes=0 "
    "mark=0 delta-time=3 use=1"
)
PING = (
    "ipv4     2 icmp     1 25 src=10.1.0.11 dst=10.2.0.11 type=8 code=0 id=25011 packets=2 "
    "bytes=168 src=10.2.0.11 dst=10.1.0.11 type=0 code=0 id=25011 packets=2 bytes=168 mark=16 use=1"
)
ESP = (
    "ipv4     2 unknown  50 596 src=10.1.0.11 dst=10.2.0.11 packets=1 bytes=64 [UNREPLIED] "
    "src=10.2.0.11 dst=10.1.0.11 packets=0 bytes=0 mark=16 delta-time=3 use=1 id=29282"
)
GRE = (
    "ipv4     2 gre      47 26 timeout=30, stream_timeout=180 src=10.1.0.11 dst=10.2.0.11 "
    "srckey=0x0 dstkey=0x0 packets=1 bytes=64 [UNREPLIED] src=10.2.0.11 dst=10.1.0.11 srckey=0x0 "
    "dstkey=0x0 packets=0 bytes=0 mark=16 delta-time=3 use=1"
)
TCP = (
    "ipv4     2 tcp      6 431999 ESTABLISHED src=10.1.0.11 dst=10.2.0.11 sport=1 dport=2 "
    "packets=3 bytes=300 src=10.2.0.11 dst=10.1.0.11 sport=2 dport=1 packets=3 bytes=300 mark=0"
)


def seen(*dump: str) -> list[FlowView]:
    return list(views(parse_tracked(dump), FEDERATION, SITE, PATHS))


def test_a_flow_has_ends_path_bytes_and_age() -> None:
    [flow] = seen(UDP)
    assert (flow.direction, flow.protocol, flow.peer) == ("outbound", "udp", "b")
    assert (flow.source, flow.source_port) == (ip_address("10.1.0.11"), 12149)
    assert (flow.destination, flow.destination_port) == (ip_address("10.2.0.11"), 53)
    assert (flow.sent_by, flow.received_by) == (UP1, UP2)
    assert (flow.sent, flow.received, flow.age) == (60, 90, 70.0)
    assert flow.answered


def test_what_a_peers_vm_began_is_inbound_and_its_bytes_are_received() -> None:
    [flow] = seen(SILENT)
    assert flow.direction == "inbound"
    assert (flow.sent, flow.received, flow.packets_received) == (0, 300, 3)
    assert (flow.sent_by, flow.received_by) == (None, None)
    assert not flow.answered


def test_protocols_without_ports_are_read_too() -> None:
    ping, esp, gre = parse_tracked([PING, ESP, GRE])
    assert (ping.name, ping.identifier, ping.source_port, ping.age) == ("icmp", 25011, None, None)
    assert (esp.name, esp.protocol, esp.identifier) == ("esp", 50, None)
    assert (gre.name, gre.there, gre.back) == ("gre", Sent(1, 64), Sent(0, 0))


@pytest.mark.parametrize("line", [TCP, "", "conntrack v1.4.7: 3 flow entries", UDP[:40], UDP[60:]])
def test_tcp_and_what_is_no_flow_are_left_out(line: str) -> None:
    assert parse_tracked([line]) == []


@pytest.mark.parametrize(
    ("source", "destination"),
    [("192.0.2.1", "192.0.2.2"), ("10.1.0.11", "10.1.0.12"), ("10.1.0.11", "203.0.113.1")],
)
def test_what_is_not_between_this_site_and_another_is_left_out(
    source: str, destination: str
) -> None:
    assert seen(UDP.replace("10.1.0.11", source).replace("10.2.0.11", destination)) == []


def test_the_table_counts_flows_and_names_paths() -> None:
    count, headings, *rows = lines(seen(UDP, SILENT, PING))
    assert count == "3 flows, 1 without an answer"
    assert headings.split()[-3:] == ["sent", "received", "age"]
    assert [" ".join(row.split()) for row in rows] == [
        "outbound icmp id 25011 10.1.0.11 10.2.0.11 b none yet 168 B 168 B",
        "inbound udp [fd00:2::11]:5060 [fd00:1::11]:5060 b none yet 0 B 300 B 3 s",
        "outbound udp 10.1.0.11:12149 10.2.0.11:53 b up1 to b/up1, back b/up2 to up2 "
        "60 B 90 B 1 min",
    ]
    assert lines([]) == ["0 flows"]


def test_the_document_is_what_json_holds() -> None:
    [flow] = seen(UDP)
    found = document(flow)
    assert found["source"] == "10.1.0.11"
    assert found["sent_by"] == {"uplink": "up1", "peer": "b", "peer_uplink": "up1"}
    assert found["answered"] is True


def test_the_fastest_comes_first() -> None:
    before = seen(UDP, SILENT)
    now = seen(UDP.replace("bytes=60", "bytes=10060"), SILENT)
    assert [(rate, view.protocol, view.sent) for rate, view in by_rate(now, before, 2.0)] == [
        (5000.0, "udp", 10060),
        (0.0, "udp", 0),
    ]


@pytest.mark.parametrize("slot", [0, 1, 63])
def test_a_mark_says_which_tunnels(slot: int) -> None:
    assert ct_tunnel_sent(ct_sent_mark(slot)) == ct_tunnel_received(ct_received_mark(slot)) == slot
    assert ct_tunnel_sent(ct_received_mark(slot)) is None
    assert ct_tunnel_received(ct_sent_mark(slot)) is None


def test_wireguard_is_read_without_its_private_keys() -> None:
    handshakes = ["t1-up1\tKEY=\t1700000000", "t1-up2\tKEY=\t0", "t1-up1\tGONE=\t0"]
    transfers = ["t1-up1\tKEY=\t300\t2000", "t1-up2\tKEY=\t0\t148", "t1-up2\tNEW=\t0\t0"]
    assert parse_peers(handshakes, transfers) == [
        PeerState("t1-up1", "KEY=", 1_700_000_000, sent=2000, received=300),
        PeerState("t1-up2", "KEY=", None, sent=148, received=0),
    ]


def key_of(site: str) -> str:
    [identity] = FEDERATION.site(site).identities
    return b64encode(identity.tunnel_key).decode()


FIXES = ("fedsdn site up", "osken-manager fedsdn.app")
COUNTERS = {tunnel.name: (20, 10) for tunnel in tunnels(FEDERATION, SITE)}


def state(interface: str, handshake: float | None, sent: int = 0) -> PeerState:
    return PeerState(interface, key_of("b"), handshake, sent, 0)


def tunnels_of_a(*states: PeerState) -> list[TunnelView]:
    return list(tunnel_views(tunnels(FEDERATION, SITE), FEDERATION, states, COUNTERS))


def test_each_path_has_its_tunnels_bytes_and_handshake() -> None:
    first, second = tunnels_of_a(state("t1-up1", 900.0, 2000), state("t2-up2", None))
    assert (first.path, first.there, first.handshake, first.sent) == (UP1, True, 900.0, 2000)
    assert (second.path, second.handshake) == (UP2, None)


def test_a_peer_that_goes_over_to_another_identity_is_one_peer() -> None:
    b, c = (three_sites().site(name) for name in "bc")
    both = replace(b, identities=(*c.identities, *b.identities))
    federation = replace(FEDERATION, sites=(SITE, both))
    new = b64encode(c.identities[0].tunnel_key).decode()
    states = [
        state("t1-up1", 900.0, 100),
        PeerState("t1-up1", new, 990.0, 10, 7),
        state("t2-up2", 1.0),
    ]
    first, second = tunnel_views(tunnels(federation, SITE), federation, states, COUNTERS)
    assert (first.handshake, first.sent, first.received) == (990.0, 110, 7)
    assert second.handshake == 1.0


def test_a_pair_without_encryption_has_its_interfaces_bytes() -> None:
    federation = replace(FEDERATION, pairs=(PairEncryption(("a", "b"), "none"),))
    planned = tunnels(federation, SITE)
    found = list(tunnel_views(planned, federation, [], {planned[0].name: (20, 10)}))
    assert {view.kind for view in found} == {TunnelKind.VXLAN}
    assert (found[0].there, found[0].sent, found[0].received) == (True, 20, 10)
    assert not found[1].there
    with pytest.raises(CheckFailedError, match="up2 to b/up2: no interface v-") as raised:
        judged(found, {}, 1000.0, FIXES)
    assert raised.value.fix == "fedsdn site up"
    assert judged(found[:1], {}, 1000.0, FIXES) == "1; not encrypted: with b"


def test_tunnels_that_are_well() -> None:
    found = tunnels_of_a(state("t1-up1", 900.0, 2000), state("t2-up2", None, 148))
    assert judged(found, {UP1: 0.0, UP2: 0.0}, 1000.0, FIXES) == (
        "1 of 2 with a session, the latest handshake 1 min ago"
    )
    assert judged([], {}, 1000.0, FIXES) == "none: no peer takes anything but TCP"


def test_a_missing_peer_is_said_with_what_sets_it() -> None:
    with pytest.raises(CheckFailedError, match="up2 to b/up2: t2-up2 does not have") as raised:
        judged(tunnels_of_a(state("t1-up1", None)), {}, 1000.0, FIXES)
    assert raised.value.fix == "osken-manager fedsdn.app"


def test_a_live_path_whose_tunnel_nobody_answers_is_said() -> None:
    found = tunnels_of_a(state("t1-up1", None, 600), state("t2-up2", None, 600))
    with pytest.raises(CheckFailedError, match="up1 to b/up1: probes are answered") as raised:
        judged(found, {UP1: 0.0}, 1000.0, FIXES)
    assert "let UDP to and from port 51820 pass" in raised.value.fix
    assert judged(found, {}, 1000.0, FIXES) == "0 of 2 with a session", (
        "dead paths are others' to say"
    )


SESSIONS = "1 of 2 with a session, the latest handshake 10 s ago"


@pytest.mark.parametrize(("lives_since", "well"), [(0.0, False), (950.0, True)])
def test_a_session_that_has_ended_is_said_unless_its_path_has_just_come_back(
    lives_since: float, well: bool
) -> None:
    found = tunnels_of_a(state("t1-up1", 700.0, 600), state("t2-up2", 990.0, 600))
    live = {UP1: lives_since, UP2: 0.0}
    if well:
        assert judged(found, live, 1000.0, FIXES) == SESSIONS
        return
    with pytest.raises(CheckFailedError, match="up1 to b/up1: probes are answered"):
        judged(found, live, 1000.0, FIXES)
