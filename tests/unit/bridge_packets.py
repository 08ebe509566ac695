"""Packets of connections and of uplinks at site a's bridge, which tests of the pipeline share."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

import pytest

from fedsdn.config.model import Address
from fedsdn.pipeline.declarations import LOCAL_PORT
from fedsdn.pipeline.flows import tcp
from tests.unit.federations import tenants, two_sites
from tests.unit.table_model import Delivery, Packet

TENANT = "tap-vm1"
PORTS = tenants(TENANT, LOCAL_PORT)
SITE_A = two_sites().site("a")

PEER_4, OWN_4 = ip_address("192.0.2.2"), ip_address("192.0.2.1")
PEER_6, OWN_6 = ip_address("2001:db8:2::2"), ip_address("2001:db8:2::1")


class Ends(NamedTuple):
    """A VM of site a and one of site b, in one family."""

    near: Address
    far: Address


V4 = Ends(ip_address("10.1.0.11"), ip_address("10.2.0.11"))
V6 = Ends(ip_address("fd00:1::11"), ip_address("fd00:2::11"))
FAMILIES = pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])


def from_near(ends: Ends, *, syn: bool = False, in_port: str = TENANT) -> Packet:
    return Packet(
        in_port=in_port,
        protocol=tcp(ends.near),
        source=ends.near,
        destination=ends.far,
        source_port=40000,
        destination_port=80,
        syn=syn,
        ack=not syn,
    )


def from_far(ends: Ends, in_port: str, *, syn: bool = False, ack: bool = True) -> Packet:
    return Packet(
        in_port=in_port,
        protocol=tcp(ends.near),
        source=ends.far,
        destination=ends.near,
        source_port=80,
        destination_port=40000,
        syn=syn,
        ack=ack,
    )


def ports(deliveries: list[Delivery]) -> list[str]:
    return [delivery.port for delivery in deliveries]


UPLINKS = pytest.mark.parametrize(
    ("uplink", "peer", "own"), [("up1", PEER_4, OWN_4), ("up2", PEER_6, OWN_6)], ids=["v4", "v6"]
)


def on_uplink(in_port: str, source: Address, destination: Address) -> Packet:
    return Packet(in_port=in_port, protocol=tcp(source), source=source, destination=destination)
