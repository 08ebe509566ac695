"""Silence: a VM that does not answer, and what the VM at the other end is to see of it.

On a direct path a VM learns of the other's silence by its own probes and retransmissions, and its
own time-outs decide what follows. Through proxies, the near one would answer them. So a VM that is
silent has the other one *muted*: what that one sends is not answered, either. Pure code.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.proxy.sockets.vm_liveness import LONGEST_PROBE_SECONDS, PROBE_SECONDS

SILENT_SECONDS = 10.0
"""Time without any acknowledgement after which a VM may be silent: as long as an idle connection
waits until the first probe, so that one that is probed and answers never is."""

UNANSWERED = 2
"""Probes and retransmissions without an answer that make it silent; one may be lost."""

_EIGHTH = 8


def is_silent(unanswered: int, last_acknowledgement: float) -> bool:
    """Whether a VM is silent that has left so many segments in a row without an answer.

    ``last_acknowledgement`` is how many seconds ago it has acknowledged anything.
    """
    return unanswered >= UNANSWERED and last_acknowledgement >= SILENT_SECONDS


def probe_interval(silent_seconds: float) -> int:
    """Return how many seconds lie between two probes to a VM that has been silent for so long.

    An eighth of it: so much later, at most, is it seen that the VM answers again.
    """
    return min(max(PROBE_SECONDS, int(silent_seconds / _EIGHTH)), LONGEST_PROBE_SECONDS)


@dataclass(slots=True)
class Silences:
    """Which of a connection's two VMs are silent."""

    own: bool = False
    """The VM here."""
    other: bool = False
    """That of the peer, which says so."""

    @property
    def mute(self) -> bool:
        """Whether the VM here is to be muted.

        Not while it is silent itself: there is nothing to hide from it, and a muted VM is not seen
        to answer again. If both were muted, each would wait for the other.
        """
        return self.other and not self.own
