"""One direction of a wire as a model of time: no sockets, no clock of its own.

Frames wait in a drop-tail queue for their turn at the wire's rate, and arrive ``delay`` after
their last bit has left.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of a wire, for each direction.

    ``delay_ms`` is one way. ``rate_mbit`` counts Ethernet frames without preamble and checksum.
    ``queue_ms`` is the longest wait before the wire; a frame that would wait longer is dropped.
    ``loss_percent`` is the share of frames that get lost, independently of each other.
    """

    delay_ms: float
    rate_mbit: float
    loss_percent: float = 0.0
    queue_ms: float = 40.0


@dataclass(slots=True)
class Counters:
    """Frames and bytes that one direction carried, and frames it dropped, by reason."""

    frames: int = 0
    bytes: int = 0
    dropped_queue: int = 0
    dropped_loss: int = 0
    dropped_carrier: int = 0


class WireDirection:
    """One direction of a wire. Times are seconds of whatever clock the caller uses."""

    def __init__(self, quality: Quality, seed: int) -> None:
        self.quality = quality
        self.carrier = True
        self.counters = Counters()
        self._random = random.Random(seed)  # noqa: S311 - the same losses in every run
        self._free_at = 0.0
        self._in_flight: deque[tuple[float, bytes]] = deque()

    def send(self, now: float, frame: bytes, wire_bytes: int) -> None:
        """Take a frame that is ``wire_bytes`` long on the wire, or drop it."""
        if not self.carrier:
            self.counters.dropped_carrier += 1
            return
        starts = max(now, self._free_at)
        if starts - now > self.quality.queue_ms / 1e3:
            self.counters.dropped_queue += 1
            return
        self._free_at = starts + wire_bytes * 8 / (self.quality.rate_mbit * 1e6)
        if self._random.random() < self.quality.loss_percent / 100:  # it took its time all the same
            self.counters.dropped_loss += 1
            return
        self.counters.frames += 1
        self.counters.bytes += wire_bytes
        self._in_flight.append((self._free_at + self.quality.delay_ms / 1e3, frame))

    def next_arrival(self) -> float | None:
        """Return when the next frame arrives, None if none is under way.

        Frames do not overtake each other: after the delay was shortened, a frame arrives no
        earlier than the one before it.
        """
        return self._in_flight[0][0] if self._in_flight else None

    def arrived(self, now: float) -> list[bytes]:
        """Take the frames that have arrived by ``now``, in order."""
        frames = []
        while self._in_flight and self._in_flight[0][0] <= now:
            frames.append(self._in_flight.popleft()[1])
        return frames

    def cut(self) -> None:
        """Lose the carrier, and with it all frames in flight."""
        self.carrier = False
        self.counters.dropped_carrier += len(self._in_flight)
        self._in_flight.clear()
        self._free_at = 0.0

    def join(self) -> None:
        """Get the carrier back."""
        self.carrier = True
