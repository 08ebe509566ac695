"""What is in the way of a connection from a client's port: its last one to the same destination.

It is waited for, and ended when it is over for its client.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum, auto

from fedsdn.errors import FedsdnError
from fedsdn.mptcp.orphan import Standing, end, standing_between
from fedsdn.pipeline.declarations import SocketMark
from fedsdn.socket_address import SocketAddress

_LOG = logging.getLogger(__name__)


class Verdict(Enum):
    """What is to be done about an earlier connection."""

    WAIT = auto()
    END = auto()
    GIVE_UP = auto()


@dataclass
class Patience:
    """How long an earlier connection is waited for. Knows no sockets; a clock counts seconds.

    It is ended if nothing moved for ``quiet_seconds`` and nothing waits for its destination, or if
    something waits and nothing moved for ``most_seconds``. The new connection is given up if none
    is found for ``quiet_seconds``, or if one is still moving after ``most_seconds``.
    """

    quiet_seconds: float
    most_seconds: float
    _begun: float | None = None
    _moved: float = 0.0
    _seen: Standing | None = None

    def judge(self, found: Standing | None, now: float) -> Verdict:
        """Take what a look has found, the first one included."""
        if self._begun is None:
            self._begun = self._moved = now
        elif found != self._seen:
            self._moved = now
        self._seen = found
        waits = found is not None and found.unacknowledged
        if now >= self._moved + (self.most_seconds if waits else self.quiet_seconds):
            return Verdict.END if found else Verdict.GIVE_UP
        return Verdict.WAIT if now < self._begun + self.most_seconds else Verdict.GIVE_UP


class Earlier:
    """The connection of a client's port that a new one is to take."""

    def __init__(
        self,
        client: SocketAddress,
        destination: SocketAddress,
        mark: SocketMark,
        patience: Patience,
    ) -> None:
        """Those with another mark than ``mark`` are not the client's, and are left alone."""
        self._ends = client, destination
        self._mark = mark
        self._patience = patience
        self._ended = False

    def try_again(self, now: float) -> bool:
        """Whether the new connection, which has just failed, is to be tried again."""
        if self._ended:
            return False
        found, error = None, None
        try:
            found = standing_between(*self._ends, self._mark)
        except (FedsdnError, OSError) as caught:
            error = caught
        verdict = self._patience.judge(found, now)
        if verdict is Verdict.END and found is not None:
            self._ended = True
            return self._end(found)
        if verdict is Verdict.GIVE_UP and error is not None:
            self._stays(error)
        return verdict is Verdict.WAIT

    def _end(self, found: Standing) -> bool:
        try:
            ended = end(found, *self._ends)
        except (FedsdnError, OSError) as error:
            self._stays(error)
            return False
        if ended:
            _LOG.info(
                "%s to %s: an earlier connection is ended, for the client has begun another",
                *self._ends,
            )
        return True

    def _stays(self, error: Exception) -> None:
        _LOG.warning("%s to %s: an earlier connection stays: %s", *self._ends, error)
