"""What to change so that a bridge has exactly the wanted flows of ours.

Flows are compared as the bytes that would make them, so that what the bridge reports and what the
pipeline wants meet in one form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedsdn.openflow.in_turns import in_turns
from fedsdn.openflow.messages import Ports
from fedsdn.openflow.wire import FlowWriter, Key, WireFlow
from fedsdn.pipeline.flows import Flow


@dataclass(frozen=True, slots=True)
class Difference:
    """Flows to delete and to add; ``missing`` are flows whose ports the bridge lacks."""

    deletions: tuple[WireFlow, ...]
    additions: tuple[WireFlow, ...]
    missing: tuple[Flow, ...]

    @property
    def anything(self) -> bool:
        """Whether there is something to change."""
        return bool(self.deletions or self.additions)


async def difference(
    wanted: Iterable[Flow], present: Iterable[WireFlow], ports: Ports
) -> Difference:
    """Compare ``wanted`` with ``present``, the flows that are ours."""
    additions: dict[Key, WireFlow] = {}
    missing: list[Flow] = []
    writer = FlowWriter(ports)
    async for flow in in_turns(wanted):
        try:
            wire = writer.write(flow)
        except KeyError:
            missing.append(flow)
            continue
        additions[wire.key] = wire
    deletions = []
    async for there in in_turns(present):
        if there.hard_timeout:
            continue  # made for one connection that is being opened; it goes by itself
        key = there.key
        if key not in additions:
            deletions.append(there)
        elif additions[key] == there:
            del additions[key]
    return Difference(tuple(deletions), tuple(additions.values()), tuple(missing))
