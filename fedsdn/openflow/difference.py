"""What to send so that a bridge has exactly the wanted flows of ours.

Flows are compared as the messages that would make them, so that what the bridge reports and what
the pipeline wants meet in one form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from os_ken.ofproto import ofproto_v1_3 as ofproto

from fedsdn.openflow.in_turns import in_turns
from fedsdn.openflow.messages import Ports, flow_mod
from fedsdn.pipeline.flows import Flow

_Key = tuple[int, int, tuple[tuple[str, str], ...]]
"""Table, priority and match: what makes a flow one flow (OpenFlow 1.3.5, section 6.4)."""

_ALL_BUT_ONE_BIT = 0xFFFF_FFFF_FFFF_FFFE
"""Mask of the cookie in deletions: what somebody has put in the place of our flow meanwhile stays.

With the full mask Open vSwitch looks the cookie up, and walks all flows that have it, for each
single deletion; with any other mask it finds the one flow that the match names (ofproto.c,
``collect_rules_strict``).
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Flow mods to send, deletions first; ``missing`` are flows whose ports the bridge lacks."""

    deletions: tuple[Any, ...]
    additions: tuple[Any, ...]
    missing: tuple[Flow, ...]

    @property
    def messages(self) -> tuple[Any, ...]:
        """All flow mods in the order in which a bundle is to hold them."""
        return self.deletions + self.additions


async def difference(
    datapath: Any, wanted: Iterable[Flow], present: Iterable[Any], ports: Ports
) -> Difference:
    """Compare ``wanted`` with ``present``, the flow statistics of the flows that are ours."""
    additions: dict[_Key, Any] = {}
    missing: list[Flow] = []
    async for flow in in_turns(wanted):
        try:
            add = flow_mod(datapath, flow, ports, ofproto.OFPFC_ADD)
        except KeyError:
            missing.append(flow)
            continue
        additions[_key(add)] = add
    deletions = []
    async for stats in in_turns(present):
        if stats.hard_timeout:
            continue  # made for one connection that is being opened; it goes by itself
        key = _key(stats)
        if key not in additions:
            deletions.append(_deletion(datapath, stats))
        elif _content(additions[key]) == _content(stats):
            del additions[key]
    return Difference(tuple(deletions), tuple(additions.values()), tuple(missing))


def _key(flow: Any) -> _Key:
    match = tuple(sorted((name, repr(value)) for name, value in flow.match.items()))
    return flow.table_id, flow.priority, match


def _content(flow: Any) -> tuple[int, bytes]:
    """Cookie and actions, as they go over the wire."""
    wire = bytearray()
    for instruction in flow.instructions:
        instruction.serialize(wire, len(wire))
    return flow.cookie, bytes(wire)


def _deletion(datapath: Any, stats: Any) -> Any:
    return datapath.ofproto_parser.OFPFlowMod(
        datapath,
        cookie=stats.cookie,
        cookie_mask=_ALL_BUT_ONE_BIT,
        table_id=stats.table_id,
        priority=stats.priority,
        command=ofproto.OFPFC_DELETE_STRICT,
        out_port=ofproto.OFPP_ANY,
        out_group=ofproto.OFPG_ANY,
        match=stats.match,
    )
