"""Two federation files: what they mean differently, and whether their digests say so."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.config.differences import FederationText, differences, digest
from fedsdn.config.document import parse_document
from fedsdn.config.loader import dump_federation, parse_federation
from fedsdn.config.model import Federation, PairEncryption, Probes
from fedsdn.config.rules import Group, Rule
from fedsdn.identity.new import make
from tests.unit.federations import own_identity, three_sites, two_sites, with_identities
from tests.unit.test_tunnels_told import with_an_uplink_that_sorts_first

FIRST = """\
probes: {interval_ms: 50}
sites:
  a:
    prefixes: [{prefix: 10.1.0.0/24, proxy_address: 10.1.0.2}]
    uplinks:
      up1: {port: up1, address: 192.0.2.1/24}
  b:
    prefixes:
      - {prefix: 10.2.0.0/24, proxy_address: 10.2.0.2}
      - {prefix: 10.22.0.0/24, proxy_address: 10.22.0.2}
    uplinks:
      up1: {port: up1, address: 192.0.2.2/24}
"""
OTHER = """\
proxy_port: 1079
probes: {hold_ms: 200}
sites:
  c:
    prefixes: [{prefix: 10.3.0.0/24, proxy_address: 10.3.0.2}]
    uplinks:
      up1: {port: up1, address: 192.0.2.3/24}
  b:
    prefixes:
      - {prefix: 10.22.0.0/24, proxy_address: 10.22.0.3}
    uplinks:
      up1: {port: up1, address: 192.0.2.2/24}
      up2: {port: up2, address: 192.0.2.9/24}
  a:
    provider_network: {type: vlan, segmentation_id: 7}
    prefixes: [{prefix: 10.1.0.0/24, proxy_address: 10.1.0.2}]
    uplinks:
      up1: {port: up1, address: 192.0.2.1/24}
"""
SAME = """\
# other words for FIRST
proxy_port: 1080
sites:
  b:
    provider_network: {bridge: br-provider, type: flat, table_miss: none}
    proxy: fedsdn
    uplinks: {up1: {address: "192.0.2.2/24", port: up1}}
    prefixes:
      - {proxy_address: 10.22.0.2, prefix: 10.22.0.0/24}
      - {proxy_address: 10.2.0.2, prefix: 10.2.0.0/24}
  a:
    source_restore: transparent
    prefixes: [{prefix: 10.1.0.0/24, proxy_address: 10.1.0.2}]
    uplinks:
      up1: {port: up1, address: 192.0.2.1/24}
probes: {hold_ms: 100, interval_ms: 50}
"""


def diff(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedsdn.cli.main", "federation", "diff", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"LANG": "C.UTF-8"},
    )


def text(content: str) -> FederationText:
    document = parse_document(content, Path("federation.yaml"))
    return FederationText(parse_federation(document), document)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    first, other = tmp_path / "first.yaml", tmp_path / "other.yaml"
    first.write_text(with_identities(FIRST))
    other.write_text(with_identities(OTHER))
    return first, other


def test_every_difference_is_a_line_with_both_places(files: tuple[Path, Path]) -> None:
    first, other = files
    done = diff(*files)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"proxy_port: 1080 by default at {first}:1; 1079 at {other}:1",
        f"probes.interval_ms: 50 at {first}:1; 100 by default at {other}:2",
        f"probes.hold_ms: 100 by default at {first}:1; 200 at {other}:2",
        f"site a, provider_network.type: flat by default at {first}:3; vlan at {other}:18",
        f"site a, provider_network.segmentation_id: nothing at {first}:3; 7 at {other}:18",
        f"site b, prefix 10.2.0.0/24: proxy_address 10.2.0.2 at {first}:11; nothing at {other}:11",
        f"site b, prefix 10.22.0.0/24, proxy_address: 10.22.0.2 at {first}:12; "
        f"10.22.0.3 at {other}:12",
        f"site b, uplink up2: nothing at {first}:13; port up2, address 192.0.2.9/24 at {other}:15",
        f"site c: nothing at {first}:2; prefixes: 1, uplinks: 1, "
        f"identity: {own_identity('c').identity.name} at {other}:4",
    ]


def test_uplinks_whose_tunnels_move_to_other_ports_are_named(files: tuple[Path, Path]) -> None:
    first, _ = files
    new = "      aaa: {port: x, address: 192.0.2.77/24}\n      up1:"
    other = first.read_text().replace("      up1:", new, 1)
    done = diff(first, "/dev/stdin", stdin=other)
    assert done.returncode == 1
    assert done.stderr.startswith("fedsdn: site a: the tunnels of up1 have other UDP ports")
    assert done.stderr.count("\n") == 1


def test_json_has_sites_fields_and_lines(files: tuple[Path, Path]) -> None:
    done = diff("--json", *files)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["first"], report["second"]) == tuple(map(str, files))
    name = own_identity("c").identity.name
    assert report["differences"][-1] == {
        "site": "c",
        "field": "",
        "first": {"text": "nothing", "line": 2},
        "second": {"text": f"prefixes: 1, uplinks: 1, identity: {name}", "line": 4},
    }
    assert "keeps-no-secrets" not in done.stdout


def test_other_words_for_the_same_are_no_difference(files: tuple[Path, Path]) -> None:
    done = diff(files[0], "/dev/stdin", stdin=with_identities(SAME))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_one_file_is_compared_with_the_running_sites(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    config = tmp_path / "fedsdn.conf"
    config.write_text(f"[fedsdn]\nsite = a\nfederation = {files[0]}\n")
    done = diff(files[1], "--config-file", config)
    assert done.returncode == 1
    assert done.stdout == diff(*files).stdout


@pytest.mark.parametrize("bad", ["sites: {}", None])
def test_a_file_that_cannot_be_read_is_one_line_and_exit_status_2(
    files: tuple[Path, Path], bad: str | None
) -> None:
    if bad is None:
        files[1].unlink()
    else:
        files[1].write_text(bad)
    done = diff(*files)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"fedsdn: {files[1]}")


def test_a_topology_is_compared_by_its_federation(tmp_path: Path) -> None:
    topology = Path(__file__).parents[2] / "topo" / "two-site.yaml"
    file = tmp_path / "federation.yaml"
    file.write_text(dump_federation(two_sites()))
    done = diff(topology, file)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "site a, identity",
        "site b, identity",
    ]


def test_identities_are_told_by_name_and_pairs_by_their_sites() -> None:
    one = replace(two_sites(), pairs=(PairEncryption(("a", "b"), "none"),))
    new = make("b").identity
    other = replace(_site_b(two_sites(), identities=(new,)), default_encryption="none")
    old = own_identity("b").identity
    found = differences(text(dump_federation(one)), text(dump_federation(other)))
    assert [
        (difference.name, difference.first.text, difference.second.text) for difference in found
    ] == [
        ("encryption", "tls", "none"),
        ("pairs", "a and b none", "nothing"),
        ("site b, identity", old.name, new.name),
    ]


CHANGES: dict[str, Callable[[Federation], Federation]] = {
    "port": lambda f: replace(f, proxy_port=1079),
    "interval": lambda f: replace(f, probes=Probes(interval=0.2)),
    "tunnels' port": lambda f: replace(f, datagrams_port=4500),
    "which path": lambda f: _site_b(f, prefer="latency"),
    "a site less": lambda f: replace(f, sites=f.sites[:2]),
    "a prefix less": lambda f: _site_b(f, prefixes=f.site("b").prefixes[:1]),
    "an uplink less": lambda f: _site_b(f, uplinks=f.site("b").uplinks[:1]),
    "bridge": lambda f: _site_b(
        f, provider_network=replace(f.site("b").provider_network, bridge="br-ex")
    ),
    "restore": lambda f: _site_b(f, source_restore="none"),
    "identity": lambda f: _site_b(f, identities=(make("b").identity,)),
    "a second identity": lambda f: _site_b(
        f, identities=(*f.site("b").identities, make("b").identity)
    ),
    "encryption": lambda f: replace(f, default_encryption="none"),
    "a pair": lambda f: replace(f, pairs=(PairEncryption(("a", "c"), "none"),)),
    "a group": lambda f: replace(f, groups=(Group("web", ("a", "b")),)),
    "no rule": lambda f: replace(f, allow=()),
    "a rule": lambda f: replace(f, allow=(Rule(("a",), ports=(range(80, 81),)),)),
}


def _site_b(federation: Federation, **change: Any) -> Federation:  # noqa: ANN401
    sites = (replace(site, **change) if site.name == "b" else site for site in federation.sites)
    return replace(federation, sites=tuple(sites))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_differs_has_another_digest(change: Callable[[Federation], Federation]) -> None:
    one, other = three_sites(), change(three_sites())
    assert differences(text(dump_federation(one)), text(dump_federation(other)))
    assert digest(one) != digest(other)


def test_uplinks_whose_tunnels_move_are_named_with_advice_that_fits(tmp_path: Path) -> None:
    many, few = tmp_path / "many.yaml", tmp_path / "few.yaml"
    many.write_text(dump_federation(with_an_uplink_that_sorts_first()))
    few.write_text(dump_federation(two_sites()))
    gone, come = diff(many, few).stderr, diff(few, many).stderr
    for said in (gone, come):
        assert said.startswith("fedsdn: site a: the tunnels of up1, up2 have other UDP ports")
    assert "comes last moves none" in come
    assert "comes last" not in gone
    for files in ((many, few), (few, many)):
        report = json.loads(diff("--json", *files).stdout)
        assert report["moved_tunnels"] == {"a": ["up1", "up2"]}


def test_another_port_moves_all_tunnels(tmp_path: Path) -> None:
    first, other = tmp_path / "first.yaml", tmp_path / "other.yaml"
    first.write_text(dump_federation(two_sites()))
    other.write_text(dump_federation(replace(two_sites(), datagrams_port=7000)))
    (line,) = diff(first, other).stderr.splitlines()
    assert line.startswith("fedsdn: all tunnels have other UDP ports")
    assert "datagrams.port" in line
    moved = json.loads(diff("--json", first, other).stdout)["moved_tunnels"]
    assert moved == {"a": ["up1", "up2"], "b": ["up1", "up2"]}


@given(st.randoms(use_true_random=False))
def test_order_is_no_difference(order: random.Random) -> None:
    one = three_sites()
    sites = [
        replace(
            site,
            prefixes=tuple(order.sample(site.prefixes, len(site.prefixes))),
            uplinks=tuple(order.sample(site.uplinks, len(site.uplinks))),
        )
        for site in order.sample(one.sites, len(one.sites))
    ]
    pairs = (PairEncryption(("a", "b"), "none"), PairEncryption(("a", "c"), "tls"))
    one = replace(one, pairs=pairs)
    swapped = [replace(pair, sites=pair.sites[::-1]) for pair in order.sample(pairs, len(pairs))]
    other = replace(one, sites=tuple(sites), pairs=tuple(swapped))
    assert not differences(text(dump_federation(one)), text(dump_federation(other)))
    assert digest(one) == digest(other)


RULES = """\
groups: {web: [b, 10.1.0.11]}
allow:
- {from: a, to: web, ports: [80, 443]}
- {from: b, protocol: udp}
"""
SAME_RULES = """\
allow:
- {from: b, protocol: udp}
- {from: [a, a], to: web, ports: [443, 80, 80], protocol: any}
groups: {web: [10.1.0.11, b]}
"""
OTHER_RULES = """\
groups: {web: [b], more: [a]}
allow:
- {from: a, to: web, ports: 80}
- {from: b, protocol: udp}
"""


def test_rules_differ_by_what_they_say() -> None:
    one, same, other, none = (
        text(with_identities(FIRST) + rules) for rules in (RULES, SAME_RULES, OTHER_RULES, "")
    )
    assert not differences(one, same)
    assert digest(one.federation) == digest(same.federation)
    found = differences(one, other)
    assert [(one.name, one.first.text, one.second.text) for one in found] == [
        ("group web", "10.1.0.11, b", "b"),
        ("group more", "nothing", "a"),
        ("rule 'from a to web, ports 80, 443'", "allowed", "nothing"),
        ("rule 'from a to web, port 80'", "nothing", "allowed"),
    ]
    begin = with_identities(FIRST).count("\n") + 1
    assert [(one.first.line, one.second.line) for one in found] == [
        (begin, begin),
        (begin, begin),
        (begin + 2, begin + 1),
        (begin + 1, begin + 2),
    ]
    assert [(one.name, one.first.text, one.second.text) for one in differences(one, none)] == [
        ("groups", "web 10.1.0.11, b", "nothing"),
        ("allow", "2 rules", "nothing"),
    ]
    (one_rule,) = differences(text(with_identities(FIRST) + "allow: [{from: a}]"), none)
    assert str(one_rule.first.text) == "1 rule"
