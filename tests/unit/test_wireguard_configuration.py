"""What a WireGuard interface is told, and whether it has it already."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from ipaddress import ip_address

import pytest

from fedsdn.config.model import Federation
from fedsdn.identity.new import make
from fedsdn.pipeline.declarations import is_tunnel_name
from fedsdn.tunnels.configuration import Configuration, Seen, parse
from fedsdn.tunnels.plan import tunnels
from tests.unit.federations import own_identity, private_keys, two_sites

PRIVATE = private_keys("a").tunnels
OWN, PEERS = own_identity("a").identity.tunnel_key, own_identity("b").identity.tunnel_key
NEW = make("b").identity
SECOND_UPLINK = 1


def b64(key: bytes) -> str:
    return b64encode(key).decode()


def with_second_identity() -> Federation:
    a, b = two_sites().sites
    return replace(two_sites(), sites=(a, replace(b, identities=(*b.identities, NEW))))


def wanted(federation: Federation | None = None, number: int = 0) -> Configuration:
    federation = federation or two_sites()
    return Configuration(PRIVATE, tunnels(federation, federation.site("a"))[number])


def dump(*peers: str, port: int = 51820, mark: str = "0x300") -> Seen:
    return parse("\n".join((f"{b64(PRIVATE)}\t{b64(OWN)}\t{port}\t{mark}", *peers)))


def peer(key: bytes, endpoint: str, prefixes: str, keepalive: str = "25") -> str:
    return "\t".join((b64(key), "(none)", endpoint, prefixes, "1795770000", "7", "9", keepalive))


IT = peer(PEERS, "192.0.2.2:51820", "fd00:2::/64,10.2.0.0/24")


def test_an_interface_is_told_what_wg_takes() -> None:
    assert wanted().text().splitlines() == [
        "[Interface]",
        f"PrivateKey = {b64(PRIVATE)}",
        "ListenPort = 51820",
        "FwMark = 0x300",
        "[Peer]",
        f"PublicKey = {b64(PEERS)}",
        "Endpoint = 192.0.2.2:51820",
        "AllowedIPs = 10.2.0.0/24, fd00:2::/64",
        "PersistentKeepalive = 25",
    ]
    assert "Endpoint = [2001:db8:2::2]:51829" in wanted(number=SECOND_UPLINK).text()


def test_a_second_identity_has_no_prefix() -> None:
    text = wanted(with_second_identity()).text()
    assert text.endswith(f"[Peer]\nPublicKey = {b64(NEW.tunnel_key)}\nEndpoint = 192.0.2.2:51820\n")


def began(key: bytes, when: int, prefixes: str = "(none)") -> str:
    words = peer(key, "192.0.2.2:51820", prefixes).split("\t")
    return "\t".join((*words[:4], str(when), *words[5:]))


@pytest.mark.parametrize(
    ("old", "new", "last"),
    [
        (0, 0, PEERS),
        (7, 0, PEERS),
        (7, 8, NEW.tunnel_key),
        (9, 8, PEERS),
        (0, 8, NEW.tunnel_key),
        (7, 7, PEERS),
    ],
    ids=["no session", "old alone", "new later", "old later", "new alone", "at once"],
)
def test_of_two_identities_the_last_sessions_has_the_prefixes(
    old: int, new: int, last: bytes
) -> None:
    seen = dump(began(PEERS, old, "10.2.0.0/24,fd00:2::/64"), began(NEW.tunnel_key, new))
    (one,) = wanted(with_second_identity()).following(seen).peers
    assert one.key == last
    assert {one.key, *one.spare_keys} == {PEERS, NEW.tunnel_key}


def test_an_interface_without_tunnel_has_no_peers() -> None:
    left = Configuration(PRIVATE, None)
    assert left.text() == f"[Interface]\nPrivateKey = {b64(PRIVATE)}\n"
    assert left.is_that(dump())
    assert not left.is_that(dump(IT))


def test_keys_are_in_no_text_of_values() -> None:
    assert repr(PRIVATE)[2:-1] not in repr(wanted())


def test_what_is_so_already_is_known() -> None:
    assert wanted().is_that(dump(IT))
    behind_nat = peer(PEERS, "192.0.2.2:1024", "10.2.0.0/24,fd00:2::/64")
    assert wanted().is_that(dump(behind_nat))
    spare = peer(NEW.tunnel_key, "192.0.2.2:51820", "(none)", "off")
    assert wanted(with_second_identity()).is_that(dump(IT, spare))


@pytest.mark.parametrize(
    "seen",
    [
        dump(),
        dump(IT, port=51821),
        dump(IT, mark="off"),
        dump(IT, peer(NEW.tunnel_key, "192.0.2.2:51820", "(none)", "off")),
        dump(peer(NEW.tunnel_key, "192.0.2.2:51820", "10.2.0.0/24,fd00:2::/64")),
        dump(peer(PEERS, "192.0.2.9:51820", "10.2.0.0/24,fd00:2::/64")),
        dump(peer(PEERS, "(none)", "10.2.0.0/24,fd00:2::/64")),
        dump(peer(PEERS, "192.0.2.2:51820", "10.2.0.0/24")),
        dump(peer(PEERS, "192.0.2.2:51820", "10.2.0.0/24,fd00:2::/64", "off")),
        parse(f"{b64(PRIVATE)}\t{b64(NEW.tunnel_key)}\t51820\t0x300\n{IT}"),
        parse("(none)\t(none)\t51820\toff"),
    ],
)
def test_what_differs_is_noticed(seen: Seen) -> None:
    assert not wanted().is_that(seen)


def test_a_dump_is_read_without_its_private_key() -> None:
    found = dump(peer(PEERS, "[2001:db8:2::2]:51829", "10.2.0.0/24"))
    assert found.key == OWN
    (one,) = found.peers
    assert one.endpoint == (ip_address("2001:db8:2::2"), 51829)
    assert (one.handshake, one.received, one.sent) == (1795770000, 7, 9)


def test_what_peers_have_is_worked_out_once_however_many_there_are() -> None:
    lines = [peer(PEERS, f"192.0.{n >> 8}.{n & 255}:51820", "10.2.0.0/24") for n in range(20_000)]
    first, second = dump(*lines).peers, dump(*lines).peers
    assert all(one.endpoint is two.endpoint for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("name", "is_tunnel"),
    [
        ("t1-up1", True),
        ("t8-a.b-c", True),
        ("v-2f54a1", True),
        ("t0-up1", False),
        ("tun0", False),
        ("v-2f54a", False),
        ("wan-up1", False),
        ("router", False),
    ],
)
def test_tunnels_are_known_by_their_names(name: str, *, is_tunnel: bool) -> None:
    assert is_tunnel_name(name) is is_tunnel


def test_a_port_that_a_nat_gave_a_peer_is_kept_when_something_else_changes() -> None:
    seen = dump(peer(PEERS, "192.0.2.2:1024", "10.2.0.0/24"))
    first = wanted()
    assert "Endpoint = 192.0.2.2:1024" in first.following(seen, first).text()
    assert "Endpoint = 192.0.2.2:51820" in first.following(seen).text(), "it was told by another"


def test_a_port_that_the_federation_gives_a_peer_is_told() -> None:
    before = replace(two_sites(), datagrams_port=40000)
    seen = dump(peer(PEERS, "192.0.2.2:1024", "10.2.0.0/24"))
    assert "Endpoint = 192.0.2.2:51820" in wanted().following(seen, wanted(before)).text()
