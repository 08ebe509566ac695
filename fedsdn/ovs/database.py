"""What concerns a site in Open vSwitch's database (ovs-vswitchd.conf.db(5)).

While ovs-vswitchd is stopped, the database holds its last report of ports: ask ``daemon`` first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from fedsdn.ovs.commands import missing_bridge, run
from fedsdn.shell import Shell

_COLUMNS = {
    "Interface": "_uuid,name,ofport,mtu,link_state,error,options",
    "Port": "_uuid,name,interfaces,tag,trunks,cvlans,vlan_mode,external_ids,other_config",
    "Bridge": "name,ports,datapath_type,protocols,external_ids",
    "Open_vSwitch": "other_config",
}

Record = Mapping[str, Any]
"""A row's values by column, decoded."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A port's interface. All but the name is ovs-vswitchd's report, None where it made none.

    ``ofport`` is -1 where it could not open the interface, and ``error`` says why.
    ``link_state`` is "up" or "down". ``peer`` is the other end of a patch port, in another bridge.
    """

    name: str
    ofport: int | None
    mtu: int | None
    link_state: str | None
    error: str | None
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a bridge. ``tag`` and ``vlan_mode`` are None where they are not set.

    A bond has several interfaces, each an OpenFlow port.
    """

    name: str
    interfaces: tuple[Interface, ...]
    tag: int | None
    trunks: tuple[int, ...]
    cvlans: tuple[int, ...]
    vlan_mode: str | None
    external_ids: Mapping[str, str]
    other_config: Mapping[str, str] = field(default_factory=dict)

    @property
    def interface(self) -> Interface:
        """The only interface, or the first one of a bond."""
        return self.interfaces[0]


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge with its ports by name, sorted. ``datapath_type`` is "system" or "netdev".

    Without ``protocols`` it speaks every version of OpenFlow that Open vSwitch has on.
    """

    name: str
    datapath_type: str
    protocols: tuple[str, ...]
    external_ids: Mapping[str, str]
    ports: Mapping[str, Port]


@dataclass(frozen=True, slots=True)
class Database:
    """All bridges by name, as they were at one moment, and Open vSwitch's own settings."""

    bridges: Mapping[str, Bridge]
    other_config: Mapping[str, str]


def read_database(shell: Shell) -> Database:
    """Read the database, in one transaction.

    Raises:
        OvsError: Open vSwitch is not installed, or its database does not answer.

    """
    lists = [
        word
        for table, columns in _COLUMNS.items()
        for word in ("--", f"--columns={columns}", "list", table)
    ]
    return parse_database(run(shell, "ovs-vsctl", "--format=json", *lists))


def read_bridge(shell: Shell, name: str) -> Bridge:
    """Read one bridge.

    Raises:
        OvsError: as ``read_database``, or there is no such bridge.

    """
    return read_bridges(shell, name)[name]


def read_bridges(shell: Shell, name: str) -> Mapping[str, Bridge]:
    """Read all bridges, one of which is to be there.

    Raises:
        OvsError: as ``read_bridge``.

    """
    bridges = read_database(shell).bridges
    if name not in bridges:
        raise missing_bridge(shell, name, list(bridges))
    return bridges


def parse_database(text: str) -> Database:
    """Read what ``ovs-vsctl --format=json`` prints for the tables of ``_COLUMNS``, a line each."""
    interface_records, port_records, bridges, (switch,) = map(
        _records, text.strip("\n").split("\n")
    )
    interfaces = {record["_uuid"]: _interface(record) for record in interface_records}
    ports = {record["_uuid"]: _port(record, interfaces) for record in port_records}
    return Database(
        bridges={record["name"]: _bridge(record, ports) for record in bridges},
        other_config=switch["other_config"],
    )


def _interface(record: Record) -> Interface:
    return Interface(
        name=record["name"],
        ofport=_one(record["ofport"]),
        mtu=_one(record["mtu"]),
        link_state=_one(record["link_state"]),
        error=_one(record["error"]),
        peer=record["options"].get("peer"),
    )


def _port(record: Record, interfaces: Mapping[str, Interface]) -> Port:
    return Port(
        name=record["name"],
        interfaces=tuple(interfaces[uuid] for uuid in _many(record["interfaces"])),
        tag=_one(record["tag"]),
        trunks=_many(record["trunks"]),
        cvlans=_many(record["cvlans"]),
        vlan_mode=_one(record["vlan_mode"]),
        external_ids=record["external_ids"],
        other_config=record["other_config"],
    )


def _bridge(record: Record, ports: Mapping[str, Port]) -> Bridge:
    own = sorted((ports[uuid] for uuid in _many(record["ports"])), key=attrgetter("name"))
    return Bridge(
        name=record["name"],
        datapath_type=record["datapath_type"] or "system",
        protocols=_many(record["protocols"]),
        external_ids=record["external_ids"],
        ports={port.name: port for port in own},
    )


# OVSDB's JSON (RFC 7047, section 5.1)


def _records(line: str) -> Sequence[Record]:
    table = json.loads(line)
    return [
        {name: _value(cell) for name, cell in zip(table["headings"], row, strict=True)}
        for row in table["data"]
    ]


def _value(cell: Any) -> Any:  # noqa: ANN401 -- whatever a column holds
    """Decode a value: sets become tuples, maps dictionaries."""
    match cell:
        case ["uuid", text]:
            return text
        case ["set", members]:
            return tuple(_value(member) for member in members)
        case ["map", pairs]:
            return {_value(key): _value(value) for key, value in pairs}
    return cell


def _many(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 -- as above
    """Return a set's members; a set of one is printed as that one."""
    return value if isinstance(value, tuple) else (value,)


def _one(value: Any) -> Any:  # noqa: ANN401 -- as above
    """Return the value of an optional column; None if it is empty."""
    return None if value == () else value
