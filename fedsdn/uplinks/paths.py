"""All paths of a site: what happens goes in, what follows comes out; no sockets, no clock.

``liveness`` says whether a path carries packets, ``agreement`` what each peer knows of its loss,
``teardown`` what the kernel does about it, ``pace`` how often a peer is probed, and ``peer`` joins
them for one. Here is what peers share: the ports, the time, the orders to the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

from fedsdn.config.model import AddressPair, Federation, Site
from fedsdn.uplinks.agenda import Agenda
from fedsdn.uplinks.agreement import Rounds
from fedsdn.uplinks.liveness import PATIENCE, Liveness, Reception
from fedsdn.uplinks.outgoing import Sender
from fedsdn.uplinks.pace import Kind, Pace, Shares
from fedsdn.uplinks.path import Path, PathKey, PathName, Way
from fedsdn.uplinks.peer import DEAD_PORT, LATE, Peer
from fedsdn.uplinks.probe import Probe, Refusal
from fedsdn.uplinks.status import DifferingFile, PortState
from fedsdn.uplinks.teardown import OrderBook, Orders

PHASES = 1 << 16
"""An epoch says at which of so many moments of an interval a site begins its rounds."""

_AT_ONCE = 64
"""Peers that nothing depends on are judged in turns of so many: the others' probes are due."""


_NONE: Mapping[str, Peer] = {}


class Taken(NamedTuple):
    """What has become of a probe: ``refusal`` says why it was not taken, None if it was.

    The ``greeting`` is to be sent back at once the way that it came.
    """

    refusal: Refusal | None
    greeting: Probe | None = None


class Paths:
    """Every way from an uplink of ``site`` to an uplink of a peer.

    After whatever happens ``judge`` says what has changed, ``probes`` what is to be sent now, and
    ``next_turn`` when to ask for both again.
    """

    def __init__(
        self,
        federation: Federation,
        site: str,
        epoch: int,
        now: float,
        file: str = "",
        old: Paths | None = None,
    ) -> None:
        """Begin with nothing known. ``epoch`` is this process's number, drawn by lot.

        ``file`` is the federation's digest. With ``old``, which ends by that, take over the
        states of those paths of an older federation that are still there.
        """
        self._site = federation.site(site)
        self._own = [(uplink, uplink.address.ip) for uplink in self._site.uplinks]
        self._probes = federation.probes
        self._sender = Sender(site, epoch, file, self._probes)
        self._began = now
        self._removed: dict[AddressPair, float] = {}
        """Paths that were removed from the federation file, and when."""
        self._removed_due = float("inf")
        """When the peer has noticed the next of them."""
        self._needed: Set[str] = frozenset()
        self.heard: dict[PathKey, Path] = {}
        """Paths on which probes have come; who looks at their times empties it."""
        self._last_number = 0
        """Of all rounds of probes to peers that are none any more."""
        self.ports = dict.fromkeys((up.name for up in self._site.uplinks), PortState.UNKNOWN)
        peers = federation.peers(site)
        self._sites = {peer.name: peer for peer in peers}
        same = self._same(old)
        # Not the same at two sites: if these sent at the same time, both would notice a loss late.
        first = epoch % PHASES / PHASES
        self._peers = {
            peer.name: same.get(peer.name) or self._peer(peer, (number / len(peers) + first) % 1)
            for number, peer in enumerate(peers)
        }
        if old is None:
            self._begin(now)
        else:
            self._inherit(old, same)

    def _same(self, old: Paths | None) -> dict[str, Peer]:
        """Return the peers that need not be made anew: neither they nor this site have changed."""
        if old is None or old._site != self._site or old._probes != self._probes:
            return {}
        sites = old._sites
        return {
            name: old._peers[name] for name, site in self._sites.items() if sites.get(name) == site
        }

    def _peer(self, peer: Site, phase: float) -> Peer:
        ends = [(other, other.peer_address) for other in peer.uplinks]
        paths = tuple(
            _path(PathName(uplink.name, peer.name, other.name), (own, address), self._began)
            for uplink, own in self._own
            for other, address in ends
            if uplink.reaches(other)
        )
        why = _unprobed(peer)
        pace = Pace(phase, self._probes.interval)
        return Peer(peer.name, self._sender, paths, why, pace, Rounds())

    def _begin(
        self, now: float, same: Mapping[str, Peer] = _NONE, old: Paths | None = None
    ) -> None:
        """Make what depends on all peers; with ``old``, what of that the ``same`` ones have."""
        self._paths = {path.name: path for peer in self._peers.values() for path in peer.paths}
        self._restless: dict[str, None] = {}
        """Peers that are to be judged at once."""
        self._judgements: Agenda
        self._rounds: Agenda
        self._book: OrderBook
        self._shares: Shares
        if old is not None and same:
            self._judgements, self._rounds = old._judgements, old._rounds
            self._book, self._shares = old._book, old._shares
            self._restless |= {name: None for name in old._restless if name in same}
            for name in old._peers.keys() - same.keys():
                self._forget(old._peers[name])
        else:
            self._judgements, self._rounds = Agenda(), Agenda()
            self._book, self._shares = OrderBook(), Shares(self._probes.interval)
        made = [peer for name, peer in self._peers.items() if name not in same]
        probed = [peer for peer in made if not peer.unprobed]
        for peer in probed:
            peer.join(self._shares)
        for peer in probed:
            peer.begin(self._shares, now)
        for peer in made:
            self._note(peer, now)

    def _forget(self, peer: Peer) -> None:
        """Leave out a peer, as the older federation has it, of what depends on all."""
        if not peer.unprobed:
            self._shares.move(len(peer.paths), peer.kind, None)
        self._judgements.forget(peer.name)
        self._rounds.forget(peer.name)
        for path in peer.paths:
            self._book.forget(path.pair)

    def __iter__(self) -> Iterator[Path]:
        return iter(self._paths.values())

    def probed(self) -> list[Path]:
        """Return the paths over which probes are sent, if any are."""
        every = (peer.paths for peer in self._peers.values() if not peer.unprobed)
        return [path for paths in every for path in paths]

    def _inherit(self, old: Paths, same: Mapping[str, Peer]) -> None:
        """Take over what an older federation's paths know; ``same`` are peers that have it."""
        now = self._began
        self.ports |= {name: port for name, port in old.ports.items() if name in self.ports}
        gone = [peer.rounds.number for name, peer in old._peers.items() if name not in self._peers]
        self._last_number = max(old._last_number, *gone, 0)
        self._needed = old._needed
        for name, peer in self._peers.items():
            if name in same:
                peer.stay(self._sender, now)
            elif name in old._peers:
                peer.inherit(old._peers[name], now)
            else:
                peer.rounds = Rounds(self._last_number)
                peer.doubt(now)
                peer.need(now, needed=name in self._needed)
        others = [peer for name, peer in old._peers.items() if name not in same]
        left = {path.pair: now for peer in others for path in peer.paths} | old._removed
        self._begin(now, same, old)
        self._removed = {pair: since for pair, since in left.items() if pair not in self._book}
        self._end_removed(now)

    # What happens

    def set_ports(self, ports: Mapping[str, PortState], now: float) -> bool:
        """Note the ports' states, by uplink; True if that is news."""
        if ports == self.ports:
            return False
        for path in self:
            before, after = self.ports[path.name.uplink], ports[path.name.uplink]
            if before in DEAD_PORT and after not in DEAD_PORT:
                path.reception = path.reception.restart(now)
        self.ports = dict(ports)
        for peer in self._peers.values():
            self._restless[peer.name] = None
            if not peer.unprobed and peer.is_fast():
                peer.pace.hurry(now)
                self._rounds.note(peer.name, peer.pace.due)
        return True

    def need(self, names: Set[str], now: float) -> None:
        """Note the peers that connections depend on; others were told of before."""
        for name in names ^ self._needed:
            peer = self._peers.get(name)
            if peer is not None and peer.need(now, needed=name in names) and not peer.unprobed:
                peer.pace.hurry(now)
                self._rounds.note(name, peer.pace.due)
        self._needed = frozenset(names)

    def take(self, probe: Probe, way: Way, now: float) -> Taken:
        """Take in a probe that came by a ``way``.

        Its signature has been found right: it is for this site, by the site that it names.
        """
        peer = self._peers.get(probe.site)
        if peer is None or peer.unprobed:
            return Taken(Refusal.UNKNOWN)
        path = self._paths.get(PathName(probe.to_uplink, probe.site, probe.uplink))
        if path is None:
            peer.note_file(probe, now)
        if path is None or path.way != way:
            return Taken(Refusal.PATH)
        taken = peer.take(path, probe, now)
        greeting = peer.greeting(path, probe, self.ports, now)
        if isinstance(taken, Refusal):
            return Taken(taken, greeting)
        self.heard[path.key] = path
        if taken:
            self._restless[peer.name] = None
            self._rounds.note(peer.name, peer.pace.due)
        return Taken(None, greeting)

    def differing(self, now: float) -> list[DifferingFile]:
        """Return the sites whose files are others than ours, by what was heard within a minute.

        Times are those of our clock.
        """
        every = ((name, peer.file) for name, peer in self._peers.items())
        return [
            DifferingFile(name, heard.digest, heard.since)
            for name, heard in every
            if heard.digest is not None and heard.differs(self._sender.file, now)
        ]

    # What follows

    def judge(self, now: float) -> list[Path]:
        """Judge what has to be; return the paths whose state, or ``current``, has changed."""
        due = dict.fromkeys((*self._restless, *self._judgements.pop(now)))
        first = [name for name in due if self._peers[name].kind is Kind.BUSY]
        others = [name for name in due if self._peers[name].kind is not Kind.BUSY]
        self._restless = dict.fromkeys(others[_AT_ONCE:])
        changed: list[Path] = []
        for name in (*first, *others[:_AT_ONCE]):
            peer = self._peers[name]
            changed += peer.judge(self.ports, now)
            self._note(peer, now)
        if now >= self._removed_due:
            self._end_removed(now)
        return changed

    def _end_removed(self, now: float) -> None:
        """Have those subflows ended on removed paths whose peers have noticed."""
        patience = PATIENCE * self._probes.detection + LATE
        due = {pair: since + patience for pair, since in self._removed.items()}
        self._book.set_removed(frozenset(pair for pair, when in due.items() if when <= now))
        self._removed_due = min((when for when in due.values() if when > now), default=float("inf"))

    def _note(self, peer: Peer, now: float) -> None:
        """Note what follows for a peer that was judged."""
        for path in peer.paths:
            lives = peer.live_since(path, now)
            self._book.note(path.name.uplink, path.pair, path.teardown, lives)
        self._judgements.note(peer.name, peer.deadline)
        if not peer.unprobed:
            self._rounds.note(peer.name, peer.pace.due)

    def probes(self, now: float) -> Iterator[tuple[Path, Probe]]:
        """Yield the probes that are to be sent now."""
        for name in self._rounds.pop(now):
            peer = self._peers[name]
            before = peer.rhythm
            yield from peer.next_round(self.ports, self._shares, now)
            self._rounds.note(name, peer.pace.due)
            if peer.rhythm != before:
                self._restless[name] = None

    def last_probes(self, now: float) -> Iterator[tuple[Path, Probe]]:
        """Yield probes that say that no more follow, to all who would notice."""
        for peer in self._peers.values():
            if not peer.unprobed and peer.kind is not Kind.ABSENT:
                yield from peer.next_round(self.ports, self._shares, now, leaving=True)

    def next_turn(self) -> float:
        """When to judge and to send probes again, if nothing happens until then."""
        if self._restless:
            return float("-inf")
        return min(self._judgements.next(), self._rounds.next(), self._removed_due)

    @property
    def has_new_orders(self) -> bool:
        """Whether ``orders`` has changed since it was called last."""
        return self._book.changed

    def orders(self) -> Orders:
        """Say what the kernel is to do."""
        return self._book.orders()


def _path(name: PathName, pair: AddressPair, now: float) -> Path:
    return Path(name, *pair, Reception(now), Liveness(since=now))


def _unprobed(peer: Site) -> str:
    """Say why a peer is not probed; nothing if it is."""
    return "" if peer.proxy == "fedsdn" else f"{peer.name} has another's proxy ('proxy: socks5')"
