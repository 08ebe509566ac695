"""fedsdn topology, as an operator runs it: a process of its own, its output not a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from fedsdn.config.loader import dump_federation
from fedsdn.config.model import Federation, Prefix, ProviderNetwork, Site, Uplink
from tests.unit.federations import own_identity, two_sites

TWO_SITE = Path(__file__).parents[2] / "topo" / "two-site.yaml"
LOSSES = """\
loss of a/up1 and a/up2 cuts off a from b
loss of a/up1 and b/up2 cuts off a from b
loss of a/up2 and b/up1 cuts off a from b
loss of b/up1 and b/up2 cuts off a from b
cut sites off: 0 of 4 losses of one uplink, 4 of 6 losses of two
"""


def many_sites(count: int) -> Federation:
    """Sites on two wires that join them all."""
    bridge = ProviderNetwork("br-provider")
    return Federation(
        tuple(
            Site(
                f"s{number}",
                bridge,
                (Prefix(ip_network(f"10.{number}.0.0/24"), ip_address(f"10.{number}.0.2")),),
                tuple(
                    Uplink(
                        f"up{wire}", f"up{wire}", ip_interface(f"192.168.{wire}.{number + 1}/24")
                    )
                    for wire in (1, 2)
                ),
                identities=(own_identity(f"s{number}").identity,),
            )
            for number in range(count)
        ),
        1080,
    )


def fedsdn(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedsdn.cli.main", "topology", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"COLUMNS": "40", "LANG": "C.UTF-8"},
    )


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    path = tmp_path / "federation.yaml"
    path.write_text(dump_federation(two_sites()))
    return path


@pytest.fixture
def config(tmp_path: Path, federation: Path) -> Path:
    path = tmp_path / "fedsdn.conf"
    path.write_text(f"[fedsdn]\nsite = a\nfederation = {federation}\n")
    return path


def test_show_prints_whole_values_in_columns() -> None:
    result = fedsdn("show", TWO_SITE)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "SOCKS servers on TCP port 1080; 2 sites, 4 prefixes, 4 uplinks, 2 paths\n"
        "Sites\n"
        "  site  bridge       provider network  table-miss flow\n"
        "  a     br-provider  flat              normal\n"
        "  b     br-provider  flat              normal\n"
        "Prefixes\n"
        "  site  prefix       proxy address\n"
        "  a     10.1.0.0/24  10.1.0.2\n"
        "  a     fd00:1::/64  fd00:1::2\n"
        "  b     10.2.0.0/24  10.2.0.2\n"
        "  b     fd00:2::/64  fd00:2::2\n"
        "Uplinks\n"
        "  uplink  port  address           gateway  public address\n"
        "  a/up1   up1   192.0.2.1/24      -        -\n"
        "  a/up2   up2   2001:db8:2::1/64  -        -\n"
        "  b/up1   up1   192.0.2.2/24      -        -\n"
        "  b/up2   up2   2001:db8:2::2/64  -        -\n"
        "Paths\n"
        "  from   to\n"
        "  a/up1  b/up1\n"
        "  a/up2  b/up2\n"
    )


def test_show_json_has_the_file_and_the_paths(federation: Path) -> None:
    shown = json.loads(fedsdn("show", federation, "--json").stdout)
    assert shown["sites"]["b"]["uplinks"]["up2"] == {"port": "up2", "address": "2001:db8:2::2/64"}
    assert shown["paths"] == [
        {"sites": ["a", "b"], "uplinks": ["a/up1", "b/up1"]},
        {"sites": ["a", "b"], "uplinks": ["a/up2", "b/up2"]},
    ]


def test_check_says_what_losses_cut_off(federation: Path) -> None:
    result = fedsdn("check", federation)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        f"{federation}: good: 2 sites, 4 prefixes, 4 uplinks, 2 paths\n{LOSSES}"
    )


def test_check_json_has_every_loss_that_cuts() -> None:
    report = json.loads(fedsdn("check", TWO_SITE, "--json").stdout)
    assert report["one"] == {"losses": 4, "cut_off": 0}
    assert report["two"] == {"losses": 6, "cut_off": 4}
    assert report["losses"][0] == {
        "uplinks": ["a/up1", "a/up2"],
        "cut_off": [["a", "b"]],
        "alone": [],
    }
    assert (len(report["losses"]), report["truncated"]) == (4, False)


def test_check_of_many_sites_says_the_first_losses_and_counts_all(tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text(dump_federation(many_sites(60)))
    text = fedsdn("check", path).stdout.splitlines()
    assert text[1] == "loss of s0/up1 and s0/up2 cuts off s0 from 59 other sites"
    assert text[2] == "loss of s0/up1 and s1/up2 cuts off s0 from s1"
    assert len([line for line in text if line.startswith("loss of ")]) == 20
    assert text[-1] == ("cut sites off: 0 of 120 losses of one uplink, 3600 of 7140 losses of two")
    report = json.loads(fedsdn("check", path, "--json").stdout)
    assert (len(report["losses"]), report["two"]["cut_off"]) == (20, 3600)
    assert report["truncated"]
    every = fedsdn("check", path, "--all").stdout.splitlines()
    assert len([line for line in every if line.startswith("loss of ")]) == 3600


@pytest.mark.parametrize(("sites", "more"), [(20, False), (21, True)])
def test_check_says_that_there_is_more_if_there_is(
    tmp_path: Path, sites: int, *, more: bool
) -> None:
    """On one wire the loss of each uplink cuts its site off."""
    many = many_sites(sites)
    on_one_wire = tuple(replace(site, uplinks=site.uplinks[:1]) for site in many.sites)
    path = tmp_path / "federation.yaml"
    path.write_text(dump_federation(replace(many, sites=on_one_wire)))
    assert ("these are the first 20" in fedsdn("check", path).stdout) is more
    assert json.loads(fedsdn("check", path, "--json").stdout)["truncated"] is more


def test_the_config_file_names_the_federation(config: Path, federation: Path) -> None:
    result = fedsdn("check", "--config-file", config)
    assert result.stdout.startswith(f"{federation}: good: ")


def test_config_file_with_a_site_the_federation_lacks(config: Path) -> None:
    config.write_text(config.read_text().replace("site = a", "site = x"))
    result = fedsdn("check", "--config-file", config)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "fedsdn: unknown site 'x': write one that the federation file has: a, b\n"
    )


@pytest.mark.parametrize("command", ["show", "check"])
def test_bad_file_is_one_line_and_exit_status_1(command: str, federation: Path) -> None:
    federation.write_text(federation.read_text().replace("192.0.2.1/24", "192.0.2.0/24"))
    result = fedsdn(command, federation, "--json")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"fedsdn: {federation}:27: sites.a.uplinks.up1.address: found '192.0.2.0/24', "
        "the network address of '192.0.2.0/24'; write a host's address in '192.0.2.0/24'\n"
    )


def test_bad_lab_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(TWO_SITE.read_text().replace("ends: [a/up1, b/up1]", "ends: [a/up1, b/up3]"))
    result = fedsdn("check", path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"fedsdn: {path}:27: lab.wires.wire1.ends[1]: found 'b/up3'")
