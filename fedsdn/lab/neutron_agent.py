"""Neutron's real Open vSwitch agent, with a stand-in for Neutron's server.

``PYTHON -P neutron_agent.py PORTS --config-file CONFIGURATION``, with the Python that has neutron
installed: nothing of fedsdn is imported here. PORTS is a file with what the server knows of the
host's ports: ``[{id, network, segmentation_id, physical_network, mac, addresses, sources}, …]``. It
is read again for each question. ``sources`` are the networks whose packets the security group lets
in.

Replaced are the classes by which the agent asks the server (``OVSPluginApi``, ``dvr_rpc``,
``PluginReportStateAPI`` and ``SecurityGroupServerAPIShim`` of neutron 29.0.0), and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neutron import privileged
from neutron.agent import rpc as agent_rpc
from neutron.api.rpc.handlers import dvr_rpc
from neutron.plugins.ml2.drivers.openvswitch.agent import main as agent
from neutron.plugins.ml2.drivers.openvswitch.agent import ovs_neutron_agent

Port = dict[str, Any]

_HERE, _ELSEWHERE = "fa:16:3f:00:00:01", "fa:16:3f:00:00:02"
"""Link-layer addresses of distributed routers at this host and at another."""


class Server:
    """What Neutron's server knows."""

    def __init__(self, file: Path) -> None:
        """Name the file."""
        self._file = file

    def ports(self) -> dict[str, Port]:
        """Return the ports by identifier."""
        return {port["id"]: port for port in json.loads(self._file.read_text())}


def _rules(port: Port) -> list[dict[str, str]]:
    families = {source: "IPv6" if ":" in source else "IPv4" for source in port["sources"]}
    out = [{"direction": "egress", "ethertype": family} for family in ("IPv4", "IPv6")]
    into = [
        {"direction": "ingress", "ethertype": family, "source_ip_prefix": source}
        for source, family in families.items()
    ]
    return [{**rule, "security_group_id": port["network"]} for rule in (*out, *into)]


def _details(port: Port) -> dict[str, Any]:
    vlan = port["segmentation_id"]
    return {
        "device": port["id"],
        "port_id": port["id"],
        "device_id": f"vm-{port['id']}",
        "device_owner": "compute:nova",
        "network_id": port["network"],
        "network_type": "flat" if vlan is None else "vlan",
        "segmentation_id": vlan,
        "physical_network": port["physical_network"],
        "mac_address": port["mac"],
        "fixed_ips": [
            {"subnet_id": port["network"], "ip_address": address} for address in port["addresses"]
        ],
        "allowed_address_pairs": [],
        "port_security_enabled": True,
        "security_groups": [port["network"]],
        "admin_state_up": True,
        "status": "ACTIVE",
        "vif_type": "ovs",
        "vnic_type": "normal",
        "profile": {},
        "qos_policy_id": None,
        "network_qos_policy_id": None,
        "migrating_to": None,
        "hints": None,
    }


class _Cache:
    """Has no resources: all is asked for."""

    def get_resource_by_id(self, *_: object, **__: object) -> None:
        return None

    def get_resources(self, *_: object, **__: object) -> list[Any]:
        return []


class Plugin:
    """Stands in for ``OVSPluginApi``."""

    server: Server
    remote_resource_cache = _Cache()

    def __init__(self, *_: object, **__: object) -> None:
        """Take what the agent says of topics."""

    def register_legacy_notification_callbacks(self, _: object) -> None:
        """Send no notifications."""

    def get_devices_details_list_and_failed_devices(
        self, _context: object, devices: Iterable[str], *_: object, **__: object
    ) -> dict[str, Any]:
        """Tell of ports; of those that are unknown only that."""
        known = self.server.ports()
        found = [_details(known[one]) if one in known else {"device": one} for one in devices]
        return {"devices": found, "failed_devices": []}

    def update_device_list(
        self, _context: object, up: list[str], down: list[str], *_: object, **__: object
    ) -> dict[str, Any]:
        """Note which ports are up."""
        return {
            "devices_up": up,
            "devices_down": down,
            "failed_devices_up": [],
            "failed_devices_down": [],
        }

    def update_device_down(self, *_: object, **__: object) -> dict[str, Any]:
        """Note that a port is down."""
        return {"exists": True}

    def stop(self) -> None:
        """Leave."""


class SecurityGroups:
    """Stands in for ``SecurityGroupServerAPIShim``."""

    server: Server

    def __init__(self, *_: object, **__: object) -> None:
        """Take the cache."""

    def register_legacy_sg_notification_callbacks(self, _: object) -> None:
        """Send no notifications."""

    def security_group_info_for_devices(
        self, _context: object, devices: Iterable[str]
    ) -> dict[str, Any]:
        """Tell ports' groups, one for each network, and their rules."""
        known = self.server.ports()
        asked = {one: known[one] for one in devices if one in known}
        return {
            "devices": {
                one: {
                    **_details(port),
                    "id": one,
                    "fixed_ips": port["addresses"],
                    "security_group_source_groups": [],
                    "security_group_remote_groups": [],
                    "security_group_rules": [],
                }
                for one, port in asked.items()
            },
            "security_groups": {port["network"]: _rules(port) for port in asked.values()},
            "sg_member_ips": {},
        }


class State:
    """Stands in for ``PluginReportStateAPI``."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take the topic."""

    def has_alive_neutron_server(self, *_: object, **__: object) -> bool:
        """Say that there is a server."""
        return True

    def report_state(self, *_: object, **__: object) -> str:
        """Take a report."""
        return "alive"


class Routers:
    """Stands in for ``DVRServerRpcApi``: hosts have addresses, and no network a router."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take the topic."""

    def get_dvr_mac_address_by_host(self, _context: object, host: str) -> dict[str, str]:
        """Tell this host's."""
        return {"host": host, "mac_address": _HERE}

    def get_dvr_mac_address_list(self, _context: object) -> list[dict[str, str]]:
        """Tell all hosts'."""
        return [
            {"host": "here", "mac_address": _HERE},
            {"host": "elsewhere", "mac_address": _ELSEWHERE},
        ]

    def get_ports_on_host_by_subnet(self, *_: object, **__: object) -> list[Any]:
        """Tell none."""
        return []

    def get_ports(self, *_: object, **__: object) -> list[Any]:
        """Tell none."""
        return []

    def get_subnet_for_dvr(self, *_: object, **__: object) -> dict[str, Any]:
        """Tell none."""
        return {}


def main() -> None:
    """Run the agent until it is told to stop."""
    ports, *arguments = sys.argv[1:]
    Plugin.server = SecurityGroups.server = Server(Path(ports))
    sys.argv = ["neutron-openvswitch-agent", *arguments]
    for context in vars(privileged).values():
        if hasattr(context, "set_client_mode"):
            context.set_client_mode(False)  # this process is root: no helper
    ovs_neutron_agent.OVSPluginApi = Plugin
    ovs_neutron_agent.sg_rpc.SecurityGroupServerAPIShim = SecurityGroups
    agent_rpc.PluginReportStateAPI = State
    dvr_rpc.DVRServerRpcApi = Routers
    agent.main()


if __name__ == "__main__":
    main()
