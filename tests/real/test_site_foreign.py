"""What somebody else puts into the proxy's namespace: shown as it is, and removed by site up."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.real.site_host import SiteHost

pytestmark = pytest.mark.real

ALL_LOCAL = ("rule add from all lookup local pref 0", "-6 rule add from all lookup local pref 0")
"""The kernel's own, once more."""
MORE_SPECIFIC = (
    "rule del fwmark 1; ip -n fedsdn rule add to 10.9.0.0/16 fwmark 1 lookup 100 pref 100"
)
"""In place of one of ours."""
RULES = (
    "rule add from all lookup main pref 32766",
    "rule add from 10.0.0.0/8 pref 5 lookup 100",
    "rule add from 192.0.2.1 pref 201 lookup main",
    "rule add not from 10.1.1.1 pref 6 lookup 7",
    "rule add to 10.9.0.0/16 pref 6 lookup 7",
    "rule add pref 7 fwmark 0x10/0xff lookup 7",
    "rule add pref 100 fwmark 0x1 lookup 100 protocol static",
    "-6 rule add pref 8 iif lo lookup 7",
    "rule add pref 9 oif wan-up1 blackhole",
    "rule add pref 10 ipproto tcp sport 80-90 dport 5 lookup 7",
    "-6 rule add pref 11 l3mdev",
    "rule add pref 12 tun_id 99 lookup 7",
    "rule add pref 13 uidrange 5-9 lookup 7",
    "rule add pref 14 goto 20",
    "rule add pref 15 nop",
    "-6 rule add pref 16 prohibit",
    *ALL_LOCAL,
    "rule add pref 17 dsfield 0x10 lookup 9",
    "rule add pref 18 lookup 9 suppress_prefixlength 0",
    "rule add pref 19 lookup 9 suppress_ifgroup 5",
)
ROUTES = (
    "route add blackhole 10.20.0.0/16",
    "route add unreachable 10.21.0.0/16",
    "-6 route add prohibit fd00:22::/32",
    "route add throw 10.23.0.0/16 table 201",
    "route add 10.24.0.0/16 nexthop via 192.0.2.2 dev wan-up1 onlink "
    "nexthop via 192.0.2.3 dev wan-up1 onlink",
    "-6 route add fd00:24::/32 nexthop via fe80::1 dev wan-up2 nexthop via fe80::2 dev wan-up2",
    "route add 10.25.0.0/16 via inet6 fe80::1 dev wan-up1",
    "route add 192.0.2.0/24 dev wan-up1 src 192.0.2.1 table 201 mtu 900 metric 7",
    "route replace 192.0.2.0/24 dev wan-up1 src 192.0.2.1 table 201 mtu 900",
    "-6 route add fd00:1::/64 dev socksifier table 101 metric 7",
    "route add local 10.27.0.0/16 dev lo table local",
    "-6 route add local fd00:27::/32 dev lo table local",
    "route add multicast 239.0.0.0/8 dev wan-up1",
    "route add broadcast 10.28.0.0/16 dev wan-up1",
    "route add 10.29.0.0/16 dev wan-up1 tos 0x10",
    "route add 10.30.0.0/16 dev wan-up1 scope host",
    "route add 10.31.0.0/16 dev wan-up1 proto ra",
    "route add 10.32.0.0/16 encap ip id 5 dst 10.0.0.5 dev wan-up1",
    "route add 10.34.0.0/16 dev wan-up1 realm 4",
    "-6 route add fd00:30::/32 dev wan-up2 expires 500",
    "-6 route add fd00:31::/32 dev wan-up2 pref high",
    "-6 route add fd00:32::/32 from fd00:9::/64 dev wan-up2",
    "-6 route add anycast fd00:33::1 dev wan-up2",
    "nexthop add id 5 dev wan-up1; ip -n fedsdn route add 10.40.0.0/16 nhid 5",
    "nexthop add id 6 via fe80::9 dev wan-up2; ip -n fedsdn -6 route add fd00:40::/32 nhid 6",
)
FLUSH = "route flush table 201; ip -n fedsdn route add 192.0.2.0/24 dev wan-up1 table 201"
ADDRESSES = (
    "address add 10.2.0.11/32 dev lo",
    "address add 10.5.0.1 peer 10.6.0.1/32 dev server",
    "-6 address add fd01::77 peer fd02::9/64 dev wan-up1",
    "address add 10.1.0.3/24 dev socksifier label socksifier:x",
    "address add 169.254.3.1/16 dev server scope link",
    "address add fe80::77/64 dev wan-up2 nodad",
    "address add 10.1.0.2/16 dev server",
)
NEIGHBOURS = (
    "neighbour add 10.1.0.11 lladdr 02:00:00:00:00:01 dev server nud permanent",
    "neighbour add fd00:1::11 lladdr 02:00:00:00:00:01 dev socksifier nud permanent",
)
LINKS = (
    "link add made1 type veth peer name end2",
    "link add made2 type bridge",
    "tuntap add made3 mode tap",
    "link add made4 link socksifier type vlan id 5",
    "link add made5 link wan-up1 type macvlan",
    "link add made6 type vrf table 10",
    "link add made7 type dummy",
    "link add made8 type ipip remote 192.0.2.9 local 192.0.2.1",
    "link set wan-up1 arp off",
    "link set wan-up1 name made9",
)
OTHERS = (
    "nft add table ip somebody",
    "nft add table inet fedsdn2 '{ chain c { type filter hook input priority 0; drop; }; }'",
    "nft flush table inet fedsdn",
    "sysctl -w net.ipv4.conf.all.forwarding=1",
    "sysctl -w net.ipv4.tcp_rmem='4096 5000 6000'",
)
EVERY = {
    "rule": RULES,
    "route": ROUTES,
    "address": ADDRESSES,
    "neighbour": NEIGHBOURS,
    "interface": LINKS,
}


@pytest.fixture(scope="module")
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        host.up()
        yield host


def add(host: SiteHost, words: str) -> bool:
    """Add something; False where this kernel knows no such thing."""
    command = words if words.startswith(("nft", "sysctl")) else f"ip -n fedsdn {words}"
    inside = "ip netns exec fedsdn " if command == words else ""
    done = host.run(inside + command)
    unknown = ("not supported", "Unknown device type", "does not exist")
    assert done.returncode == 0 or any(why in done.stderr for why in unknown), (words, done.stderr)
    return done.returncode == 0


def shown(host: SiteHost) -> list[str]:
    """What ``fedsdn site show`` finds different, in words and without a traceback."""
    done = host.site("show")
    assert (done.returncode, done.stderr) == (1, "")
    return host.differences()


@pytest.mark.parametrize("part", EVERY)
def test_every_entry_is_shown_and_removed(host: SiteHost, part: str) -> None:
    before = host.inner()
    added = [words for words in EVERY[part] if add(host, words)]
    try:
        found = [one for one in shown(host) if one.startswith(part)]
        assert len(found) >= len(added), found
        host.up()
    finally:
        host.run("ip -n fedsdn nexthop flush")
    assert host.differences() == []
    after = host.inner()
    for kind in ("rules", "routes", "routes6"):
        assert sorted(after[kind].splitlines()) == sorted(before[kind].splitlines())


@pytest.mark.parametrize(
    "words",
    [
        RULES[0],
        RULES[2],
        RULES[6],
        MORE_SPECIFIC,
        *ALL_LOCAL,
        ROUTES[4],
        ROUTES[6],
        FLUSH,
        LINKS[8],
    ],
)
def test_one_entry_alone_is_shown_and_removed(host: SiteHost, words: str) -> None:
    before = host.inner()
    assert add(host, words)
    assert shown(host)
    host.up()
    assert host.differences() == []
    assert sorted(host.inner()["rules"].splitlines()) == sorted(before["rules"].splitlines())


def test_what_a_rule_says_is_in_its_line(host: SiteHost) -> None:
    add(host, "rule add from all lookup main pref 32766")
    add(host, "rule add not from 10.0.0.0/8 iif lo ipproto tcp dport 80-90 pref 5 lookup 7")
    add(host, "route add blackhole 10.20.0.0/16 metric 9")
    add(host, "route add 10.24.0.0/16 nexthop dev wan-up1 nexthop dev server")
    differences = "\n".join(host.differences())
    assert "rule: 32766: from all lookup 254 (IPv4)" in differences
    assert "rule: 5: not from 10.0.0.0/8 iifname lo" in differences
    assert "dport_range 80:90" in differences
    assert "route: table 254: blackhole 10.20.0.0/16 priority 9" in differences
    assert "oif server" in differences
    host.up()
    assert host.differences() == []


@pytest.mark.parametrize("seed", range(4))
def test_any_of_them_together(host: SiteHost, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 -- no secret
    every = [*RULES, *ROUTES, *ADDRESSES, *NEIGHBOURS, *LINKS, *OTHERS]
    for words in chance.sample(every, 15):
        inside = "ip netns exec fedsdn " if words.startswith(("nft", "sysctl")) else ""
        host.run(inside + (words if inside else f"ip -n fedsdn {words}"))
    try:
        assert shown(host)
        host.up()
    finally:
        host.run("ip -n fedsdn nexthop flush")
    assert host.differences() == []


def test_down_removes_all_of_it(host: SiteHost) -> None:
    for words in (RULES[0], ROUTES[0], ROUTES[4], ADDRESSES[0], NEIGHBOURS[0], LINKS[0]):
        add(host, words)
    assert host.down() == "site taken down\n"
    assert host.json("ip -json netns") == []
    host.up()
    assert host.differences() == []


def test_an_interface_that_cannot_be_deleted_is_one_line(host: SiteHost) -> None:
    """A bridge's own port, moved inside: Open vSwitch alone can remove it."""
    host.output("ovs-vsctl add-br br-other -- set Bridge br-other datapath_type=netdev")
    host.output("ip link set br-other netns fedsdn")
    differences = host.differences()
    done = host.site("up")
    host.run("ip -n fedsdn link set br-other netns 1; ovs-vsctl del-br br-other")
    assert any("br-other" in one for one in differences)
    assert done.returncode in {0, 1}
    assert "Traceback" not in done.stderr
