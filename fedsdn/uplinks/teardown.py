"""What follows from a lost path for the kernel, as explicit states; no sockets, no clock.

Two things are torn down: the uplink's endpoint, so that nothing new begins there, and the subflows,
so that the kernel sends again over others what they had under way. Both wait until connections
have had the time to get subflows on another path (it is *replaced*): the kernel gives a connection
up ``close_timeout`` after its last subflow has ended. Subflows wait for the peer, too, which has to
acknowledge the loss, or report it itself (``agreement``)::

                 not acknowledged                  acknowledged
                            -- ACKNOWLEDGED -->
    all stays    LOST       <--- WITHDRAWN ----    ACKNOWLEDGED
                  |                                 |
                  | PORT_REPLACED                   |
                  v         -- ACKNOWLEDGED -->     |
    no endpoint  RELEASED   <--- WITHDRAWN ----    RELEASED_ACKNOWLEDGED
                                                    |
                                                    | REPLACED
                            -- ACKNOWLEDGED -->     v
    no subflows  SUSPENDED  <--- WITHDRAWN ----    ENDING

    CARRYING -- LOST --> LOST                      any -- RECOVERED --> CARRYING
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from fedsdn.config.model import AddressPair

DRAIN_RTTS = 0.75
"""For so many round-trip times the subflows of a lost port stay, so that most of what was delivered
is acknowledged. Half of one is enough if all that was under way was lost too, as with the whole of
a wire; all of it is needed if everything still arrived, as with a port that is set down. Which it
was is not known."""

_SETTLE_SECONDS = 2.0
"""What the kernels may take to open subflows of every connection on a path that has recovered."""


class Event(Enum):
    """What may happen to a path."""

    LOST = auto()
    """It is down."""
    ACKNOWLEDGED = auto()
    """The peer knows."""
    WITHDRAWN = auto()
    """The peer is not known to know, or not any more."""
    REPLACED = auto()
    """Connections have another path, and acknowledgements have had the time to come in."""
    PORT_REPLACED = auto()
    """The same, and it is our own port that is down: its endpoint is nobody else's concern."""
    RECOVERED = auto()
    """It is not down any more."""


class Teardown(Enum):
    """How far the teardown of a path has come."""

    CARRYING = auto()
    """The path is not down."""
    LOST = auto()
    """It is down, and nothing has followed yet."""
    ACKNOWLEDGED = auto()
    """The peer knows; connections have no other path yet."""
    RELEASED = auto()
    """New connections do without it; its subflows wait for the peer."""
    RELEASED_ACKNOWLEDGED = auto()
    """The same when the peer knows, and connections have no other path any more."""
    ENDING = auto()
    """Its subflows end, also those that are found later."""
    SUSPENDED = auto()
    """They did; those that are left stay, as the peer's acknowledgement has been withdrawn."""

    def after(self, event: Event) -> Teardown:
        """Return the state that an event leads to; what a state does not wait for changes none."""
        if event is Event.RECOVERED:
            return Teardown.CARRYING
        return _TRANSITIONS.get((self, event), self)

    @property
    def is_acknowledged(self) -> bool:
        """Whether the peer knows."""
        return self in _ACKNOWLEDGED

    @property
    def has_released(self) -> bool:
        """Whether its uplink needs no endpoint for it."""
        return self in _RELEASED

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
_ACKNOWLEDGED = {Teardown.ACKNOWLEDGED, Teardown.RELEASED_ACKNOWLEDGED, Teardown.ENDING}
_RELEASED = {
    Teardown.RELEASED,
    Teardown.RELEASED_ACKNOWLEDGED,
    Teardown.ENDING,
    Teardown.SUSPENDED,
}


def drained_at(lost: float, rtt: float | None, *, own_port: bool) -> float:
    """Return when the subflows of a path that was ``lost`` may end.

    What a subflow has under way when it ends is sent again in order, what was delivered and not
    acknowledged yet before what was lost (net/mptcp/protocol.c,
    ``__mptcp_retransmit_pending_data``). A loss of one's own port is known before any of those
    acknowledgements has come: ended at once, it is twice as long a silence.
    """
    return lost + DRAIN_RTTS * (rtt or 0.0) if own_port else lost


def has_settled(lives_since: float, now: float) -> bool:
    """Whether connections have had the time to get subflows on a path that lives."""
    return now - lives_since > _SETTLE_SECONDS


@dataclass(frozen=True, slots=True)
class Orders:
    """What the kernel is to be told.

    There are endpoints of the ``usable`` uplinks, and none of the ``dead`` ones; those of the
    others stay as they are. Subflows on ``dead_pairs`` are to end, if their connections have others
    on ``live_pairs``, which come with the time since which they live; those on ``down_pairs``,
    which are down too, may be next.
    """

    usable: frozenset[str]
    dead: frozenset[str]
    dead_pairs: frozenset[AddressPair]
    down_pairs: frozenset[AddressPair]
    live_pairs: Mapping[AddressPair, float]


def orders(
    paths: Iterable[tuple[str, AddressPair, Teardown]],
    live: Mapping[AddressPair, float],
    removed: frozenset[AddressPair],
) -> Orders:
    """Say what the kernel is to do.

    ``paths`` are uplink, addresses and state of every path, ``removed`` the addresses of paths that
    the federation file has no more, and that peers have had the time to find silent.
    """
    every = list(paths)
    down_pairs = {pair for _, pair, state in every if state is not Teardown.CARRYING}
    dead_pairs = {pair for _, pair, state in every if state is Teardown.ENDING}
    return Orders(
        usable=frozenset(uplink for uplink, _, state in every if state is Teardown.CARRYING),
        dead=frozenset(
            {uplink for uplink, _, state in every if state.has_released}
            - {uplink for uplink, _, state in every if not state.has_released}
        ),
        dead_pairs=removed | dead_pairs,
        down_pairs=frozenset(down_pairs - dead_pairs),
        live_pairs=live,
    )
