"""Where a bridge has seen link-layer addresses (ovs-vswitchd(8), ``fdb/show``)."""

from __future__ import annotations

import re

from fedsdn.ovs.commands import run
from fedsdn.pipeline.declarations import LOCAL_PORT
from fedsdn.shell import Shell

_ENTRY = re.compile(r" *(\d+|LOCAL) +(\d+) +([0-9a-f:]{17}) ")
_LOCAL_NUMBER = 0xFFFE
"""The local port's in the database (ovs-vswitchd.conf.db(5), ``ofport``)."""


def learned_ports(shell: Shell, bridge: str, vlan: int) -> dict[str, int]:
    """Return the OpenFlow port of every link-layer address that the bridge has learned in a VLAN.

    ``vlan`` is 0 for frames without one.

    Raises:
        OvsError: Open vSwitch does not answer, or has no such bridge.

    """
    shown = run(shell, "ovs-appctl", "fdb/show", bridge, bridge=bridge)
    entries = filter(None, map(_ENTRY.match, shown.splitlines()))
    return {
        entry[3]: _LOCAL_NUMBER if entry[1] == LOCAL_PORT else int(entry[1])
        for entry in entries
        if int(entry[2]) == vlan
    }
