"""The kernel's path manager as a family of generic netlink (linux/mptcp_pm.h)."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from pyroute2.netlink import genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

_NAME = "mptcp_pm"
_EVENTS = "mptcp_pm_events"


@dataclass(frozen=True, slots=True)
class Family:
    """Numbers of the family, and of the multicast group of its events."""

    number: int
    events: int


@cache
def family() -> Family:
    """Return the numbers, which are the same in all network namespaces.

    Raises:
        OSError: the kernel has no MPTCP.

    """
    # pyroute2 runs an event loop of its own, and a thread can have only one.
    with ThreadPoolExecutor(max_workers=1) as threads:
        return threads.submit(_ask).result()


def _ask() -> Family:
    with GenericNetlinkSocket() as netlink:
        try:
            netlink.bind(_NAME, genlmsg)
        except NetlinkError as error:
            raise OSError(errno.EPROTONOSUPPORT, "this kernel has no MPTCP") from error
        return Family(netlink.prid, netlink.mcast_groups[_EVENTS])
