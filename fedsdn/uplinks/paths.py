"""All paths of a site: what happens goes in, what follows comes out; no sockets, no clock.

``liveness`` says whether a path carries packets, ``agreement`` what each peer knows of its loss,
``teardown`` what the kernel does about it. Here they meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fedsdn.config.model import AddressPair, Federation, Probes, Uplink
from fedsdn.uplinks import teardown
from fedsdn.uplinks.agreement import Agreement, Rounds
from fedsdn.uplinks.liveness import (
    PATIENCE,
    Condition,
    Contact,
    Finding,
    Liveness,
    Reception,
    Verdict,
    judge_probes,
)
from fedsdn.uplinks.path import Path, PathName
from fedsdn.uplinks.probe import Probe
from fedsdn.uplinks.status import DifferingFile, PathState, PortState
from fedsdn.uplinks.teardown import Event, Orders, Teardown

_UNPROBED = Probes(key="")
"""Times for damping the ports where paths are not probed."""

_MOST_STRANGERS = 100
"""More sites with the key are noted by nobody."""

_DEAD_PORT = (PortState.DOWN, PortState.ABSENT)


@dataclass(slots=True)
class _Peer:
    """A peer whose application sends probes."""

    contact: Contact = field(default_factory=Contact)
    agreement: Agreement = field(default_factory=Agreement)
    file: str | None = None
    """The digest of its federation file, as heard last."""
    differs_since: float = 0.0
    """When that began to be another than ours, if it is."""


class Paths:
    """Every way from an uplink of ``site`` to an uplink of a peer."""

    def __init__(
        self, federation: Federation, site: str, epoch: int, now: float, file: str = ""
    ) -> None:
        """Begin with nothing known. ``epoch`` is the start of this process, in ns of Unix time.

        ``file`` is the federation's digest.
        """
        self._file = file
        self._strangers: dict[str, _Peer] = {}
        """Sites that probe this one, and that the federation file does not have."""
        self._site = federation.site(site)
        self._probed = federation.probes is not None
        self._probes = federation.probes or _UNPROBED
        self._epoch = epoch
        self._rounds = Rounds()
        self.urgent = False
        """Whether the peers must be told something before the next round is due."""
        self._began = now
        self._removed: dict[AddressPair, float] = {}
        """Paths that were removed from the federation file, and when."""
        self.ports = dict.fromkeys((up.name for up in self._site.uplinks), PortState.UNKNOWN)
        self._peers = {
            peer.name: _Peer() for peer in federation.peers(site) if peer.proxy == "fedsdn"
        }
        self._paths = {
            path.name: path
            for peer in federation.peers(site)
            for uplink in self._site.uplinks
            for other in peer.uplinks
            if uplink.reaches(other)
            for path in [_path(uplink, peer.name, other, now)]
        }
        self._orders = self._orders_of({}, frozenset())

    def __iter__(self) -> Iterator[Path]:
        return iter(self._paths.values())

    def probed(self) -> list[Path]:
        """Return the paths over which probes are sent, if any are."""
        return [path for path in self if path.name.peer in self._peers]

    def inherit(self, old: Paths) -> None:
        """Take over the states of those paths of an older federation that are still there."""
        self._rounds = old._rounds
        self.ports |= {name: port for name, port in old.ports.items() if name in self.ports}
        self._peers |= {name: peer for name, peer in old._peers.items() if name in self._peers}
        for peer in self._peers.values():
            if peer.file == old._file != self._file:
                peer.differs_since = self._began
        before = dict.fromkeys((path.pair for path in old), self._began) | old._removed
        pairs = {path.pair for path in self}
        self._removed = {pair: since for pair, since in before.items() if pair not in pairs}
        self._paths |= {
            name: known
            for name, known in old._paths.items()
            if name in self._paths and self._paths[name].pair == known.pair
        }
        self._forget_recovered()
        self._orders = self._orders_of({}, frozenset())

    # What happens

    def set_ports(self, ports: Mapping[str, PortState], now: float) -> bool:
        """Note the ports' states, by uplink; True if that is news."""
        if ports == self.ports:
            return False
        for path in self:
            before, after = self.ports[path.name.uplink], ports[path.name.uplink]
            if before in _DEAD_PORT and after not in _DEAD_PORT:
                path.reception = path.reception.restart(now)
        self.ports = dict(ports)
        self.urgent = self._probed
        return True

    def next_round(self, now: float, *, leaving: bool = False) -> list[tuple[Path, Probe]]:
        """Return a probe for every path whose own port is not down."""
        if not self._probed:
            return []
        self._rounds = self._rounds.next(now)
        self.urgent = False
        down = tuple(name for name, port in self.ports.items() if port in _DEAD_PORT)
        theirs: dict[str, list[PathName]] = {name: [] for name in self._peers}
        for path in self.probed():
            if path.liveness.condition is Condition.DETECTED:
                theirs[path.name.peer].append(path.name)
        lost = {}
        for name, peer in self._peers.items():
            agreement, lost[name] = peer.agreement.tell(self._rounds.number, theirs[name], down)
            peer.agreement = agreement
        return [
            (path, self._probe(path, now, down, lost[path.name.peer], leaving))
            for path in self.probed()
            if path.name.uplink not in down
        ]

    def _probe(
        self,
        path: Path,
        now: float,
        down: tuple[str, ...],
        lost: tuple[tuple[str, str], ...],
        leaving: bool,
    ) -> Probe:
        epoch, number = (0, 0) if path.heard is None else path.reception.newest
        return Probe(
            site=self._site.name,
            uplink=path.name.uplink,
            to=path.name.peer,
            to_uplink=path.name.peer_uplink,
            epoch=self._epoch,
            number=self._rounds.number,
            heard_epoch=epoch,
            heard=number,
            heard_ago=0 if path.heard is None else round((now - path.heard) * 1e6),
            down=down,
            lost=lost,
            leaving=leaving,
            file=self._file,
        )

    def take(self, probe: Probe, now: float) -> bool:
        """Take in a probe; True if paths have to be judged anew because of it."""
        path = self._paths.get(PathName(probe.to_uplink, probe.site, probe.uplink))
        peer = self._peers.get(probe.site)
        if probe.to != self._site.name:
            return False
        if path is None or peer is None:
            self._note_stranger(probe, now)
            return False
        ours = probe.heard_epoch == self._epoch
        sent = self._rounds.sent(probe.heard) if ours else None
        reception = path.reception.take(probe, now, sent)
        if reception is path.reception:
            return False
        path.reception = reception
        self._note_file(peer, probe, now)
        restarted = peer.agreement.restarted(probe)
        peer.contact = peer.contact.take(reception, now, self._probes, restarted=restarted)
        if restarted:
            peer.agreement = peer.agreement.forget_acknowledgement()
        news = ours and self._take_report(peer, probe)
        return news or path.state is not PathState.UP

    def _note_file(self, peer: _Peer, probe: Probe, now: float) -> None:
        if peer.file != probe.file and peer.file in (None, self._file):
            peer.differs_since = now
        peer.file = probe.file

    def _note_stranger(self, probe: Probe, now: float) -> None:
        """Note a probe on a path that our file does not have; its signature is good."""
        name = probe.site
        peer = self._peers.get(name) or self._strangers.get(name)
        if peer is None and len(self._strangers) < _MOST_STRANGERS:
            peer = self._strangers[name] = _Peer()
        if peer is not None:
            self._note_file(peer, probe, now)

    def differing(self) -> list[DifferingFile]:
        """Return the sites whose files are others than ours, by what was heard of them last.

        Times are those of our clock.
        """
        every = {**self._strangers, **self._peers}
        return [
            DifferingFile(name, peer.file, peer.differs_since)
            for name, peer in every.items()
            if peer.file is not None and peer.file != self._file
        ]

    def _take_report(self, peer: _Peer, probe: Probe) -> bool:
        """Take in what a peer acknowledges and reports; True if that is news."""
        before = peer.agreement
        after = peer.agreement = before.take(probe)
        # A peer that reports a loss waits for our acknowledgement.
        self.urgent |= after.report.adds_to(before.report)
        return after.report != before.report or after.acknowledges_more_than(before)

    # What follows

    def judge(self, now: float) -> list[Path]:
        """Judge every path anew; return those whose state changed."""
        before = self._detected()
        changed = [path for path in self if self._judge(path, now)]
        self.urgent |= self._probed and before != self._detected()
        self._forget_recovered()
        settled = self._settled(now)
        peers = {path.name.peer for path in settled}
        for path in self:
            path.teardown = self._tear_down(path, now, replaced=path.name.peer in peers)
        live = {path.pair: path.lives_since for path in settled if path.state is PathState.UP}
        patience = PATIENCE * self._probes.detection
        removed = [pair for pair, since in self._removed.items() if now - since > patience]
        self._orders = self._orders_of(live, frozenset(removed))
        return changed

    def orders(self) -> Orders:
        """Say what the kernel is to do."""
        return self._orders

    def _orders_of(
        self, live: Mapping[AddressPair, float], removed: frozenset[AddressPair]
    ) -> Orders:
        paths = ((path.name.uplink, path.pair, path.teardown) for path in self)
        return teardown.orders(paths, live, removed)

    def _detected(self) -> set[PathName]:
        return {path.name for path in self if path.liveness.condition is Condition.DETECTED}

    def _forget_recovered(self) -> None:
        detected = self._detected()
        for peer in self._peers.values():
            peer.agreement = peer.agreement.keep(detected)

    def _judge(self, path: Path, now: float) -> bool:
        before = path.liveness
        finding, report = self._finding(path, now), self._report_against(path, now)
        path.liveness = before.judge(finding, report, path.reception, now, self._probes)
        return path.liveness is not before and path.state is not before.state

    def _finding(self, path: Path, now: float) -> Finding:
        port = self.ports[path.name.uplink]
        if port in _DEAD_PORT:
            return Verdict.BAD, f"port of {path.name.uplink} is {port}"
        if not self._probed:
            return Verdict.UNPROBED, "the federation file has no 'probes'"
        peer = self._peers.get(path.name.peer)
        if peer is None:
            return Verdict.UNPROBED, f"{path.name.peer} has another's proxy ('proxy: socks5')"
        if peer.agreement.report.leaving:
            return Verdict.SILENT, f"the application of {path.name.peer} was stopped"
        contact = peer.contact
        verdict, why = judge_probes(path.reception, path.name.peer, contact, now, self._probes)
        return verdict, peer.agreement.port_report(path.name) or why

    def _report_against(self, path: Path, now: float) -> str | None:
        """Return what the peer reports against a path; None if nothing."""
        peer = self._peers.get(path.name.peer)
        if not self._probed or peer is None:
            return None
        speaks = peer.contact.speaks(now, self._probes)
        return peer.agreement.report_against(path.name, speaks=speaks)

    def _tear_down(self, path: Path, now: float, *, replaced: bool) -> Teardown:
        if not path.liveness.is_down:
            return path.teardown.after(Event.RECOVERED)
        state = path.teardown.after(Event.LOST)
        known = self._is_acknowledged(path, now)
        state = state.after(Event.ACKNOWLEDGED if known else Event.WITHDRAWN)
        if replaced and now >= self._drained_at(path):
            state = state.after(Event.REPLACED)
            if self._own_port_is_dead(path):
                state = state.after(Event.PORT_REPLACED)
        return state

    def _is_acknowledged(self, path: Path, now: float) -> bool:
        """Whether the peer has acknowledged a loss, or reports it, and so counts on other paths.

        Only the acknowledgement of a peer that speaks is accepted: its report on the other paths is
        newer than the loss. It stays valid when the peer falls silent, since the peer keeps the
        path down while it hears nothing from us.
        """
        peer = self._peers.get(path.name.peer)
        if peer is None or not self._probed:
            return False  # nobody reports which paths live
        knows = (
            peer.agreement.has_acknowledged(path.name)
            or self._report_against(path, now) is not None
        )
        counts = path.teardown.is_acknowledged or peer.contact.speaks(now, self._probes)
        return knows and counts

    def _drained_at(self, path: Path) -> float:
        own_port = self._own_port_is_dead(path)
        return teardown.drained_at(path.since, path.rtt, own_port=own_port)

    def _own_port_is_dead(self, path: Path) -> bool:
        return self.ports[path.name.uplink] in _DEAD_PORT

    def _settled(self, now: float) -> list[Path]:
        """Return the paths on which connections have had the time to open subflows.

        To peers without one, the subflows of a path that is down stay, and resume if it recovers.
        """
        return [
            path
            for path in self
            if not path.liveness.is_down and teardown.has_settled(path.lives_since, now)
        ]

    def next_deadline(self, now: float) -> float:
        """When to judge again, if no probe comes until then."""
        return min(
            (deadline for deadline in self._deadlines(now) if deadline > now), default=now + 1
        )

    def _deadlines(self, now: float) -> Iterator[float]:
        for path in self:
            if path.liveness.is_down:
                yield self._drained_at(path)
                verdict, _ = self._finding(path, now)
                if verdict in (Verdict.GOOD, Verdict.UNPROBED):
                    yield path.liveness.held_until(now, self._probes)
            for moment in (path.reception.heard, path.reception.confirmed):
                if moment is not None:
                    yield moment + self._probes.detection


def _path(uplink: Uplink, peer: str, other: Uplink, now: float) -> Path:
    name = PathName(uplink.name, peer, other.name)
    return Path(name, uplink.address.ip, other.peer_address, Reception(now), Liveness(since=now))
