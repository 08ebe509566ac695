"""What two sites know of each other's losses: told, acknowledged, reported; no sockets or clock.

Probes are sent in rounds. Every probe has all that a site reports, and the newest of the other's
rounds that it has received, which acknowledges that round and all before it::

      this site                                     the peer
      detects that a path is down
      round n: `lost` has the path     ---------->  takes the path down, answers at once
      round n is acknowledged          <----------  `heard` = n

Each site may lose another path in the same moment: if either ended its subflows on what it lost,
connections would have none left. So a site waits until the peer has acknowledged the loss, or
reports it itself, and thus counts on other paths.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from fedsdn.uplinks.path import PathName
from fedsdn.uplinks.probe import MOST_LOST, Probe

_REMEMBERED_ROUNDS = 256


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of probes that were sent: the number of the last, and when the last few left."""

    number: int = 0
    times: tuple[float, ...] = ()

    def next(self, now: float) -> Rounds:
        """Begin the next round."""
        return Rounds(self.number + 1, (*self.times, now)[-_REMEMBERED_ROUNDS:])

    def sent(self, number: int) -> float | None:
        """When a round left; None if that is unknown, or too long ago."""
        index = number - self.number - 1
        return self.times[index] if -len(self.times) <= index < 0 else None


@dataclass(frozen=True, slots=True)
class PeerReport:
    """What the newest probe of a peer reports; fields as in ``Probe``."""

    down: tuple[str, ...] = ()
    lost: tuple[tuple[str, str], ...] = ()
    leaving: bool = False

    def adds_to(self, before: PeerReport) -> bool:
        """Whether it has a loss that the report ``before`` has not."""
        return not (set(self.lost) <= set(before.lost) and set(self.down) <= set(before.down))


@dataclass(frozen=True, slots=True)
class Agreement:
    """What we have told one peer, and what it acknowledges and reports."""

    newest: int = -1
    """Number of the peer's probe with the newest report, in its epoch; -1: none yet."""
    report: PeerReport = PeerReport()
    acknowledged: int = 0
    """The newest of our rounds that the peer has received."""
    told: Mapping[PathName, int] = field(default_factory=dict)
    """For each path that we detected down and told the peer of: the first round that did."""

    def restart(self) -> Agreement:
        """Begin anew with a peer whose application was restarted: it knows nothing."""
        return replace(self, newest=-1, acknowledged=0)

    def take(self, probe: Probe) -> Agreement:
        """Count in a probe of a peer that has heard this process.

        (What it said to an older one may be replayed.) A greeting acknowledges no round: who sent
        it has not acted on what the round reported.
        """
        acknowledged = max(self.acknowledged, 0 if probe.is_greeting else probe.heard)
        newest, report = probe.number, self.report
        if newest <= self.newest:
            newest = self.newest
        elif (probe.down, probe.lost, probe.leaving) != (report.down, report.lost, report.leaving):
            report = PeerReport(probe.down, probe.lost, probe.leaving)
        return Agreement(newest, report, acknowledged, self.told)

    def tell(
        self, number: int, detected: Iterable[PathName], down: Collection[str]
    ) -> tuple[Agreement, tuple[tuple[str, str], ...]]:
        """Return what round ``number`` reports as lost, and the agreement once that is sent.

        ``detected`` are the paths that we detected down. Those on our ports that are ``down`` are
        reported with the port, those on the peer's lost ports by the peer. Losses told before come
        first, as a probe may not have room for all.
        """
        told: dict[PathName, int] = {}
        lost: list[tuple[str, str]] = []
        for name in sorted(detected, key=lambda name: name not in self.told):
            if name.uplink not in down:
                if name.peer_uplink in self.report.down or len(lost) == MOST_LOST:
                    continue
                lost.append((name.uplink, name.peer_uplink))
            told[name] = self.told.get(name, number)
        return replace(self, told=told), tuple(lost)

    def keep(self, detected: Set[PathName]) -> Agreement:
        """Forget what was told of paths that are not detected down any more."""
        if self.told.keys() <= detected:
            return self
        return replace(self, told={name: n for name, n in self.told.items() if name in detected})

    def has_acknowledged(self, path: PathName) -> bool:
        """Whether the peer has acknowledged that we detected a path down."""
        return path in self.told and self.told[path] <= self.acknowledged

    def acknowledges_more_than(self, before: Agreement) -> bool:
        """Whether a loss is acknowledged that was not before."""
        rounds = self.told.values()
        return any(before.acknowledged < told <= self.acknowledged for told in rounds)

    def port_report(self, path: PathName) -> str | None:
        """Return in words that the peer reports its port of a path down; None if it does not."""
        down = path.peer_uplink in self.report.down
        return f"{path.peer} says that its port is down" if down else None

    def report_against(self, path: PathName, *, speaks: bool) -> str | None:
        """Return in words what the peer reports against a path; None if nothing.

        A lost path counts as long as the peer ``speaks``.
        """
        if self.report.leaving:
            return None
        lost = speaks and (path.peer_uplink, path.uplink) in self.report.lost
        return self.port_report(path) or (f"{path.peer} says that it is down" if lost else None)
