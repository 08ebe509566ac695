from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedsdn.config.document import ConfigError
from fedsdn.lab.topology import load_topology
from fedsdn.lab.wire import Quality

TOPOLOGIES = Path(__file__).parents[2] / "topo"
TWO_SITE = TOPOLOGIES / "two-site.yaml"


@pytest.mark.parametrize("file", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_topology_loads(file: Path) -> None:
    topology = load_topology(file)
    ends = [end.name for wire in topology.wires for end in wire.ends]
    uplinks = [f"{s.name}/{u.name}" for s in topology.federation.sites for u in s.uplinks]
    assert sorted(ends) == sorted(uplinks)


def test_two_site() -> None:
    topology = load_topology(TWO_SITE)
    assert [wire.name for wire in topology.wires] == ["wire1", "wire2"]
    assert [end.name for end in topology.wires[0].ends] == ["a/up1", "b/up1"]
    assert topology.wires[0].quality == Quality(15, 100, loss_percent=0, queue_ms=80)
    site = topology.sites[0]
    assert site.gateways == (ip_interface("10.1.0.1/24"), ip_interface("fd00:1::1/64"))
    assert site.vms[1].name == "vm2"
    assert site.vms[1].addresses == (ip_interface("10.1.0.12/24"), ip_interface("fd00:1::12/64"))


def test_others_networks_have_machines_of_their_own() -> None:
    site = load_topology(TOPOLOGIES / "neutron.yaml").sites[0]
    assert site.integration == "neutron"
    machines = {vm.name: [str(one) for one in gateways] for vm, gateways in site.machines}
    assert machines["red1"] == ["10.1.0.1/24", "fd00:1::1/64", "10.2.0.11/32", "fd00:2::11/128"]
    assert machines["red-gw"] == machines["trunk"] == []
    assert [vm.name for vm in site.vms] == ["vm1", "vm2"], "the federated ones"


Change = Callable[[dict[str, Any]], None]


def wires(name: str, **values: object) -> Change:
    return lambda lab: lab["wires"].setdefault(name, {}).update(values)


def site_a(**values: object) -> Change:
    return lambda lab: lab["sites"]["a"].update(values)


def gone(section: str, name: str) -> Change:
    return lambda lab: lab[section].pop(name)


def new_site(lab: dict[str, Any]) -> None:
    lab["sites"]["c"] = lab["sites"]["a"]


def network(name: str = "blue", **values: object) -> Change:
    """Add one to site a's lab, with one gateway and one VM of its own but for ``values``."""
    whole = {"gateways": ["10.1.0.1/24"], "vms": {"blue1": ["10.1.0.11/24"]}} | values
    return site_a(networks={name: whole})


BAD = {
    "integration by nobody we know": (
        site_a(integration="nova"),
        "lab.sites.a.integration: found 'nova'; write whose integration bridge the VMs are on",
    ),
    "network's VM without gateway": (
        network(vms={"blue1": ["10.3.0.11/24"]}),
        "lab.sites.a.networks.blue.vms.blue1: found an address in 10.3.0.0/24, which has no "
        "gateway; write one in a gateway's",
    ),
    "network's VM with the name of a federated one": (
        network(vms={"vm1": ["10.1.0.11/24"]}),
        "lab.sites.a.networks.blue.vms.vm1: found the VM name 'vm1', a port's or namespace's name",
    ),
    "network's VM without a length": (
        network(vms={"blue1": ["10.1.0.11"]}),
        "lab.sites.a.networks.blue.vms.blue1[0]: found '10.1.0.11', which has no length",
    ),
    "end of no uplink": (
        wires("wire1", ends=["a/up9", "b/up1"]),
        "lab.wires.wire1.ends[0]: found 'a/up9', which is no uplink or already has a wire; "
        "write an uplink without a wire: a/up1, a/up2, b/up1, b/up2",
    ),
    "uplink on two wires": (
        wires("wire3", ends=["a/up1", "b/up1"], delay_ms=1, rate_mbit=1),
        "lab.wires.wire3.ends[0]: found 'a/up1', which is no uplink or already has a wire; "
        "write an uplink without a wire: none",
    ),
    "uplink without wire": (
        gone("wires", "wire2"),
        "lab.wires: found no wire at a/up2; write a wire with 'a/up2' among its ends",
    ),
    "wire within a site": (
        wires("wire1", ends=["a/up1", "a/up2"]),
        "lab.wires.wire1.ends: found both ends at site a; write uplinks of two sites",
    ),
    "ends of two families": (
        wires("wire1", ends=["a/up1", "b/up2"]),
        "lab.wires.wire1.ends: found a/up1 (192.0.2.1/24) and b/up2 (2001:db8:2::2/64), which do "
        "not reach each other; write uplinks of one network",
    ),
    "site missing": (
        gone("sites", "b"),
        "lab.sites: found no site b; write 'b:' with its gateways and vms",
    ),
    "site too many": (
        new_site,
        "lab.sites.c: found a site the federation does not have; write a or b",
    ),
    "VM outside the prefixes": (
        site_a(vms={"vm1": ["10.9.0.11"]}),
        "lab.sites.a.vms.vm1[0]: found 10.9.0.11, outside site a's prefixes; "
        "write one of 10.1.0.0/24 or fd00:1::/64",
    ),
    "VM address that is none": (
        site_a(vms={"vm1": ["10.1.0.256"]}),
        "lab.sites.a.vms.vm1[0]: found '10.1.0.256'; write an IPv4 or IPv6 address",
    ),
    "VMs with one address": (
        site_a(vms={"vm1": ["10.1.0.11"], "vm2": ["10.1.0.11"]}),
        "lab.sites.a.vms.vm2[0]: found 10.1.0.11, which is already VM vm1's at site a",
    ),
    "VM with the gateway's address": (
        site_a(vms={"vm1": ["10.1.0.1"]}),
        "found 10.1.0.1, which is already a gateway's at site a; write another address",
    ),
    "VM with the proxy's address": (
        site_a(vms={"vm1": ["10.1.0.2"]}),
        "found 10.1.0.2, which is already the proxy address's at site a; write another address",
    ),
    "VM named as an uplink's port": (
        site_a(vms={"up1": ["10.1.0.11"]}),
        "lab.sites.a.vms.up1: found the VM name 'up1', a port's or namespace's name",
    ),
    "VM named as the proxy's namespace": (
        site_a(vms={"fedsdn": ["10.1.0.11"]}),
        "lab.sites.a.vms.fedsdn: found the VM name 'fedsdn', a port's or namespace's name",
    ),
    "VM named as a proxy's port": (
        site_a(vms={"wan-up1": ["10.1.0.11"]}),
        "lab.sites.a.vms.wan-up1: found the VM name 'wan-up1', a port's or namespace's name",
    ),
    "VM name too long": (
        site_a(vms={"a-very-long-name": ["10.1.0.11"]}),
        "lab.sites.a.vms.a-very-long-name: found the name 'a-very-long-name'; "
        "write a name of 1 to 15 letters",
    ),
    "prefix without gateway": (
        site_a(gateways=["10.1.0.1"]),
        "lab.sites.a.gateways: found 0 gateways in fd00:1::/64; write one of each prefix",
    ),
    "prefix with two gateways": (
        site_a(gateways=["10.1.0.1", "10.1.0.3", "fd00:1::1"]),
        "lab.sites.a.gateways: found 2 gateways in 10.1.0.0/24; write one of each prefix",
    ),
    "rate 0": (wires("wire1", rate_mbit=0), "lab.wires.wire1.rate_mbit: found the number 0"),
    "loss of more than all": (
        wires("wire1", loss_percent=101),
        "lab.wires.wire1.loss_percent: found the number 101; write the part",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_bad_lab_is_one_line_that_says_where(
    change: Change, message: str, tmp_path: Path
) -> None:
    document = yaml.safe_load(TWO_SITE.read_text())
    change(document["lab"])
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(ConfigError) as error:
        load_topology(file)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{file}:")
    assert "\n" not in str(error.value)
