"""What is read is what was written; any other text gives a federation or one clear line."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from ipaddress import ip_address, ip_interface, ip_network
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.config.document import ConfigError, key_path, load_document, parse_document
from fedsdn.config.loader import (
    dump_federation,
    federation_document,
    load_federation,
    parse_federation,
)
from fedsdn.config.model import (
    Federation,
    PairEncryption,
    Prefix,
    Probes,
    ProviderNetwork,
    Site,
    Uplink,
)
from fedsdn.errors import FedsdnError
from tests.unit.federations import (
    own_identity,
    three_sites,
    two_sites,
    with_foreign_proxy,
    with_source_restore,
)

FILE = Path("federation.yaml")
TOPOLOGIES = Path(__file__).parents[2] / "topo"


def parse(text: str) -> Federation:
    return parse_federation(parse_document(text, FILE), of_lab=True)


def test_topology_file_gives_its_federation() -> None:
    federation = load_federation(TOPOLOGIES / "two-site.yaml")
    sites = tuple(
        replace(site, identities=(own_identity(site.name).identity,)) for site in federation.sites
    )
    assert replace(federation, sites=sites) == two_sites()


def test_every_key_is_read() -> None:
    federation = parse(
        """
        proxy_port: 9000
        probes: {interval_ms: 50, multiplier: 4, hold_ms: 0}
        datagrams: {port: 4500}
        sites:
          a:
            provider_network: {bridge: br-ex, type: vlan, segmentation_id: 7, table_miss: normal}
            prefixes: [{prefix: 10.1.0.0/24, proxy_address: 10.1.0.2}]
            uplinks: {isp: {port: e1, address: 192.0.2.1/24, gateway: 192.0.2.254}}
            source_restore: none
            datagrams: {prefer: latency}
          b:
            proxy: socks5
            prefixes: [{prefix: 10.2.0.0/24, proxy_address: 10.2.0.2}]
            uplinks:
              lte: {port: e1, address: 192.168.1.2/24, gateway: 192.168.1.1, public: 203.0.113.9}
        """
    )
    assert federation == Federation(
        sites=(
            Site(
                "a",
                ProviderNetwork("br-ex", segmentation_id=7, table_miss="normal"),
                (Prefix(ip_network("10.1.0.0/24"), ip_address("10.1.0.2")),),
                (Uplink("isp", "e1", ip_interface("192.0.2.1/24"), ip_address("192.0.2.254")),),
                source_restore="none",
                prefer="latency",
            ),
            Site(
                "b",
                ProviderNetwork("br-provider"),
                (Prefix(ip_network("10.2.0.0/24"), ip_address("10.2.0.2")),),
                (
                    Uplink(
                        "lte",
                        "e1",
                        ip_interface("192.168.1.2/24"),
                        ip_address("192.168.1.1"),
                        ip_address("203.0.113.9"),
                    ),
                ),
                proxy="socks5",
            ),
        ),
        proxy_port=9000,
        probes=Probes(interval=0.05, multiplier=4, hold=0.0),
        datagrams_port=4500,
    )


def test_ipv6_router_may_go_by_its_link_local_address() -> None:
    text = dump_federation(two_sites()).replace(
        "2001:db8:2::1/64", "2001:db8:2::1/64\n        gateway: fe80::1"
    )
    assert parse(text).site("a").uplinks[1].gateway == ip_address("fe80::1")


def test_networks_of_two_addresses_have_no_address_of_their_own() -> None:
    text = dump_federation(two_sites())
    text = text.replace("192.0.2.1/24", "192.0.2.2/31").replace("192.0.2.2/24", "192.0.2.3/31")
    assert str(parse(text).site("a").uplinks[0].address) == "192.0.2.2/31"


def test_unquoted_ipv6_and_words_stay_text() -> None:
    """YAML 1.1 has 1:2:3:4:5:6:7:8 for a number to the base 60 and 'on' for true."""
    document = parse_document("on: [1:2:3:4:5:6:7:8, no, 2001-01-01, 0x10, 010, '1']", FILE)
    assert document.value == {
        "on": ["1:2:3:4:5:6:7:8", "no", "2001-01-01", "0x10", "010", "1"],
    }


def test_numbers_and_nothing() -> None:
    document = parse_document("[1, -2, 1.5, ~, null, ]", FILE)
    assert document.value == [1, -2, 1.5, None, None]


def test_aliases_are_followed() -> None:
    text = "sites: {a: {provider_network: &flat {bridge: br-ex}}, b: {provider_network: *flat}}"
    document = parse_document(text, FILE).section("sites")
    assert document.section("b").section("provider_network").value == {"bridge": "br-ex"}


def test_lines_of_keys_and_items() -> None:
    document = parse_document("a:\n  - 1\n  -\n    b: 2\n", FILE)
    a = document.section("a")
    assert [a.line, *(item.line for item in a.elements())] == [1, 2, 4]
    assert a.section(1).section("b").line == 4
    assert a.section(1).section("missing").line == 4


def test_key_path_quotes_odd_keys() -> None:
    assert key_path(("sites", "a b", "prefixes", 0)) == "sites.'a b'.prefixes[0]"


def test_unknown_site_names_the_known_ones() -> None:
    with pytest.raises(Exception, match=r"^unknown site 'x': write one that .* has: a, b$"):
        two_sites().site("x")


def test_a_site_with_anothers_proxy_is_not_one_to_run_at() -> None:
    federation = with_foreign_proxy(two_sites(), "b")
    assert federation.local_site("a") == federation.site("a")
    with pytest.raises(FedsdnError, match=r"^site 'b' has another's proxy .*; name a site that"):
        federation.local_site("b")


@pytest.mark.parametrize(
    ("federation", "message"),
    [
        (
            with_foreign_proxy(with_foreign_proxy(two_sites(), "a"), "b"),
            "sites.a.proxy: found 'socks5', but no other site has fedsdn's proxy; write 'fedsdn', "
            "at one site or more",
        ),
        (
            with_foreign_proxy(with_source_restore(two_sites(), "nat"), "b"),
            "sites.a.source_restore: found 'nat', but the proxy of site b ('proxy: socks5') names "
            "no clients; write 'transparent' or 'none'",
        ),
    ],
    ids=["no proxy of ours", "the bridge cannot restore"],
)
def test_anothers_proxy_must_fit_in(federation: Federation, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(dump_federation(federation))


# Names that YAML 1.1 or 1.2 would take for something else if nobody quoted them.
NAMES = ["on", "null", "true", "1", "1e3", "1.5", "0x10", "010", "1_0", "2001-01-01", "a.b", "y"]


PROBES = st.builds(
    Probes,
    interval=st.integers(10, 60_000).map(lambda ms: ms / 1000),
    multiplier=st.integers(2, 100),
    hold=st.integers(0, 60_000).map(lambda ms: ms / 1000),
)


@st.composite
def federations(draw: st.DrawFn) -> Federation:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    families = draw(st.sampled_from([(4,), (6,), (4, 6)]))
    uplinks = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True))
    ports = draw(st.permutations(NAMES))
    kinds = [draw(st.sampled_from(UPLINK_KINDS)) for _ in uplinks]
    return Federation(
        sites=tuple(
            Site(
                name,
                draw(provider_networks()),
                tuple(_prefix(family, number) for family in families),
                tuple(
                    _uplink(kind, uplink, port, wire, number)
                    for wire, (kind, uplink, port) in enumerate(zip(kinds, uplinks, ports))  # noqa: B905
                ),
                source_restore=draw(st.sampled_from(["transparent", "nat", "none"])),
                identities=draw(st.sampled_from([(), (own_identity(name).identity,)])),
                prefer=draw(st.sampled_from(["latency", "spread"])),
            )
            for number, name in enumerate(names, start=1)
        ),
        proxy_port=draw(st.integers(1, 1080)),
        probes=draw(PROBES),
        datagrams_port=draw(st.integers(1145, 65471)),
        default_encryption=draw(st.sampled_from(["tls", "none"])),
        pairs=tuple(
            PairEncryption(pair, draw(st.sampled_from(["tls", "none"])))
            for pair in draw(st.sets(st.sampled_from(list(combinations(names, 2)))))
        ),
    )


@st.composite
def provider_networks(draw: st.DrawFn) -> ProviderNetwork:
    return ProviderNetwork(
        bridge=draw(st.sampled_from(["br-provider", "off", "12", "1e5", "null0"])),
        segmentation_id=draw(st.none() | st.integers(1, 4094)),
        table_miss=draw(st.sampled_from(["normal", "none"])),
    )


UPLINK_KINDS = ["on-link", "IPv6", "routed", "NAT"]


def _prefix(family: int, number: int) -> Prefix:
    text = f"10.{number}.0.{{}}" if family == 4 else f"fd00:{number}::{{}}"
    length = 24 if family == 4 else 64
    network = ip_network(f"{text.format(0)}/{length}")
    return Prefix(network, ip_address(text.format(2)))


def _uplink(kind: str, name: str, port: str, wire: int, number: int) -> Uplink:
    if kind == "IPv6":
        return Uplink(name, port, ip_interface(f"2001:db8:{wire}::{number}/64"))
    if kind == "on-link":
        return Uplink(name, port, ip_interface(f"172.16.{wire}.{number}/24"))
    own = f"172.{16 + number}.{wire}"
    public = ip_address(f"203.0.{wire}.{number}") if kind == "NAT" else None
    return Uplink(name, port, ip_interface(f"{own}.1/24"), ip_address(f"{own}.254"), public)


@given(federations())
def test_reading_what_was_written_gives_the_same_federation(federation: Federation) -> None:
    assert parse(dump_federation(federation)) == federation


@given(st.text())
def test_any_text_gives_a_federation_or_one_line(text: str) -> None:
    _check_one_line(text)


@given(st.text(alphabet="ab:[]{}&*!|>'\"#%@`,?-\n\t \\xU1.~<"))
def test_any_yaml_like_text_gives_a_federation_or_one_line(text: str) -> None:
    _check_one_line(text)


@given(st.binary())
def test_any_bytes_give_a_federation_or_one_line(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load_federation(Path(file.name))
    assert str(caught.value).isprintable()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["a", "10.1.0.0/24", "fd00::1", "192.0.2.2/24", "0.0.0.0/0", "::/0"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(SCALARS.filter(bool), inner),
    max_leaves=8,
)


@given(st.data())
def test_good_file_with_a_value_changed_gives_a_federation_or_one_line(data: st.DataObject) -> None:
    document = federation_document(three_sites())
    container, key = data.draw(st.sampled_from(list(_places(document))))
    if data.draw(st.booleans()):
        container[key] = data.draw(VALUES)
    else:
        del container[key]
    _check_one_line(yaml.safe_dump(document, sort_keys=False))


@given(st.data())
def test_good_file_with_characters_changed_gives_a_federation_or_one_line(
    data: st.DataObject,
) -> None:
    text = dump_federation(three_sites())
    start = data.draw(st.integers(0, len(text)))
    end = start + data.draw(st.integers(0, 5))
    _check_one_line(text[:start] + data.draw(st.text(max_size=5)) + text[end:])


@given(st.data())
def test_good_rules_with_a_value_changed_give_a_federation_or_one_line(
    data: st.DataObject,
) -> None:
    document = federation_document(three_sites()) | {
        "groups": {"web": ["a", "10.2.0.16/28"], "db": ["fd00:3::11"]},
        "allow": [{"from": ["web", "b"], "to": "db", "protocol": "tcp", "ports": [80, "90-99"]}],
    }
    rules = {key: document[key] for key in ("groups", "allow")}
    container, key = data.draw(st.sampled_from(list(_places(rules))))
    container[key] = data.draw(VALUES)
    _check_one_line(yaml.safe_dump(document | rules, sort_keys=False))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - whatever YAML has
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _check_one_line(text: str) -> None:
    try:
        federation = parse(text)
    except ConfigError as error:
        message = str(error)
    else:
        assert parse(dump_federation(federation)) == federation
        return
    assert message.startswith("federation.yaml:")
    assert "; write " in message
    assert message.isprintable()


def _schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(files("fedsdn.config").joinpath(name).read_text("utf-8"))
    return schema


@pytest.mark.parametrize(
    "name", ["federation.schema.json", "topology.schema.json", "expectations.schema.json"]
)
def test_schema_is_one_and_says_what_to_write_everywhere(name: str) -> None:
    schema = _schema(name)
    jsonschema_rs.meta.validate(schema)
    for container, key in _places(schema):
        value = container[key]
        if key in ("type", "enum", "pattern", "not") and not isinstance(value, dict | None):
            assert "description" in container, container


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_topology_of_ours_is_good(path: Path) -> None:
    assert load_document(path).value.keys() == {"federation", "lab"}
    assert len(load_federation(path).sites) >= 2
