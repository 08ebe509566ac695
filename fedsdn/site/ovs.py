"""The site's part of Open vSwitch: ports of the bridge, through ovs-vsctl.

What is ours carries ``external_ids:fedsdn=SITE`` in the database, so that it is found again after
a restart of the host too. Each change is one transaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fedsdn.errors import FedsdnError
from fedsdn.ovs.commands import run
from fedsdn.ovs.daemon import switch_answers
from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import COOKIE_OWNER, COOKIE_OWNER_MASK
from fedsdn.shell import Shell
from fedsdn.site import reserved_ports
from fedsdn.site.plan import DEFAULT_MTU, BridgeFacts, Port, SitePlan
from fedsdn.site.reserved_ports import UplinkPort

HERE = Shell("this host")

OWNER = "fedsdn"
"""Key in ``external_ids`` of every port of ours; its value is the site."""

PROTOCOL = "OpenFlow13"

_PROTOCOL_ADDED = "fedsdn-protocol"
"""Key in ``external_ids`` of a bridge to whose protocols ours was added."""

_ANY_PROTOCOL = "OpenFlow10,OpenFlow13"
_VLANS = 4096

_COOKIE = re.compile(r"^ *cookie=(0x[0-9a-f]+)", re.MULTILINE)
_ORDINARY = "priority=0,actions=NORMAL"
"""The flow that Open vSwitch gives a bridge in fail mode standalone."""

_TABLE_MISS = re.compile(r"^(?: *cookie=(0x[0-9a-f]+),)?.*\bpriority=0 actions=", re.MULTILINE)

Record = Mapping[str, Any]


class TableMiss(Enum):
    """Whose is a bridge's table-miss flow."""

    NONE = "nobody's"
    OURS = "ours"
    OTHERS = "another owner's"


@dataclass(frozen=True, slots=True)
class BridgePort:
    """A port as the database has it; the VLANs of a reserved uplink as they were before.

    ``owner`` is the site that made it, None if it is not ours.
    """

    port: Port
    bridge: str
    owner: str | None
    mtu: int | None
    ofport: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge's settings. ``own_protocol`` says that it did not speak OpenFlow 1.3 before us."""

    name: str
    datapath_type: str
    protocols: tuple[str, ...]
    own_protocol: bool


@dataclass(frozen=True, slots=True)
class Database:
    """What concerns us in the Open vSwitch database, as it was when it was read."""

    bridges: Mapping[str, Bridge]
    ports: Mapping[str, BridgePort]
    vlans: Mapping[str, UplinkPort]
    userspace_tso: bool

    @property
    def own_ports(self) -> tuple[BridgePort, ...]:
        """Ports that a site set-up made, on any bridge."""
        return tuple(port for port in self.ports.values() if port.owner is not None)

    def facts(self, bridge: str) -> BridgeFacts:
        """Return what the plan of a site on ``bridge`` depends on."""
        others = {
            name: port.mtu
            for name, port in self.ports.items()
            if port.bridge == bridge and port.owner is None and port.mtu and name != bridge
        }
        netdev = self.bridges[bridge].datapath_type == "netdev"
        return BridgeFacts(
            checksum_offload=self.userspace_tso or not netdev,
            uplink_segmentation=not netdev,
            mtu=min(others.values(), default=DEFAULT_MTU),
            uplink_mtus=others,
        )


def read() -> Database:
    """Read the database.

    Raises:
        FedsdnError: Open vSwitch is not installed, or its database does not answer.

    """
    interfaces = {record["_uuid"]: record for record in _list("Interface")}
    ports = {record["_uuid"]: record for record in _list("Port")}
    bridges = _list("Bridge")
    (switch,) = _list("Open_vSwitch")
    bridge_ports = [
        _port(ports[uuid], bridge["name"], interfaces)
        for bridge in bridges
        for uuid in _many(bridge["ports"])
    ]
    return Database(
        bridges={bridge["name"]: _bridge(bridge) for bridge in bridges},
        ports={port.port.name: port for port in bridge_ports},
        vlans={
            ports[uuid]["name"]: _uplink_port(ports[uuid], bridge["name"])
            for bridge in bridges
            for uuid in _many(bridge["ports"])
        },
        userspace_tso=switch["other_config"].get("userspace-tso-enable") == "true",
    )


def table_miss(bridge: str) -> TableMiss:
    """Find out whose is the flow of table 0 that takes every packet at priority 0."""
    dump = run(HERE, "ovs-ofctl", "-O", _ANY_PROTOCOL, "dump-flows", bridge, "table=0")
    if others_table_miss(dump):
        return TableMiss.OTHERS
    return TableMiss.OURS if _TABLE_MISS.search(dump) else TableMiss.NONE


def others_table_miss(dump: str) -> bool:
    """Whether what ``ovs-ofctl dump-flows`` prints has a table-miss flow that is not ours."""
    found = _TABLE_MISS.search(dump)
    return found is not None and origin(int(found[1] or "0", 16)) is None


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
        delete_own_flows(bridge)
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
    """Put an ordinary flow in place of our table-miss flow; False if that is not there.

    Where uplinks share a VLAN, what comes in by them is dropped from now on: NORMAL would join
    their wires into a loop.
    """
    if table_miss(bridge) is not TableMiss.OURS:
        return False
    ports = (port for name, port in there.ports.items() if name in uplinks)
    joined = sharing_vlan(port for port in ports if port.bridge == bridge)
    flows = [f"priority=1,in_port={port.ofport},actions=drop" for port in joined]
    command = ("ovs-ofctl", "-O", PROTOCOL, "--bundle", "add-flows", bridge, "-")
    run(HERE, *command, text="\n".join((*flows, _ORDINARY)))
    return True


def sharing_vlan(ports: Iterable[BridgePort]) -> tuple[BridgePort, ...]:
    """Find the ports that have a VLAN in common with another of them: NORMAL joins these."""
    every = tuple(ports)
    return tuple(
        port
        for port in every
        if any(_vlans(port.port) & _vlans(other.port) for other in every if other is not port)
    )


def _vlans(port: Port) -> frozenset[int]:
    """VLANs that a port carries (ovs-vswitchd.conf.db(5), VLAN configuration of a port)."""
    own = frozenset() if port.tag is None else frozenset({port.tag})
    if port.trunks or own:
        return own | frozenset(port.trunks)
    return frozenset(range(_VLANS))


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
        delete_own_flows(bridge)
    return True


def delete_own_flows(bridge: str) -> None:
    """Delete the flows of any site of ours from a bridge, all at once, and nobody else's.

    Raises:
        FedsdnError: the bridge is gone, or does not answer.

    """
    begin_like_ours = f"cookie={COOKIE_OWNER:#x}/{COOKIE_OWNER_MASK:#x}"
    dump = run(HERE, "ovs-ofctl", "-O", _ANY_PROTOCOL, "dump-flows", bridge, begin_like_ours)
    found = {int(cookie, 16) for cookie in _COOKIE.findall(dump)}
    # Open vSwitch looks a whole cookie up: this costs nothing for others' flows, however many.
    deletions = [f"delete cookie={one:#x}/-1" for one in sorted(found) if origin(one) is not None]
    if deletions:
        command = ("ovs-ofctl", "-O", PROTOCOL, "--bundle", "add-flows", bridge, "-")
        run(HERE, *command, text="\n".join(deletions))


def _list(table: str) -> list[Record]:
    answer = json.loads(run(HERE, "ovs-vsctl", "--format=json", "list", table))
    return [
        {name: _value(cell) for name, cell in zip(answer["headings"], row, strict=True)}
        for row in answer["data"]
    ]


def _value(cell: Any) -> Any:  # noqa: ANN401  (a database column: RFC 7047, section 5.1)
    """Take a database value out of its JSON form: sets to tuples, maps to dictionaries."""
    match cell:
        case ["uuid", text]:
            return text
        case ["set", members]:
            return tuple(_value(member) for member in members)
        case ["map", pairs]:
            return {_value(key): _value(value) for key, value in pairs}
    return cell


def _many(value: Any) -> tuple[Any, ...]:  # noqa: ANN401  (as above)
    """Take a set's members; a set of one comes as that one."""
    return value if isinstance(value, tuple) else (value,)


def _one(value: Any) -> Any:  # noqa: ANN401  (as above)
    """Take the member of an optional column, None if it is empty."""
    return None if value == () else value


def _bridge(record: Record) -> Bridge:
    return Bridge(
        name=record["name"],
        datapath_type=record["datapath_type"] or "system",
        protocols=_many(record["protocols"]),
        own_protocol=_PROTOCOL_ADDED in record["external_ids"],
    )


def _port(record: Record, bridge: str, interfaces: Mapping[str, Record]) -> BridgePort:
    interface = interfaces[_many(record["interfaces"])[0]]
    before = record["external_ids"].get(reserved_ports.BEFORE)
    trunks = _many(record["trunks"]) if before is None else reserved_ports.trunks(before)
    return BridgePort(
        port=Port(record["name"], _one(record["tag"]), trunks),
        bridge=bridge,
        owner=record["external_ids"].get(OWNER),
        mtu=_one(interface["mtu"]),
        ofport=_one(interface["ofport"]),
        error=_one(interface["error"]),
    )


def _uplink_port(record: Record, bridge: str) -> UplinkPort:
    mode, before = _one(record["vlan_mode"]), record["external_ids"].get(reserved_ports.BEFORE)
    return UplinkPort(record["name"], bridge, mode or "", _many(record["trunks"]), before)


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
        if bridge.own_protocol:
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
