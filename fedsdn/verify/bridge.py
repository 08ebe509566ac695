"""Tests of a site's provider bridge: its ports, its application, its flows."""

from __future__ import annotations

from collections.abc import Iterable

from fedsdn.openflow.bridge_socket import LIST_CONNECTIONS, is_connected
from fedsdn.ovs.comparison import Fault, Finding, compare, summary
from fedsdn.ovs.daemon import switch_version
from fedsdn.ovs.database import read_bridge, read_bridges
from fedsdn.ovs.flows import compared_flows
from fedsdn.ovs.local_vlans import ambiguity
from fedsdn.ovs.wanted import wanted_flows
from fedsdn.pipeline.declarations import ROUTER_PORT, SERVER_PORT, SOCKSIFIER_PORT, wan_port
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.view import SiteView

_OF_OTHERS = frozenset({Fault.FOREIGN, Fault.SHADOWED})
"""What no restart of the application mends."""


def switch(view: SiteView) -> str:
    """Ask ovs-vswitchd for its version."""
    return switch_version(view.shell)


def bridge(view: SiteView) -> str:
    """Find the provider bridge."""
    return read_bridge(view.shell, view.bridge).name


def ports(view: SiteView) -> str:
    """Find the uplinks' ports and ours, none with an error, and all tenants' to be understood."""
    bridges = read_bridges(view.shell, view.bridge)
    present = bridges[view.bridge].ports
    for uplink in view.site.uplinks:
        if uplink.port not in present:
            raise CheckFailedError(
                f"{view.bridge} has no port {uplink.port!r} for uplink {uplink.name}",
                view.shell.by_hand(f"ovs-vsctl add-port {view.bridge} {uplink.port}"),
            )
    ours = {SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT, *map(wan_port, view.site.uplinks)}
    if absent := sorted(ours - present.keys()):
        raise CheckFailedError(f"{view.bridge} has no port {', '.join(absent)}", view.set_up)
    broken = [
        f"{name}: {port.interface.error}" for name, port in present.items() if port.interface.error
    ]
    if broken:
        raise CheckFailedError("; ".join(broken), view.set_up)
    if doubt := ambiguity(view.site, bridges):
        raise CheckFailedError(*doubt)
    return f"{len(present) - (view.bridge in present)} ports"


def carrier(view: SiteView) -> str:
    """See that every uplink's port has link."""
    present = read_bridge(view.shell, view.bridge).ports
    down = [
        f"{uplink.name} ({uplink.port}) is {present[uplink.port].interface.link_state}"
        for uplink in view.site.uplinks
        if present[uplink.port].interface.link_state != "up"
    ]
    if down:
        raise CheckFailedError(
            "uplink " + ", ".join(down), "plug the wire in (in a lab: fedsdn lab link WIRE up)"
        )
    return ", ".join(sorted(uplink.name for uplink in view.site.uplinks))


def application(view: SiteView) -> str:
    """See that the application is connected to the bridge."""
    if not is_connected(view.shell.output(*LIST_CONNECTIONS), view.bridge):
        raise CheckFailedError(
            f"the application is not connected to {view.bridge}", view.start_application
        )
    return view.bridge


def flows(view: SiteView) -> str:
    """Compare the bridge's flows with the pipeline's."""
    wanted = wanted_flows(view.shell, view.federation, view.name)
    findings = compare(wanted, compared_flows(view.shell, view.bridge))
    if findings:
        raise CheckFailedError(
            f"{len(wanted)} wanted: {summary(findings)}", _flows_fix(view, findings)
        )
    return f"{len(wanted)} of {len(wanted)}"


def _flows_fix(view: SiteView, findings: Iterable[Finding]) -> str:
    look = view.shell.by_hand(" ".join(("fedsdn flows diff", *view.options)))
    if all(finding.fault in _OF_OTHERS for finding in findings):
        return f"{look}: these are somebody else's, to be removed by whoever made them"
    return f"{look}; (re)start the application: {view.start_application}"
