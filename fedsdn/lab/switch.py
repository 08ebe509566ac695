"""A host's own Open vSwitch and its provider bridge, as an operator or Neutron sets them up."""

from __future__ import annotations

from collections.abc import Iterable

from pyroute2 import GenericNetlinkSocket
from pyroute2.netlink import genlmsg
from pyroute2.netlink.exceptions import NetlinkError

from fedsdn.config.model import Site
from fedsdn.lab import queues
from fedsdn.lab.commands import Commands
from fedsdn.lab.host import Host
from fedsdn.lab.topology import TRUNK, LabSite
from fedsdn.lab.wait import wait_until

OVSDB = "ovsdb-server"
VSWITCHD = "ovs-vswitchd"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_DIRECTORY = "/run/openvswitch"
_DATABASE = f"{_DIRECTORY}/conf.db"
_END_SECONDS = 60.0
_PRIORITY = -10
"""As ovs-ctl(8) starts it. A datapath in userspace that has to wait drops frames (``queues``)."""
_NO_ARP_REPLY = 8
"""Do not answer for any local address (Linux ip-sysctl, arp_ignore)."""


def kernel_datapath() -> bool:
    """Whether this kernel has Open vSwitch's datapath; asking loads the module where there is one.

    Source: the generic netlink family that ``openvswitch.h`` of the kernel's UAPI names.
    """
    with GenericNetlinkSocket() as netlink:
        try:
            netlink.bind("ovs_datapath", genlmsg)
        except NetlinkError:
            return False
    return True


def start_switch(host: Host, *, system: bool) -> None:
    """Start ovsdb-server and ovs-vswitchd on the host.

    Raises:
        FedsdnError: one of them does not start.

    """
    host.run("mkdir", _DIRECTORY)
    host.run("ovsdb-tool", "create", _DATABASE, SCHEMA)
    start_database(host)
    host.run("ovs-vsctl", "--no-wait", "init")
    if not system:
        # Only with it does the userspace datapath take the VMs' unfinished checksums and
        # super-frames, and it is read once, at the start.
        host.run(
            "ovs-vsctl", "--no-wait", "set", "Open_vSwitch", ".",
            "other_config:userspace-tso-enable=true",
        )  # fmt: skip
    start_vswitchd(host)


def start_database(host: Host) -> None:
    """Start ovsdb-server with the database that is there.

    Raises:
        FedsdnError: it does not start.

    """
    _start(host, (OVSDB, _DATABASE, f"--remote=punix:{_DIRECTORY}/db.sock"))


def start_vswitchd(host: Host) -> None:
    """Start ovs-vswitchd; its database runs.

    Raises:
        FedsdnError: it does not start.

    """
    _start(host, (VSWITCHD,), priority=_PRIORITY)
    queues.widen(host)


def kill_vswitchd(host: Host) -> None:
    """Kill ovs-vswitchd.

    Raises:
        FedsdnError: it does not run, or does not end.

    """
    daemon = host.daemon(VSWITCHD)
    daemon.signal("KILL")
    wait_until(lambda: not daemon.alive(), _END_SECONDS, lambda: f"{VSWITCHD} does not end")


def _start(host: Host, command: tuple[str, ...], priority: int = 0) -> None:
    """Start one of Open vSwitch's daemons in its own way: the command returns when it is ready."""
    options = ("--no-chdir", "--detach", "--pidfile", "-vconsole:off")
    log = f"--log-file=/run/log/{command[0]}.log"
    host.run("nice", f"--adjustment={priority}", *command, *options, log)


def make_bridge(host: Commands, site: Site, lab: LabSite, *, system: bool) -> None:
    """Make the provider bridge with the uplinks' and the VMs' ports and the gateways on LOCAL.

    The uplinks' and the physical network's are trunks, all others access ports of their network.
    VMs of an integration bridge get no port here. What is there already stays.

    Raises:
        FedsdnError: a port cannot be made.

    """
    network = site.provider_network
    tenant_tag = network.segmentation_id or 0
    datapath = "system" if system else "netdev"
    bridge = network.bridge
    command = [
        "--may-exist", "add-br", bridge, "--", "set", "bridge", bridge,
        f"datapath_type={datapath}", "fail_mode=secure", "protocols=OpenFlow10,OpenFlow13",
        "--", "set", "port", bridge, f"tag={tenant_tag}",
    ]  # fmt: skip
    tags: dict[str, int | None] = dict.fromkeys(uplink.port for uplink in site.uplinks)
    tags |= _machine_tags(lab, tenant_tag)
    for port, tag in tags.items():
        command += ["--", "--may-exist", "add-port", bridge, port]
        command += [] if tag is None else [f"tag={tag}"]
    host.run("ovs-vsctl", *command)
    keep_host_out(host, tags)
    host.run("ip", "-batch", "-", stdin=_gateways(bridge, lab))


def _machine_tags(lab: LabSite, tenant_tag: int) -> dict[str, int | None]:
    """Return the VLAN of each machine's port on the provider bridge, None of a trunk's."""
    tags: dict[str, int | None] = {}
    if lab.integration is None:
        tags |= dict.fromkeys((vm.name for vm in lab.vms), tenant_tag)
    for network in lab.networks:
        others = () if lab.integration else network.vms
        names = (vm.name for vm in (network.gateway, *others))
        tags |= dict.fromkeys(names, network.segmentation_id or 0)
    return tags | ({TRUNK: None} if lab.networks else {})


def keep_host_out(host: Commands, ports: Iterable[str]) -> None:
    """Keep the host's IP stack off a bridge's ports.

    The userspace datapath reads copies of the frames: without this the host would answer an ARP
    request for LOCAL's address a second time, from the port it came in by.
    """
    settings = []
    for port in ports:
        settings.append(f"echo {_NO_ARP_REPLY} >/proc/sys/net/ipv4/conf/{port}/arp_ignore")
        settings.append(f"echo 1 >/proc/sys/net/ipv6/conf/{port}/disable_ipv6")
    host.run("sh", "-e", "-c", "\n".join(settings))


def _gateways(bridge: str, lab: LabSite) -> str:
    lines = [f"link set {bridge} up"]
    for gateway in lab.gateways:
        nodad = " nodad" if gateway.version == 6 else ""
        lines.append(f"address replace {gateway} dev {bridge}{nodad}")
    return "\n".join(lines)
