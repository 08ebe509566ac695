"""One path between two sites: its name, and the states of its parts."""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.config.model import Address, AddressPair
from fedsdn.uplinks.liveness import Condition, Liveness, Reception
from fedsdn.uplinks.status import PathState
from fedsdn.uplinks.teardown import Teardown

PathKey = tuple[str, str, str]
"""An uplink of ours, a peer, an uplink of the peer's."""

Way = tuple[str, Address]
"""An uplink's name, and a peer's address."""


@dataclass(frozen=True, slots=True, order=True)
class PathName:
    """A path by the names of its ends: an uplink of ours, a peer, an uplink of the peer's."""

    uplink: str
    peer: str
    peer_uplink: str

    def __str__(self) -> str:
        return f"{self.uplink} to {self.peer}/{self.peer_uplink}"


@dataclass(slots=True, eq=False)
class Path:
    """A path; whatever happens replaces one of its states."""

    name: PathName
    local: Address
    remote: Address
    reception: Reception
    liveness: Liveness
    teardown: Teardown = Teardown.CARRYING
    current: bool = False
    """Whether it is up by probes at the full rate, so that its loss is noticed at once."""
    said: PathState = PathState.UNKNOWN
    """Its state as logged last."""
    told: object = None
    """What the proxy was told of it last."""

    @property
    def key(self) -> PathKey:
        """Its name as a tuple."""
        return self.name.uplink, self.name.peer, self.name.peer_uplink

    @property
    def way(self) -> Way:
        """The uplink by which it leaves, and the peer's address."""
        return self.name.uplink, self.remote

    @property
    def pair(self) -> AddressPair:
        """The addresses of its subflows."""
        return self.local, self.remote

    @property
    def state(self) -> PathState:
        """Whether it carries packets both ways."""
        return self.liveness.state

    @property
    def is_detected(self) -> bool:
        """Whether it is down by a verdict of ours."""
        return self.liveness.condition is Condition.DETECTED

    @property
    def since(self) -> float:
        """When it came into this state."""
        return self.liveness.since

    @property
    def why(self) -> str:
        """The reason in words."""
        return self.liveness.why

    @property
    def heard(self) -> float | None:
        """When the newest probe came."""
        return self.reception.heard

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds."""
        return self.reception.rtt

    @property
    def loss(self) -> float | None:
        """Part of the peer's last probes that did not come, 0 to 1."""
        return self.reception.loss

    @property
    def ended(self) -> bool:
        """Whether subflows on it may have been ended since it went down."""
        return self.teardown.has_ended

    @property
    def lives_since(self) -> float:
        """When a path that is not down recovered last, or its port did."""
        return max(self.liveness.recovered, self.reception.opened)
