"""fedsdn site up, down and show on a host of its own, seen by iproute2, nft and Open vSwitch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from fedsdn.config.model import Federation, Prefix, Uplink
from fedsdn.pipeline.build import pipeline_flows
from tests.real.site_host import BRIDGE, SiteHost, federation, wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        yield host


@pytest.fixture(scope="module")
def idle_host() -> Iterator[tuple[SiteHost, dict[str, Any]]]:
    """A host that every test leaves as it found it, and what there is on it."""
    with SiteHost() as host:
        yield host, host.traces()


@pytest.fixture(scope="module")
def running_host() -> Iterator[tuple[SiteHost, dict[str, Any]]]:
    """A host that is set up, and left so by every test, and what there is on it."""
    with SiteHost() as host:
        host.up()
        yield host, host.traces()


def change_site(federation: Federation, **changes: object) -> Federation:
    site, peer = federation.sites
    return replace(federation, sites=(replace(site, **changes), peer))  # type: ignore[arg-type]


def test_up_makes_what_iproute2_and_ovs_show(host: SiteHost) -> None:
    host.up()

    links = {link["ifname"]: link for link in host.json("ip -n fedsdn -json -details link")}
    proxy = {"lo", "held", "socksifier", "server", "router"}
    assert set(links) == proxy | {"wan-up1", "wan-up2", "t1-up1", "t2-up2"}
    assert all("UP" in link["flags"] for link in links.values())
    address = "ip -n fedsdn -json address show dev"
    (wan,) = host.json(f"{address} wan-up1")
    assert {a["local"] for a in wan["addr_info"] if a["scope"] == "global"} == {"192.0.2.1"}
    mac = bytes.fromhex(links["wan-up2"]["address"].replace(":", ""))
    (wan,) = host.json(f"{address} wan-up2")
    (own,) = [ip_address(a["local"]) for a in wan["addr_info"] if a["scope"] == "link"]
    assert own.packed[-8:] == bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    endpoints = {e["address"]: e for e in host.json("ip -n fedsdn -json mptcp endpoint")}
    assert set(endpoints) == {"192.0.2.1", "2001:db8:1::1"}
    assert all(e["subflow"] and "signal" not in e for e in endpoints.values())
    assert host.output(f"ovs-vsctl get-controller {BRIDGE}") == ""
    ports = host.output(f"ovs-vsctl list-ports {BRIDGE}").split()
    assert {"socksifier", "server", "router", "wan-up1", "wan-up2"} <= set(ports)
    assert host.differences() == []
    assert host.site("show").returncode == 0


def test_routing_in_the_namespace(host: SiteHost) -> None:
    host.up()

    def get(query: str) -> str:
        return host.output(f"ip -n fedsdn route get {query}")

    assert "dev wan-up1 src 192.0.2.1" in get("192.0.2.2")
    assert "via 2001:db8:1::ff dev wan-up2" in get("2001:db8:2::1 from 2001:db8:1::1")
    assert "dev wan-up2" in get("2001:db8:2::1")
    assert "dev socksifier" in get("10.1.0.11 mark 2")
    assert "dev server" in get("10.1.0.11 mark 3")
    assert "dev server" in get("fd00:1::11 mark 3")
    assert "local" in get("10.2.0.11 from 10.1.0.11 iif socksifier mark 1")
    for errors in ("10.2.0.11 mark 3", "fd00:2::1 mark 2"):
        assert get(errors).startswith("local")
    for unreachable in ("192.0.3.1 from 192.0.2.1", "10.9.0.11 mark 3", "fd00:9::1 mark 2"):
        assert host.run(f"ip -n fedsdn route get {unreachable}").returncode != 0


def test_down_leaves_the_host_as_it_was(host: SiteHost) -> None:
    before = host.traces()
    host.up()
    ours = pipeline_flows(federation(), "a")[-1]
    host.output(f"ovs-ofctl -O OpenFlow13 add-flow {BRIDGE} '{ours}'")
    assert host.traces() != before
    assert host.down() == "site taken down\n"
    assert host.traces() == before


def test_down_on_nothing_says_so(host: SiteHost) -> None:
    before = host.traces()
    assert host.down() == "nothing to do\n"
    assert host.traces() == before


def test_down_needs_no_federation_file(host: SiteHost) -> None:
    before = host.traces()
    host.up()
    file = host.run_directory / "federation.yaml"
    good = file.read_text()
    file.write_text("nonsense: [")
    host.down()
    file.write_text(good)
    assert host.traces() == before


def test_a_second_up_changes_nothing(host: SiteHost) -> None:
    host.up()
    outer, inner = host.traces(), host.inner()
    assert host.up() == "site a: nothing to do\n"
    assert (host.traces(), host.inner()) == (outer, inner)


def test_what_packets_add_to_the_packet_filter_is_no_change(host: SiteHost) -> None:
    host.up()
    for number in range(20):  # nft writes them over several lines
        host.inside(f"nft add element inet fedsdn senders_ip {{ 10.1.0.{number} }}")
    assert host.differences() == []
    assert host.up() == "site a: nothing to do\n"
    assert "10.1.0.19" in host.inside("nft list set inet fedsdn senders_ip")


_TOO_BIG = """
import socket, struct, sys, time
# In the namespace: a socket that has sent to the peer, which a router is to complain about.
local, peer = ("192.0.2.1", 5000), ("192.0.2.2", 5001)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind(local)
sender.connect(peer)

def packet(protocol, source, destination, body):
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0x4000, 64, protocol, 0)
    return header + addresses + body

quoted = packet(17, local[0], peer[0], struct.pack("!HHHH", local[1], peer[1], 1480, 0))
message = struct.pack("!BBHHH", 3, 4, 0, 0, 1300) + quoted  # RFC 1191: next-hop MTU 1300
total = sum(struct.unpack(f"!{len(message) // 2}H", message))
total = (total & 0xffff) + (total >> 16)
checksum = ~((total & 0xffff) + (total >> 16)) & 0xffff
message = message[:2] + struct.pack("!H", checksum) + message[4:]
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as router:
    router.sendto(message, local)
"""


def test_what_the_kernel_learnt_of_a_path_is_no_route_of_ours(host: SiteHost) -> None:
    """A peer behind a smaller MTU becomes an exception to a route; a dump has it among them."""
    host.up()
    host.output("ip -n fedsdn link set lo up")
    host.output(f"ip netns exec fedsdn python -c '{_TOO_BIG}'")
    wait_until(lambda: "mtu 1300" in host.output("ip -n fedsdn route show cache table all"))
    assert host.differences() == []
    assert host.up() == "site a: nothing to do\n"


PARTS = [
    "record.write",
    "namespace.create",
    "firewall.apply",
    "Network.apply_interfaces",
    "Network._create",
    "tunnel_links.create",
    "Network.apply_addresses",
    "Network.apply_routes",
    "Network.apply_rules",
    "Endpoints.apply",
    "ports.apply",
]

# The process ends as if by SIGKILL, right after the part has done its work.
KILLED_AT = """
import os
from fedsdn.site import setup
owner, name = {part!r}.split(".")
target = getattr(setup, owner)
work = getattr(target, name)
def killed(*arguments, **more):
    work(*arguments, **more)
    os._exit(9)
setattr(target, name, killed)
"""


def kill_up(host: SiteHost, part: str) -> None:
    done = host.site("up", first=KILLED_AT.format(part=part))
    assert done.returncode == 9, done.stderr


@pytest.mark.parametrize("part", PARTS)
def test_up_after_a_killed_one(idle_host: tuple[SiteHost, dict[str, Any]], part: str) -> None:
    host, before = idle_host
    kill_up(host, part)
    host.up()
    assert host.up() == "site a: nothing to do\n"
    host.down()
    assert host.traces() == before


@pytest.mark.parametrize("part", PARTS)
def test_down_after_a_killed_up(idle_host: tuple[SiteHost, dict[str, Any]], part: str) -> None:
    host, before = idle_host
    kill_up(host, part)
    host.down()
    assert host.traces() == before


@pytest.mark.parametrize(
    "damage",
    [
        "ip netns delete fedsdn",
        "ip netns delete fedsdn; touch /run/netns/fedsdn",
        "ip netns delete fedsdn; rm -r /run/fedsdn",
        "ovs-vsctl del-port socksifier",
        "ip link delete wan-up1",
        "ip link set server down",
        "ip -n fedsdn link set server down",
        "ip -n fedsdn link delete t1-up1",
        "kill -9 $(pidof wireguard-go); while ip -n fedsdn link show t1-up1 || "
        "ip -n fedsdn link show t2-up2; do sleep 0.02; done 2>/dev/null",
        "ip -n fedsdn link set t2-up2 mtu 1300",
        "ip -n fedsdn link set t2-up2 down",
        "ip -n fedsdn link set wan-up1 mtu 1400",
        "ip link set wan-up1 mtu 1600",
        "ip link set server arp on",
        "ip -n fedsdn link set wan-up2 address 02:00:00:00:00:01",
        "ip -n fedsdn link set wan-up2 down; ip -n fedsdn link set wan-up2 name other",
        "ip -n fedsdn address flush dev wan-up1",
        "ip -n fedsdn address add 198.51.100.1/24 dev wan-up1",
        "ip -n fedsdn route flush table 201",
        "ip -n fedsdn route replace table 300 10.1.0.0/24 dev router src 10.1.0.2 mtu 1400",
        "ip -n fedsdn route add default via 192.0.2.9 dev wan-up1 onlink",
        "ip -n fedsdn -6 rule flush",
        "ip -n fedsdn rule add from 198.51.100.1 lookup 7",
        "ip -n fedsdn mptcp endpoint flush",
        "ip -n fedsdn mptcp endpoint add 10.1.0.2 subflow",
        "ip -n fedsdn mptcp endpoint flush; ip -n fedsdn mptcp endpoint add 192.0.2.1 signal",
        "ip netns exec fedsdn nft flush ruleset",
        "ip netns exec fedsdn nft insert rule inet fedsdn input accept",
        "ip netns exec fedsdn nft delete element inet fedsdn listen_ports { 0x100 }",
        "ip netns exec fedsdn sysctl -q net.ipv4.conf.all.rp_filter=1",
        "ip netns exec fedsdn sysctl -q net.ipv4.conf.server.arp_ignore=0",
        "ethtool --offload wan-up1 tx on",
        "ip netns exec fedsdn ethtool --offload wan-up1 tx on",
        "ovs-vsctl set Port wan-up1 tag=7",
        "ovs-vsctl clear Port wan-up1 trunks",
        "ovs-vsctl set Port server tag=7",
    ],
)
def test_show_finds_and_up_mends(
    running_host: tuple[SiteHost, dict[str, Any]], damage: str
) -> None:
    host, before = running_host
    if "wireguard-go" in damage and not host.has_programs():
        pytest.skip("the tunnels are the kernel's here: there is no program that may die")
    host.output(damage)
    assert host.differences() != []
    assert "nothing to do" not in host.up()
    assert host.differences() == []
    assert host.traces() == before


def test_exit_status_of_show(running_host: tuple[SiteHost, dict[str, Any]]) -> None:
    host, _ = running_host
    assert host.site("show").returncode == 0
    host.inside("sysctl -q net.ipv4.tcp_mtu_probing=0")
    assert host.site("show").returncode == 1
    host.up()


def test_a_removed_uplink_goes_and_the_other_stays_untouched(host: SiteHost) -> None:
    host.up()
    index = host.json("ip -n fedsdn -json link show wan-up1")[0]["ifindex"]
    wanted = federation()
    sites = tuple(replace(site, uplinks=site.uplinks[:1]) for site in wanted.sites)
    host.write(replace(wanted, sites=sites))
    host.up()
    assert host.differences() == []
    assert host.json("ip -n fedsdn -json link show wan-up1")[0]["ifindex"] == index
    assert "wan-up2" not in host.output("ip -n fedsdn -oneline link; ip -oneline link")
    assert "wan-up2" not in host.output(f"ovs-vsctl list-ports {BRIDGE}")
    assert "2001:db8" not in host.output("ip -n fedsdn -6 route show table all")
    assert "2001:db8" not in host.output("ip -n fedsdn -6 rule; ip -n fedsdn mptcp endpoint")
    assert "2001:db8" not in host.inside("nft list ruleset")


def test_a_changed_federation_file_converges(host: SiteHost) -> None:
    before = host.traces()
    host.up()
    wanted = federation(segmentation_id=100)
    site, peer = wanted.sites
    first, second = site.uplinks
    behind = replace(peer.uplinks[0], gateway=ip_address("192.0.2.254"))
    peer = replace(peer, uplinks=(behind, peer.uplinks[1]))
    changed = replace(
        change_site(
            replace(wanted, sites=(site, peer)),
            prefixes=(
                Prefix(ip_network("10.1.0.0/16"), ip_address("10.1.0.2")),
                Prefix(ip_network("fd00:1::/48"), ip_address("fd00:1::3")),
                Prefix(ip_network("10.9.0.0/24"), ip_address("10.9.0.2")),
            ),
            uplinks=(
                replace(second, gateway=ip_address("2001:db8:1::fe")),
                replace(
                    first,
                    address=ip_interface("192.0.2.1/25"),
                    gateway=ip_address("192.0.2.126"),
                    public=ip_address("198.51.100.7"),
                ),
                Uplink("up3", "far1", ip_interface("203.0.113.1/24"), ip_address("203.0.113.2")),
            ),
        ),
        proxy_port=2080,
    )
    host.output(f"ovs-vsctl add-port {BRIDGE} far1")
    host.write(changed)
    host.up()
    assert host.differences() == []
    assert (
        host.output("ovs-vsctl get Port socksifier tag -- get Port server tag").split()
        == ["100"] * 2
    )
    assert host.up() == "site a: nothing to do\n"
    host.output(f"ovs-vsctl del-port {BRIDGE} far1")
    host.down()
    assert host.traces() == before


def test_the_bridge_of_a_changed_file_is_left(host: SiteHost) -> None:
    host.up()
    host.output(
        "ovs-vsctl add-br br-new -- set-fail-mode br-new secure -- set Bridge br-new "
        f"datapath_type=netdev -- del-port {BRIDGE} up1 -- add-port br-new up1 "
        f"-- del-port {BRIDGE} up2 -- add-port br-new up2"
    )
    wanted = federation()
    site = wanted.sites[0]
    network = replace(site.provider_network, bridge="br-new")
    host.write(change_site(wanted, provider_network=network))
    host.up()
    assert host.differences() == []
    assert host.output(f"ovs-vsctl list-ports {BRIDGE}") == ""
    assert "socksifier" in host.output("ovs-vsctl list-ports br-new")


def test_other_controllers_and_protocols_stay(host: SiteHost) -> None:
    host.output(
        f"ovs-vsctl set-controller {BRIDGE} tcp:127.0.0.1:6633 "
        f"-- set Bridge {BRIDGE} protocols=OpenFlow10"
    )
    host.up()
    assert host.output(f"ovs-vsctl get-controller {BRIDGE}") == "tcp:127.0.0.1:6633\n"
    protocols = host.output(f"ovs-vsctl get Bridge {BRIDGE} protocols")
    assert protocols.strip() == "[OpenFlow10, OpenFlow13]"
    host.down()
    assert host.output(f"ovs-vsctl get-controller {BRIDGE}") == "tcp:127.0.0.1:6633\n"
    assert host.output(f"ovs-vsctl get Bridge {BRIDGE} protocols external_ids") == (
        "[OpenFlow10]\n{}\n"
    )


def test_protocols_stay_unset(host: SiteHost) -> None:
    host.up()
    assert host.output(f"ovs-vsctl get Bridge {BRIDGE} protocols") == "[]\n"


def test_ports_follow_the_bridges_mtu(host: SiteHost) -> None:
    for link, mtu in (("up1", 9000), ("up2", 1400)):
        host.output(f"ip link set {link} mtu {mtu}")
        host.output(f"ovs-vsctl wait-until Interface {link} mtu={mtu}")
    host.up()
    mtus = {link["ifname"]: link["mtu"] for link in host.json("ip -n fedsdn -json link")}
    assert mtus["wan-up1"] == 9000
    assert mtus["wan-up2"] == mtus["socksifier"] == mtus["server"] == 1400
