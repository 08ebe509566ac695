"""What follows from a lost path for the kernel, as explicit states; no sockets, no clock.

Two things are torn down: the uplink's endpoint, so that no new subflow starts there, and the
path's subflows, so that the kernel retransmits their data in flight on others. Both wait until the
path is *replaced*: connections have had the time to open subflows on another path to the peer (the
kernel closes a connection ``close_timeout`` after its last subflow). Subflows wait for the peer's
acknowledgement, too, or its own report of the loss (``agreement``)::

                 not acknowledged                  acknowledged
                            -- ACKNOWLEDGED -->
    all stays    LOST       <--- WITHDRAWN ----    ACKNOWLEDGED --------------.
                  |                                                           |
                  | PORT_REPLACED                                             |
                  v         -- ACKNOWLEDGED -->                               | REPLACED
    no endpoint  RELEASED   <--- WITHDRAWN ----    RELEASED_ACKNOWLEDGED      |
                                                    |                         |
                                                    | REPLACED                |
                            -- ACKNOWLEDGED -->     v                         |
    no subflows  SUSPENDED  <--- WITHDRAWN ----    ENDING <-------------------'

    CARRYING -- LOST --> LOST                      any -- RECOVERED --> CARRYING
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from fedsdn.config.model import AddressPair

DRAIN_RTTS = 0.75
"""The subflows of a lost port stay for so many round-trip times, in which most of the delivered
data are acknowledged. Half of one suffices if all data in flight were lost, as when a wire is cut;
a whole one is needed if they still arrive, as when a port is set down. Which it was is unknown."""

_SETTLE_SECONDS = 2.0
"""What both kernels may take until every connection has a subflow on a recovered path."""


class Event(Enum):
    """What may happen to a path."""

    LOST = auto()
    """It is down."""
    ACKNOWLEDGED = auto()
    """The peer has acknowledged the loss, or reports it."""
    WITHDRAWN = auto()
    """The peer has not, or not any more."""
    REPLACED = auto()
    """Connections have another path, and the time for late acknowledgements of data is over."""
    PORT_REPLACED = auto()
    """The same, and our own port is down: the endpoint need not wait for the peer."""
    RECOVERED = auto()
    """It is not down any more."""


class Teardown(Enum):
    """How far the teardown of a path has come."""

    CARRYING = auto()
    """The path is not down."""
    LOST = auto()
    """It is down, and nothing has followed yet."""
    ACKNOWLEDGED = auto()
    """The peer has acknowledged; the path is not replaced yet."""
    RELEASED = auto()
    """The endpoint is released; the subflows wait for the peer's acknowledgement."""
    RELEASED_ACKNOWLEDGED = auto()
    """The peer has acknowledged; the path, once replaced, is so no more."""
    ENDING = auto()
    """Its subflows are ended, also those that are found later."""
    SUSPENDED = auto()
    """No more are ended, as the peer's acknowledgement was withdrawn."""

    def after(self, event: Event) -> Teardown:
        """Return the state that an event leads to; without a transition it stays the same."""
        if event is Event.RECOVERED:
            return Teardown.CARRYING
        return _TRANSITIONS.get((self, event), self)

    @property
    def is_acknowledged(self) -> bool:
        """Whether the peer has acknowledged the loss, or reports it."""
        return self in _ACKNOWLEDGED

    @property
    def has_ended(self) -> bool:
        """Whether subflows on it may have been ended since it went down."""
        return self in (Teardown.ENDING, Teardown.SUSPENDED)


_TRANSITIONS = {
    (Teardown.CARRYING, Event.LOST): Teardown.LOST,
    (Teardown.LOST, Event.ACKNOWLEDGED): Teardown.ACKNOWLEDGED,
    (Teardown.LOST, Event.PORT_REPLACED): Teardown.RELEASED,
    (Teardown.ACKNOWLEDGED, Event.WITHDRAWN): Teardown.LOST,
    (Teardown.ACKNOWLEDGED, Event.REPLACED): Teardown.ENDING,
    (Teardown.RELEASED, Event.ACKNOWLEDGED): Teardown.RELEASED_ACKNOWLEDGED,
    (Teardown.RELEASED_ACKNOWLEDGED, Event.WITHDRAWN): Teardown.RELEASED,
    (Teardown.RELEASED_ACKNOWLEDGED, Event.REPLACED): Teardown.ENDING,
    (Teardown.ENDING, Event.WITHDRAWN): Teardown.SUSPENDED,
    (Teardown.SUSPENDED, Event.ACKNOWLEDGED): Teardown.ENDING,
}
_ACKNOWLEDGED = (Teardown.ACKNOWLEDGED, Teardown.RELEASED_ACKNOWLEDGED, Teardown.ENDING)
_RELEASED = (
    Teardown.RELEASED,
    Teardown.RELEASED_ACKNOWLEDGED,
    Teardown.ENDING,
    Teardown.SUSPENDED,
)


def drained_at(lost: float, rtt: float | None, *, own_port: bool) -> float:
    """Return when the subflows of a path that was ``lost`` may end.

    The kernel retransmits an ended subflow's data in flight in order, data that were delivered but
    not acknowledged before those that were lost (net/mptcp/protocol.c,
    ``__mptcp_retransmit_pending_data``). The loss of our own port is known before any of those
    acknowledgements: subflows ended at once double the receiver's silence.
    """
    return lost + DRAIN_RTTS * (rtt or 0.0) if own_port else lost


def settles_at(lives_since: float) -> float:
    """Return when connections have had the time to open subflows on a path that lives."""
    return lives_since + _SETTLE_SECONDS


def has_settled(lives_since: float, now: float) -> bool:
    """Whether connections have had the time to open subflows on a path that lives."""
    return now - lives_since > _SETTLE_SECONDS


@dataclass(frozen=True, slots=True)
class Orders:
    """What the kernel is to do.

    The ``usable`` uplinks have endpoints, the ``dead`` ones none; those of the others stay as they
    are. Subflows on ``dead_pairs`` are to end if their connections have others on ``live_pairs``
    (values: since when these live). ``down_pairs`` are down, too, and may be next.
    """

    usable: frozenset[str]
    dead: frozenset[str]
    dead_pairs: frozenset[AddressPair]
    down_pairs: frozenset[AddressPair]
    live_pairs: Mapping[AddressPair, float]


class OrderBook:
    """What the kernel is to do, kept as the paths' states change."""

    def __init__(self) -> None:
        """Begin without paths."""
        self.changed = True
        """Whether the orders are others than when they were asked for last."""
        self._states: dict[AddressPair, tuple[str, Teardown]] = {}
        self._live: dict[AddressPair, float] = {}
        self._uplinks: dict[str, Counter[Teardown]] = {}
        self._removed: frozenset[AddressPair] = frozenset()
        self._orders = Orders(frozenset(), frozenset(), frozenset(), frozenset(), {})

    def note(self, uplink: str, pair: AddressPair, state: Teardown, lives: float | None) -> None:
        """Note how far a path's teardown has come, and since when it lives, if it does."""
        before = self._states.get(pair)
        if before == (uplink, state) and self._live.get(pair) == lives:
            return
        self.changed = True
        if before is not None:
            self._uplinks[before[0]][before[1]] -= 1
        self._states[pair] = uplink, state
        self._uplinks.setdefault(uplink, Counter())[state] += 1
        if lives is None:
            self._live.pop(pair, None)
        else:
            self._live[pair] = lives

    def forget(self, pair: AddressPair) -> None:
        """Note that there is no such path any more."""
        before = self._states.pop(pair, None)
        if before is not None:
            self.changed = True
            self._uplinks[before[0]][before[1]] -= 1
            self._live.pop(pair, None)

    def __contains__(self, pair: AddressPair) -> bool:
        """Whether there is a path between these addresses."""
        return pair in self._states

    def set_removed(self, removed: frozenset[AddressPair]) -> None:
        """Note the paths that the federation file has no more, and whose peers have noticed."""
        self.changed |= removed != self._removed
        self._removed = removed

    def orders(self) -> Orders:
        """Say what the kernel is to do."""
        if self.changed:
            self.changed, self._orders = False, self._made()
        return self._orders

    def _made(self) -> Orders:
        down = {pair for pair, (_, state) in self._states.items() if state is not Teardown.CARRYING}
        ending = {pair for pair in down if self._states[pair][1] is Teardown.ENDING}
        return Orders(
            usable=frozenset(
                uplink for uplink, states in self._uplinks.items() if states[Teardown.CARRYING]
            ),
            dead=frozenset(
                uplink
                for uplink, states in self._uplinks.items()
                if any(states.values())
                and all(state in _RELEASED for state, count in states.items() if count)
            ),
            dead_pairs=self._removed | ending,
            down_pairs=frozenset(down - ending),
            live_pairs=dict(self._live),
        )
