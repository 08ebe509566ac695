"""The VMs of a lab: network namespaces of their site's host, each with one interface, eth0."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from fedsdn.config.model import Interface
from fedsdn.lab.commands import Commands
from fedsdn.lab.topology import LabSite, Vm

_NO_AUTOCONFIGURATION = """
for interface in all default; do
    echo 0 >/proc/sys/net/ipv6/conf/$interface/accept_dad
    echo 0 >/proc/sys/net/ipv6/conf/$interface/accept_ra
done
"""
"""Addresses are usable at once, and nobody else gives out more."""


def make_vms(host: Commands, site: LabSite) -> None:
    """Make the VMs that are missing; the host's end of VM x's cable is the interface x.

    Raises:
        FedsdnError: one cannot be made.

    """
    present = {line.split()[0] for line in host.run("ip", "netns", "list").splitlines()}
    for vm, gateways in site.machines:
        if vm.name in present:
            continue
        host.run("ip", "netns", "add", vm.name)
        host.run("sh", "-e", "-c", _NO_AUTOCONFIGURATION, vm=vm.name)
        host.run("ip", "-batch", "-", stdin=_cable(vm))
        # The userspace datapath knows super-frames of TCP, and drops those of UDP.
        host.run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off", vm=vm.name)
        host.run("ip", "-netns", vm.name, "-batch", "-", stdin=_interface(vm, gateways))


def _cable(vm: Vm) -> str:
    return (
        f"link add {vm.name} type veth peer name eth0 netns {vm.name}\n"
        f"link set {vm.name} up\n"
    )  # fmt: skip


def _interface(vm: Vm, gateways: Sequence[Interface]) -> str:
    lines = ["link set lo up", "link set eth0 up"]
    lines += [f"address add {address} dev eth0" for address in vm.addresses]
    families = {address.version for address in vm.addresses}
    for family in sorted(families):
        networks = {address.network for address in vm.addresses if address.version == family}
        found = (gateway for gateway in gateways if gateway.network in networks)
        lines += [f"route add default via {gateway.ip}" for gateway in islice(found, 1)]
    return "\n".join(lines)
