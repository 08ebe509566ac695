"""The flows that a bridge is to have, as its ports' numbers make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from fedsdn.openflow.in_turns import in_turns
from fedsdn.openflow.messages import Ports
from fedsdn.openflow.wire import FlowWriter, Key, WireFlow
from fedsdn.pipeline.build import Groups
from fedsdn.pipeline.flows import Flow


@dataclass(slots=True)
class _Group:
    flows: tuple[Flow, ...]
    written: dict[Key, WireFlow] = field(default_factory=dict)
    waiting: list[Flow] = field(default_factory=list)
    """Those whose ports the bridge lacks."""
    ports: set[str] = field(default_factory=set)


class WantedFlows:
    """Flows of some groups, written for one bridge."""

    def __init__(self) -> None:
        """Start without any."""
        self.flows: dict[Key, WireFlow] = {}
        self._groups: dict[str, _Group] = {}
        self._ports: dict[str, int] = {}

    @property
    def waiting(self) -> list[Flow]:
        """Those whose ports the bridge lacks."""
        return [flow for group in self._groups.values() for flow in group.waiting]

    async def take(self, groups: Groups, ports: Ports) -> set[Key]:
        """Want these from now on, with these numbers; return which have changed, come or gone.

        Nothing is done for a group that is the same object as before.
        """
        moved = {name for name, _ in self._ports.items() ^ ports.items()}
        self._ports = dict(ports)
        changed: set[Key] = set()
        writer, numbers = FlowWriter(self._ports), count(1)
        for name in self._groups.keys() - groups.keys():
            changed |= self._replace(self._groups.pop(name).written, {})
        for name, flows in groups.items():
            before = self._groups.get(name)
            if before is None or before.flows is not flows or before.ports & moved:
                group = await _written(flows, writer, numbers)
                self._groups[name] = group
                changed |= self._replace(before.written if before else {}, group.written)
        return changed

    def _replace(self, before: dict[Key, WireFlow], after: dict[Key, WireFlow]) -> set[Key]:
        """Have ``after`` in the place of ``before``; return what differs."""
        changed = {key for key, _ in before.items() ^ after.items()}
        for key in before.keys() - after.keys():
            others = self._in_groups(key)
            if others is None:
                del self.flows[key]
            else:
                self.flows[key] = others
        self.flows.update((key, after[key]) for key in changed & after.keys())
        return changed

    def _in_groups(self, key: Key) -> WireFlow | None:
        """Find a flow that another group wants, too."""
        having = (group.written[key] for group in self._groups.values() if key in group.written)
        return next(having, None)


async def _written(flows: tuple[Flow, ...], writer: FlowWriter, numbers: Iterator[int]) -> _Group:
    group = _Group(flows)
    async for flow in in_turns(group.flows, numbers):
        group.ports |= flow.ports
        try:
            written = writer.write(flow)
        except KeyError:
            group.waiting.append(flow)
        else:
            group.written[written.key] = written
    return group
