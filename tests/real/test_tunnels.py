"""The tunnels' interfaces while the application runs: keys, peers and MTUs are the file's."""

from __future__ import annotations

import signal
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fedsdn.config.model import Federation, Identity
from fedsdn.config.rules import Rule
from fedsdn.identity.new import make
from tests.real.sandbox import in_sandbox
from tests.real.site_host import Program, SiteHost, federation, wait_until
from tests.real.test_site_bridge import own
from tests.unit.federations import own_identity, unencrypted

pytestmark = pytest.mark.real

KEY_OF_B = own_identity("b").identity.tunnel_key
PREFIXES = frozenset({"10.2.0.0/24", "fd00:2::/64"})


@pytest.fixture(scope="module")
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        host.up()
        yield host


@pytest.fixture(scope="module", autouse=True)
def application(host: SiteHost) -> Iterator[Program]:
    command = ("osken-manager", "--config-file=/run/fedsdn.conf", "fedsdn.app")
    with host.program(*in_sandbox("fedsdn-app", *command)) as program:
        wait_until(lambda: len(own(host)) > 50)
        yield program
        assert program.poll() is None


@pytest.fixture(autouse=True)
def written(host: SiteHost) -> Iterator[None]:
    """Every test begins with, and leaves, the same file."""
    wait_until(lambda: peers(host, "t1-up1") == {KEY_OF_B: PREFIXES})
    yield
    host.write(federation())
    host.up()


def peers(host: SiteHost, interface: str) -> dict[bytes, frozenset[str]]:
    """Return the prefixes of an interface's peers by the peers' keys."""
    listed = host.run(f"ip netns exec fedsdn wg show {interface} allowed-ips").stdout
    known = {b64encode(key).decode(): key for key in KEYS}
    found = (line.split("\t") for line in listed.splitlines())
    return {known[key]: frozenset(prefixes.split()) for key, prefixes in found}


NEW = make("b").identity
NO_PREFIX = frozenset({"(none)"})
KEYS = (KEY_OF_B, NEW.tunnel_key)


def with_identities(*identities: Identity) -> Federation:
    a, b = federation().sites
    return replace(federation(), sites=(a, replace(b, identities=identities)))


def test_each_interface_has_its_port_its_mark_and_its_peer(host: SiteHost) -> None:
    for interface, port, mark, endpoint in (
        ("t1-up1", 51820, "0x300", "192.0.2.2:51820"),
        ("t2-up2", 51829, "0x301", "[2001:db8:2::1]:51829"),
    ):
        assert peers(host, interface) == {KEY_OF_B: PREFIXES}
        for word, value in (("listen-port", str(port)), ("fwmark", mark)):
            assert host.inside(f"wg show {interface} {word}").strip() == value
        assert host.inside(f"wg show {interface} endpoints").split()[1] == endpoint
        own_key = host.inside(f"wg show {interface} public-key").strip()
        assert own_key == b64encode(own_identity("a").identity.tunnel_key).decode()


def test_a_peer_has_its_new_key_at_once_and_the_old_one_is_nobodys(host: SiteHost) -> None:
    host.write(with_identities(NEW))
    for interface in ("t1-up1", "t2-up2"):
        wait_until(lambda interface=interface: peers(host, interface) == {NEW.tunnel_key: PREFIXES})  # type: ignore[misc]


def test_with_a_second_identity_a_peer_may_begin_and_sends_nothing_yet(host: SiteHost) -> None:
    host.write(with_identities(own_identity("b").identity, NEW))
    wait_until(lambda: peers(host, "t1-up1") == {KEY_OF_B: PREFIXES, NEW.tunnel_key: NO_PREFIX})


def test_without_encryption_an_interface_that_is_left_knows_nobody(host: SiteHost) -> None:
    host.write(unencrypted(federation()))
    wait_until(lambda: peers(host, "t1-up1") == {})
    host.up()
    links = host.inside("ip -brief link show type vxlan").split()
    assert [one for one in links if one.startswith("v-")] == ["v-2f54a1", "v-ce1f86"]
    assert host.differences() == []


def test_a_program_that_dies_is_started_again_with_its_peers(host: SiteHost) -> None:
    if not host.has_programs():
        pytest.skip("the tunnels are the kernel's here: there is no program that may die")
    host.output("kill -9 $(pidof wireguard-go)")
    for interface in ("t1-up1", "t2-up2"):
        wait_until(lambda interface=interface: peers(host, interface) == {KEY_OF_B: PREFIXES})  # type: ignore[misc]
    wait_until(lambda: host.differences() == [])


def test_what_somebody_else_tells_an_interface_is_taken_back(
    host: SiteHost, application: Program
) -> None:
    """The application is halted meanwhile, or it might be back before one can look."""
    stranger = b64encode(NEW.tunnel_key).decode()
    application.send_signal(signal.SIGSTOP)
    host.inside(f"wg set t1-up1 peer {stranger} allowed-ips 10.2.0.0/24")
    assert peers(host, "t1-up1")[NEW.tunnel_key] == {"10.2.0.0/24"}
    application.send_signal(signal.SIGCONT)
    wait_until(lambda: peers(host, "t1-up1") == {KEY_OF_B: PREFIXES})


def mtus(host: SiteHost) -> dict[str, int]:
    return {link["ifname"]: link["mtu"] for link in host.json("ip -n fedsdn -json link")}


@pytest.mark.parametrize("mtu", [1400, 9000])
def test_the_mtu_of_an_uplink_is_followed(host: SiteHost, mtu: int) -> None:
    host.output(f"ip link set up1 mtu {mtu}")
    wanted = {"wan-up1": mtu, "t1-up1": mtu - 60, "wan-up2": 1500, "t2-up2": 1420, "router": 9216}
    wait_until(lambda: wanted.items() <= mtus(host).items())
    wait_until(lambda: host.differences() == [])
    assert host.up() == "site a: nothing to do\n"
    host.output("ip link set up1 mtu 1500")
    wait_until(lambda: mtus(host)["t1-up1"] == 1440)


def rules(host: SiteHost) -> str:
    return host.inside("nft list chain inet fedsdn rules") + host.inside(
        "nft list chain inet fedsdn judge"
    )


def test_other_rules_judge_datagrams_as_soon_as_the_file_is_there(host: SiteHost) -> None:
    before = rules(host)
    host.write(replace(federation(), allow=(Rule(("a",), ("b",), "udp", (range(53, 54),)),)))
    wait_until(lambda: "udp dport 53" in rules(host))
    host.write(federation())
    wait_until(lambda: rules(host) == before)
