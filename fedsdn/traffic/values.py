"""What a test program moves, and what it says of each connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

TransferDirection = Literal["upload", "download"]
"""Whether the client or the server sends the data."""

Endpoint = tuple[str, int]
"""Address and port."""

SAMPLE_SECONDS = 0.01
"""Between two samples of what has come, at least."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much one connection carries: so many bytes, or as much as goes in so many seconds."""

    size: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Received:
    """What came at the receiving end.

    ``samples`` are pairs of seconds since the first byte and bytes so far, at most one each
    ``SAMPLE_SECONDS``, and one at the end.
    """

    size: int
    intact: bool
    samples: tuple[tuple[float, int], ...]

    def rate(self, start: float, end: float) -> float:
        """Bits per second between two times, in seconds since the first byte; 0 if too short."""
        window = [sample for sample in self.samples if start <= sample[0] <= end]
        if len(window) < 2 or window[-1][0] == window[0][0]:
            return 0.0
        (first, before), (last, after) = window[0], window[-1]
        return 8 * (after - before) / (last - first)

    def longest_silence(self, start: float, end: float) -> float:
        """Most seconds in which nothing came, of silences that overlap ``start`` to ``end``.

        Fewer than ``SAMPLE_SECONDS`` are not told apart.
        """
        times = [0.0, *(at for at, _ in self.samples)]
        silences = (pair for pair in pairwise(times) if pair[1] >= start and pair[0] <= end)
        return max((after - before for before, after in silences), default=0.0)


@dataclass(slots=True)
class ClientView:
    """One connection as the client knows it; ``seen`` is the client as the server saw it."""

    local: Endpoint | None = None
    seen: Endpoint | None = None
    received: Received | None = None
    connect_seconds: float = 0.0
    seconds: float = 0.0
    error: str | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ClientView:
        """Read what ``send`` printed."""
        connection = cls(**data)
        connection.local = endpoint_from(data["local"])
        connection.seen = endpoint_from(data["seen"])
        if data["received"] is not None:
            connection.received = received_from(data["received"])
        return connection


def endpoint_from(data: Sequence[Any] | None) -> Endpoint | None:
    """Read an address and port as sockets and JSON have them; None stays None."""
    return None if data is None else (str(data[0]), int(data[1]))


def received_from(data: dict[str, Any]) -> Received:
    """Read what ``asdict`` made of it."""
    samples = tuple((float(at), int(size)) for at, size in data["samples"])
    return Received(size=data["size"], intact=data["intact"], samples=samples)
