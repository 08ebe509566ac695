"""Open Virtual Network at a lab's site, whose host is central node and chassis in one.

The northbound entries are those that Neutron's ML2/OVN makes: for a provider network a logical
switch with a localnet port, for a VM a port with port security, for a security group a port group
with its ACLs (neutron/common/ovn/acl.py; ovn_client.py, ``create_provnet_port`` and
``_get_port_options``). ovn-controller makes the integration bridge, and joins it to the provider
bridge by a pair of patch ports for each network.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from fedsdn.config.model import Federation, Network, Site
from fedsdn.errors import FedsdnError
from fedsdn.lab.host import Host
from fedsdn.lab.switch import keep_host_out
from fedsdn.lab.topology import INTEGRATION_BRIDGE, LabSite, Vm

NORTHD = "ovn-northd"
CONTROLLER = "ovn-controller"

_PACKAGES = {NORTHD: "ovn-central", CONTROLLER: "ovn-host"}
_DIRECTORIES = ("OVN_RUNDIR=/run/ovn", "OVN_SYSCONFDIR=/run", "OVN_LOGDIR=/run/log")
_SCRIPT = "/usr/share/ovn/scripts/ovn-ctl"
_PHYSICAL_NETWORK = "physnet1"
_FIRST_UPLINK_VLAN = 4001
_SECONDS = "--timeout=60"
_DROP_GROUP = "neutron_pg_drop"
_ALLOW, _DROP = "1002", "1001"

_SEGMENT = "5"
"""All segments' identifiers begin with it, as those of one in 16 pairs do: OpenFlow tells 15 octets
of a port's name, which are ``patch-provnet-`` and this."""


@dataclass(frozen=True, slots=True)
class Port:
    """A VM's logical port: the Neutron port's identifier, and the VM's link-layer address."""

    vm: Vm
    mac: str

    @property
    def name(self) -> str:
        """Name of the logical port, and ``iface-id`` of the VM's interface."""
        return _identifier("port", self.vm.name)

    @property
    def addresses(self) -> str:
        """What the VM may send from, and is sent to."""
        return " ".join([self.mac, *(str(address.ip) for address in self.vm.addresses)])


@dataclass(frozen=True, slots=True)
class LogicalNetwork:
    """A provider network, flat without a ``vlan``, and its ports' security group.

    The group lets nothing come but from the networks ``clients``; without those, everything.
    """

    name: str
    vlan: int | None
    ports: tuple[Port, ...]
    clients: tuple[Network, ...] = ()

    @property
    def switch(self) -> str:
        """Name of the logical switch."""
        return f"neutron-{_identifier('network', self.name)}"

    @property
    def localnet(self) -> str:
        """Name of the switch's port to the physical network."""
        return f"provnet-{_SEGMENT}{_identifier('segment', self.name)[1:]}"

    @property
    def group(self) -> str:
        """Name of the security group's port group."""
        return f"pg_{_identifier('group', self.name).replace('-', '_')}"


def _identifier(kind: str, name: str) -> str:
    return str(uuid5(NAMESPACE_OID, f"{kind} {name}"))


def start(host: Host, federation: Federation, lab: LabSite, *, system: bool) -> None:
    """Start OVN on the host, with the site's networks, and plug the VMs in.

    Raises:
        FedsdnError: OVN is not installed, or does not start.

    """
    for command, package in _PACKAGES.items():
        if shutil.which(command) is None:
            raise FedsdnError(f"found no {command}: install it, apt-get install {package}")
    site = federation.site(lab.name)
    networks = _networks(host, federation, lab)
    _hand_over(host, site)
    control(host, "start_northd")
    host.run("ovn-nbctl", _SECONDS, *_joined(_entries(networks)))
    _be_chassis(host, site.provider_network.bridge, system=system)
    control(host, "start_controller")
    ports = [port for network in networks for port in network.ports]
    keep_host_out(host, [port.vm.name for port in ports])
    host.run("ovs-vsctl", _SECONDS, "wait-until", "Bridge", INTEGRATION_BRIDGE)
    host.run("ovs-vsctl", *_joined(_plugs(ports)))
    up = (["wait-until", "Logical_Switch_Port", port.name, "up=true"] for port in ports)
    host.run("ovn-nbctl", _SECONDS, *_joined(up))
    settle(host)


def control(host: Host, command: str) -> None:
    """Start or stop daemons with OVN's own script, as its units do: ``start_controller``.

    Raises:
        FedsdnError: the script fails.

    """
    host.run("env", *_DIRECTORIES, _SCRIPT, command)


def settle(host: Host) -> None:
    """Return when ovn-controller has made all that the northbound database says.

    Raises:
        FedsdnError: it does not.

    """
    host.run("ovn-nbctl", _SECONDS, "--wait=hv", "sync")


def _hand_over(host: Host, site: Site) -> None:
    """Have the provider bridge forward by itself, as OVN leaves it to it.

    Each uplink has a VLAN of its own, or two to the same neighbour were a loop.
    """
    tags = [
        ["set", "Port", uplink.port, f"tag={tag}"]
        for tag, uplink in enumerate(site.uplinks, _FIRST_UPLINK_VLAN)
    ]
    bridge = site.provider_network.bridge
    host.run("ovs-vsctl", *_joined([*tags, ["del-fail-mode", bridge]]))


def _networks(host: Host, federation: Federation, lab: LabSite) -> list[LogicalNetwork]:
    def ports(vms: Iterable[Vm]) -> tuple[Port, ...]:
        return tuple(
            Port(vm, host.run("cat", "/sys/class/net/eth0/address", vm=vm.name).strip())
            for vm in vms
        )

    peers = federation.peers(lab.name)
    clients = tuple(prefix.network for peer in peers for prefix in peer.prefixes)
    vlan = federation.site(lab.name).provider_network.segmentation_id
    others = (
        LogicalNetwork(network.name, network.segmentation_id, ports(network.vms))
        for network in lab.networks
    )
    return [LogicalNetwork("provider", vlan, ports(lab.vms), clients), *others]


def _entries(networks: Iterable[LogicalNetwork]) -> Iterator[list[str]]:
    """Commands of ovn-nbctl(8) for the northbound database."""
    every = list(networks)
    for network in every:
        yield from _switch_entries(network)
    yield ["set", "NB_Global", ".", "options:ignore_lsp_down=false"]
    yield ["pg-add", _DROP_GROUP, *(port.name for network in every for port in network.ports)]
    for direction, side in (("from-lport", "inport"), ("to-lport", "outport")):
        yield _acl(_DROP_GROUP, direction, _DROP, f"{side} == @{_DROP_GROUP} && ip", "drop")
    for network in every:
        yield from _group_entries(network)


def _switch_entries(network: LogicalNetwork) -> Iterator[list[str]]:
    switch, localnet = network.switch, network.localnet
    yield ["ls-add", switch]
    yield [
        *("set", "Logical_Switch", switch, "other_config:mcast_snoop=false"),
        *("other_config:mcast_flood_unregistered=false", "other_config:vlan-passthru=false"),
    ]
    yield ["lsp-add", switch, localnet]
    yield ["lsp-set-type", localnet, "localnet"]
    yield ["lsp-set-addresses", localnet, "unknown"]
    yield [
        *("lsp-set-options", localnet, f"network_name={_PHYSICAL_NETWORK}"),
        *("mcast_flood_reports=true", "mcast_flood=false"),
    ]
    if network.vlan is not None:
        yield ["set", "Logical_Switch_Port", localnet, f"tag={network.vlan}"]
    for port in network.ports:
        yield ["lsp-add", switch, port.name]
        yield ["lsp-set-addresses", port.name, port.addresses]
        yield ["lsp-set-port-security", port.name, port.addresses]


def _group_entries(network: LogicalNetwork) -> Iterator[list[str]]:
    group = network.group
    yield ["pg-add", group, *(port.name for port in network.ports)]
    for family in ("ip4", "ip6"):
        yield _acl(group, "from-lport", _ALLOW, f"inport == @{group} && {family}")
    comes = f"outport == @{group} &&"
    if not network.clients:
        for family in ("ip4", "ip6"):
            yield _acl(group, "to-lport", _ALLOW, f"{comes} {family}")
        return
    for client in network.clients:
        yield _acl(
            *(group, "to-lport", _ALLOW),
            f"{comes} ip{client.version} && ip{client.version}.src == {client} && ip",
        )


def _acl(
    group: str, direction: str, priority: str, match: str, action: str = "allow-related"
) -> list[str]:
    return ["--type=port-group", "acl-add", group, direction, priority, match, action]


def _be_chassis(host: Host, bridge: str, *, system: bool) -> None:
    said = {
        "system-id": host.name,
        "hostname": host.name,
        "ovn-remote": "unix:/run/ovn/ovnsb_db.sock",
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": "127.0.0.1",
        "ovn-bridge-mappings": f"{_PHYSICAL_NETWORK}:{bridge}",
        "ovn-bridge-datapath-type": "system" if system else "netdev",
    }
    columns = (f"external_ids:{key}={value}" for key, value in said.items())
    host.run("ovs-vsctl", "set", "Open_vSwitch", ".", *columns)


def _plugs(ports: Iterable[Port]) -> Iterator[list[str]]:
    """Commands of ovs-vsctl(8), as Nova gives them (os-vif, ``create_ovs_vif_port``)."""
    for port in ports:
        yield ["add-port", INTEGRATION_BRIDGE, port.vm.name]
        yield [
            *("set", "Interface", port.vm.name, f"external_ids:iface-id={port.name}"),
            *("external_ids:iface-status=active", f'external_ids:attached-mac="{port.mac}"'),
        ]


def _joined(commands: Iterable[list[str]]) -> Iterator[str]:
    for command in commands:
        yield "--"
        yield from command
