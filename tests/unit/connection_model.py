"""One connection between the sites of a ``Model``, and what both kernels do to its subflows.

Each end has a view of its own: a subflow that one end has ended is still there at the other one,
until a reset arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from fedsdn.uplinks.status import PathState
from fedsdn.uplinks.teardown import Orders
from tests.unit.path_model import Model

KERNEL_STEPS = 3
"""A kernel acts on orders so many steps late."""
OTHER = {"a": "b", "b": "a"}
TALK_STEPS = 5


@dataclass
class Subflow:
    """One end of a subflow."""

    uplink: str
    heard: float


@dataclass
class Connection:
    """A connection that ``a`` has opened; a ``busy`` one sends on every subflow all the time."""

    model: Model
    busy: bool
    ends: dict[str, dict[int, Subflow]] = field(default_factory=dict)
    orders: dict[str, list[Orders]] = field(default_factory=lambda: {"a": [], "b": []})
    opening: dict[str, float] = field(default_factory=dict)
    """Uplinks on which a subflow is being opened, and its time-out."""
    under_way: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)
    steps: int = 0

    def __post_init__(self) -> None:
        uplinks = [path.name.uplink for path in self.model.sites["a"]]
        there = dict(zip(self.numbers, uplinks, strict=False))
        for site in "ab":
            self.ends[site] = {
                number: Subflow(uplink, self.model.now) for number, uplink in there.items()
            }

    def left(self) -> set[int]:
        """Subflows that both ends have."""
        return self.ends["a"].keys() & self.ends["b"].keys()

    def step(self) -> None:
        """Go on for as long as the model has."""
        for arrival, event in [one for one in self.under_way if one[0] <= self.model.now]:
            self.under_way.remove((arrival, event))
            event()
        for site in "ab":
            self.orders[site].append(self.model.sites[site].orders())
            self._obey(site, self.orders[site].pop(0) if self.steps >= KERNEL_STEPS else None)
        self._open()
        if self.busy and not self.steps % TALK_STEPS:
            for site in "ab":
                for number, subflow in self.ends[site].items():
                    self._send(site, subflow.uplink, self._segment(OTHER[site], number, subflow))
        self.steps += 1

    def _send(self, source: str, uplink: str, event: Callable[[], None]) -> None:
        def arrive() -> None:
            if self.model.carries(source, OTHER[source], uplink):
                event()

        if self.model.carries(source, OTHER[source], uplink):
            self.under_way.append((self.model.now + self.model.delay, arrive))

    def _segment(self, site: str, number: int, sent: Subflow) -> Callable[[], None]:
        """What a segment does at ``site``: it is received, or answered with a reset."""

        def arrive() -> None:
            if number in self.ends[site]:
                self.ends[site][number].heard = self.model.now
            else:
                self._reset(site, number, sent.uplink)

        return arrive

    def _reset(self, source: str, number: int, uplink: str) -> None:
        def arrive() -> None:
            self.ends[OTHER[source]].pop(number, None)

        self._send(source, uplink, arrive)

    def _obey(self, site: str, orders: Orders | None) -> None:
        """Do what ``Subflows.end`` does."""
        if orders is None:
            return
        pairs = {path.name.uplink: path.pair for path in self.model.sites[site]}
        mine = self.ends[site]
        for number, subflow in list(mine.items()):
            if pairs[subflow.uplink] in orders.dead_pairs and any(
                other.heard > orders.live_pairs[pairs[other.uplink]]
                for other in mine.values()
                if pairs[other.uplink] in orders.live_pairs
            ):
                del mine[number]
                self._reset(site, number, subflow.uplink)

    def _open(self) -> None:
        """Open subflows as the proxy does; one that is not answered is given up after a second."""
        for path in self.model.sites["a"]:
            uplink = path.name.uplink
            if (
                path.state is PathState.UP
                and uplink not in {one.uplink for one in self.ends["a"].values()}
                and self.opening.get(uplink, 0.0) < self.model.now
            ):
                self.opening[uplink] = self.model.now + 1.0
                self._handshake(next(self.numbers), uplink)

    def _handshake(self, number: int, uplink: str) -> None:
        """SYN, its answer, the proof of the key, and its acknowledgement (RFC 8684, 3.2)."""

        def proven() -> None:
            self.ends["b"][number] = Subflow(uplink, self.model.now)
            self._send("b", uplink, acknowledged)

        def acknowledged() -> None:
            self.ends["a"][number] = Subflow(uplink, self.model.now)

        self._send(
            "a",
            uplink,
            lambda: self._send("b", uplink, lambda: self._send("a", uplink, proven)),
        )
