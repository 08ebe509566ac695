"""Flows of a bridge that outlast the application: whose the table-miss flow is, and removing ours.

What ``ovs-ofctl`` prints is searched here, not decoded: other people's flows may hold what only
their Open vSwitch knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from fedsdn.ovs.commands import run
from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import COOKIE_OWNER, COOKIE_OWNER_MASK
from fedsdn.site.database import HERE, BridgePort

PROTOCOL = "OpenFlow13"
_ANY_PROTOCOL = "OpenFlow10,OpenFlow13"

_COOKIE = re.compile(r"^ *cookie=(0x[0-9a-f]+)", re.MULTILINE)
_ORDINARY = "priority=0,actions=NORMAL"
"""The flow that Open vSwitch gives a bridge in fail mode standalone."""

_TABLE_MISS = re.compile(
    r"^(?: *cookie=(0x[0-9a-f]+),)?.*\bpriority=0(,\S+)? actions=", re.MULTILINE
)


class TableMiss(Enum):
    """Whose is a bridge's table-miss flow."""

    NONE = "nobody's"
    OURS = "ours"
    OTHERS = "another owner's"


def table_miss(bridge: str) -> TableMiss:
    """Find out whose is the flow of table 0 that takes every packet at priority 0."""
    return whose_table_miss(
        run(HERE, "ovs-ofctl", "-O", _ANY_PROTOCOL, "dump-flows", bridge, "table=0")
    )


def whose_table_miss(dump: str) -> TableMiss:
    """Say whose is the table-miss flow in what ``ovs-ofctl dump-flows`` prints."""
    found = _TABLE_MISS.findall(dump)
    ours = [origin(int(cookie or "0", 16)) is not None for cookie, _ in found]
    if any(not own and not match for own, (_, match) in zip(ours, found, strict=True)):
        return TableMiss.OTHERS
    return TableMiss.OURS if any(ours) else TableMiss.NONE


def replace_table_miss(bridge: str, joined: Iterable[BridgePort]) -> bool:
    """Add an ordinary flow to our table-miss flow, which goes later; False if that is not alone.

    ``joined`` are uplinks' ports that share a VLAN: what comes in by them is dropped from now on,
    for NORMAL would join their wires into a loop.
    """
    if table_miss(bridge) is not TableMiss.OURS:
        return False
    drops = [f"priority=1,in_port={port.ofport},actions=drop" for port in joined]
    command = ("ovs-ofctl", "-O", PROTOCOL, "--bundle", "add-flows", bridge, "-")
    run(HERE, *command, text="\n".join((*drops, _ORDINARY)), bridge=bridge)
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
