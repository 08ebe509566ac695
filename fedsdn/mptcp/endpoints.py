"""MPTCP endpoints of a network namespace.

To the kernel's own path manager an endpoint is an address to open subflows from (ip-mptcp(8)). It
ignores them for connections that a userspace path manager looks after, as the proxy does for all of
this namespace (``net.mptcp.pm_type=1``). So an endpoint here is a note: of an uplink that the proxy
may open subflows from, where other people's tools look for it, too.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import ip_address

from pyroute2 import MPTCP
from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkError

from fedsdn.config.model import Address, Uplink
from fedsdn.namespace import within


class EndpointFlag(IntFlag):
    """What the kernel's path manager would do (``MPTCP_PM_ADDR_FLAG_*``, linux/mptcp.h)."""

    SIGNAL = 0x1
    """Announce it to the peer (ADD_ADDR)."""
    SUBFLOW = 0x2
    """Open subflows from it."""
    BACKUP = 0x4
    """Use it only when nothing else works."""
    FULLMESH = 0x8
    """Open subflows from it to every address of the peer."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that MPTCP connections of the namespace may open subflows from."""

    address: Address
    flags: EndpointFlag

    def __str__(self) -> str:
        """Text as ``ip mptcp endpoint`` prints it."""
        names = (flag.name or "" for flag in EndpointFlag if flag in self.flags)
        return f"{self.address} {' '.join(names).lower()}"


def endpoint_of(uplink: Uplink) -> Endpoint:
    """Return the endpoint of an uplink that may be used."""
    return Endpoint(uplink.address.ip, EndpointFlag.SUBFLOW)


class Endpoints:
    """The endpoints of one network namespace. One object per thread (pyroute2)."""

    def __init__(self, namespace: str) -> None:
        """Open a netlink socket in the network namespace called ``namespace``.

        Raises:
            MissingNamespaceError: there is none.

        """
        with within(namespace):
            self._netlink = MPTCP()

    def __enter__(self) -> Endpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    def read(self) -> dict[Endpoint, int]:
        """Return the endpoints that are there, with their MPTCP address identifiers."""
        return dict(_endpoint(message) for message in self._netlink.endpoint("show"))

    def apply(self, wanted: Iterable[Endpoint]) -> bool:
        """Make the endpoints exactly the wanted ones; say whether anything had to change."""
        target = tuple(wanted)
        there = self.read()
        for endpoint, identifier in there.items():
            if endpoint not in target:
                self._delete(identifier)
        for endpoint in target:
            if endpoint not in there:
                self._add(endpoint)
        return set(target) != there.keys()

    def _add(self, endpoint: Endpoint) -> None:
        try:
            self._request_add(endpoint)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            # Somebody has added the address meanwhile, with other flags.
            for there, identifier in self.read().items():
                if there.address == endpoint.address:
                    self._delete(identifier)
            self._request_add(endpoint)

    def _request_add(self, endpoint: Endpoint) -> None:
        key = "addr4" if endpoint.address.version == 4 else "addr6"
        self._netlink.endpoint("add", **{key: str(endpoint.address)}, flags=int(endpoint.flags))

    def _delete(self, identifier: int) -> None:
        try:
            self._netlink.endpoint("del", id=identifier)
        except NetlinkError as error:
            if error.code != errno.EINVAL:  # the kernel's word for "no such identifier"
                raise


def _endpoint(message: nlmsg) -> tuple[Endpoint, int]:
    about = message.get_attr("MPTCP_PM_ATTR_ADDR")
    address = about.get_attr("MPTCP_PM_ADDR_ATTR_ADDR4") or about.get_attr(
        "MPTCP_PM_ADDR_ATTR_ADDR6"
    )
    flags = EndpointFlag(about.get_attr("MPTCP_PM_ADDR_ATTR_FLAGS"))
    return Endpoint(ip_address(address), flags), about.get_attr("MPTCP_PM_ADDR_ATTR_ID")
