"""A neighbour's new connections beside whatever else goes on."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event, Thread

from fedsdn.bench.figures import Summary, summary
from fedsdn.bench.first_byte import answering, first_byte
from fedsdn.bench.guests import Guest
from fedsdn.config.model import Family
from fedsdn.errors import FedsdnError

_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Times:
    """Others' new connections, in ms to the first byte: of those there were, and those failed."""

    known: Summary
    first: Summary
    failed: int


class Connections(Thread):
    """A neighbour's new connections, one after the other, to a known destination and a new one."""

    def __init__(self, client: Guest, server: Guest, family: Family, ended: Event) -> None:
        """Open connections until ``ended`` is set."""
        super().__init__(daemon=True)
        self._client, self._server, self._family = client, server, family
        self._ended = ended
        self.known: list[float] = []
        self.first: list[float] = []
        self._failed = 0
        self.start()

    def run(self) -> None:
        """Open them."""
        with answering(self._server, self._family) as known:
            self._connect(known, [])  # from now on it is
            while not self._ended.wait(_PAUSE_SECONDS):
                self._connect(known, self.known)
                with answering(self._server, self._family) as new:
                    self._connect(new, self.first)

    def _connect(self, address: tuple[str, int], times: list[float]) -> None:
        try:
            times.append(first_byte(self._client, self._family, address) * 1000)
        except OSError:
            self._failed += 1

    def times(self) -> Times:
        """Sum them up.

        Raises:
            FedsdnError: there was none.

        """
        known, first = summary(self.known), summary(self.first)
        if known is None or first is None:
            raise FedsdnError(f"{self._client.shell.name}: no connection was made in time")
        return Times(known, first, self._failed)
