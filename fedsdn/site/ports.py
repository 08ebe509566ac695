"""The site's ports on its bridge, through ovs-vsctl. Each change is one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fedsdn.errors import FedsdnError
from fedsdn.ovs.commands import run
from fedsdn.ovs.daemon import switch_answers
from fedsdn.site import flows, reserved_ports
from fedsdn.site.database import HERE, OWNER, Database, read, sharing_vlan
from fedsdn.site.flows import PROTOCOL
from fedsdn.site.plan import SitePlan

_PROTOCOL_ADDED = "fedsdn-protocol"
"""Key in ``external_ids`` of a bridge that did not speak OpenFlow 1.3 before us."""


def apply(plan: SitePlan, there: Database) -> bool:
    """Make ports those of the plan; say whether anything had to change.

    A bridge that the site leaves gets back what is left after ``remove``.

    Raises:
        FedsdnError: the database refuses, or a port does not come up in the datapath.

    """
    commands = [
        *_stale_ports(plan, there),
        *reserved_ports.stale(plan.bridge, plan.uplink_ports, there.vlans.values()),
        *_missing_ports(plan, there),
        *reserved_ports.missing(plan.uplink_ports, there.vlans),
        *_missing_protocol(plan, there),
    ]
    if commands:
        _transact(commands)
    for bridge in sorted({port.bridge for port in there.own_ports} - {plan.bridge}):
        _hand_over(bridge, there, frozenset(plan.uplink_ports))
        flows.delete_own_flows(bridge)
    _check_ports(plan)
    return bool(commands)


def release(names: Iterable[str], there: Database) -> bool:
    """Remove ports of ours whose interfaces are to be made anew; say whether there was one.

    The datapath keeps a port's interface open: it would not notice another of the same name.
    """
    stale = set(names) & {port.port.name for port in there.own_ports}
    if stale:
        _transact([["del-port", name] for name in sorted(stale)])
    return bool(stale)


def hand_over(there: Database, uplinks: Iterable[str]) -> tuple[str, ...]:
    """Have bridges forward without our table-miss flow; return those that had no other.

    ``uplinks`` are the names of the ports that our flows keep apart.
    """
    if not switch_answers(HERE):
        return ()
    bridges = sorted({port.bridge for port in there.own_ports})
    names = frozenset(uplinks)
    return tuple(bridge for bridge in bridges if _hand_over(bridge, there, names))


def _hand_over(bridge: str, there: Database, uplinks: frozenset[str]) -> bool:
    ports = (port for name, port in there.ports.items() if name in uplinks)
    joined = sharing_vlan(port for port in ports if port.bridge == bridge)
    return flows.replace_table_miss(bridge, joined)


def remove(there: Database) -> bool:
    """Remove every port of ours, our flows and protocol; say whether there was anything."""
    commands = [["--if-exists", "del-port", port.port.name] for port in there.own_ports]
    commands += reserved_ports.stale("", (), there.vlans.values())
    commands += _own_protocols(there)
    if not commands:
        return False
    if not switch_answers(HERE):
        _transact(commands, "--no-wait")
        return True
    _transact(commands)
    for bridge in sorted({port.bridge for port in there.own_ports}):
        flows.delete_own_flows(bridge)
    return True


def _stale_ports(plan: SitePlan, there: Database) -> Iterator[list[str]]:
    wanted = {port.name for port in plan.ports}
    for port in there.own_ports:
        if port.port.name not in wanted or port.bridge != plan.bridge:
            yield ["del-port", port.bridge, port.port.name]


def _missing_ports(plan: SitePlan, there: Database) -> Iterator[list[str]]:
    for port in plan.ports:
        present = there.ports.get(port.name)
        wanted = (port, plan.bridge, plan.site)
        if present and (present.port, present.bridge, present.owner) == wanted:
            continue
        yield ["--may-exist", "add-port", plan.bridge, port.name]
        yield ["clear", "Port", port.name, "tag", "trunks", "vlan_mode"]
        vlans = [f"trunks={vlan}" for vlan in port.trunks]
        if port.tag is not None:
            vlans.append(f"tag={port.tag}")
        yield ["set", "Port", port.name, *vlans, f"external_ids:{OWNER}={plan.site}"]


def _missing_protocol(plan: SitePlan, there: Database) -> Iterator[list[str]]:
    """Add OpenFlow 1.3 to a bridge that names its protocols; without names it has them all."""
    protocols = there.bridges[plan.bridge].protocols
    if protocols and PROTOCOL not in protocols:
        yield ["add", "Bridge", plan.bridge, "protocols", PROTOCOL]
        yield ["set", "Bridge", plan.bridge, f"external_ids:{_PROTOCOL_ADDED}={plan.site}"]


def _own_protocols(there: Database) -> Iterator[list[str]]:
    for bridge in there.bridges.values():
        if _PROTOCOL_ADDED in bridge.external_ids:
            yield ["remove", "Bridge", bridge.name, "protocols", PROTOCOL]
            yield ["remove", "Bridge", bridge.name, "external_ids", _PROTOCOL_ADDED]


def _transact(commands: Iterable[list[str]], *options: str) -> None:
    run(HERE, "ovs-vsctl", *options, *(word for command in commands for word in ("--", *command)))


def _check_ports(plan: SitePlan) -> None:
    """Raise FedsdnError if the datapath could not open a port."""
    there = read()
    for port in plan.ports:
        present = there.ports[port.name]
        if present.error or present.ofport in {None, -1}:
            why = present.error or "no OpenFlow port number"
            raise FedsdnError(
                f"port {port.name} of {plan.bridge} does not work: {why}; "
                "see ovs-vswitchd's log (/var/log/openvswitch/ovs-vswitchd.log)"
            )
