"""All paths of a site, and what is to be done about them: no sockets, no clock of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedsdn.config.model import AddressPair, Federation, Probes, Uplink
from fedsdn.uplinks.path import PATIENCE, Finding, Path, PathName, Verdict
from fedsdn.uplinks.probe import MOST_LOST, Probe
from fedsdn.uplinks.status import PathState, PortState

_REMEMBERED_ROUNDS = 256
_UNPROBED = Probes(key="")
"""Times for damping the ports where paths are not probed."""

ACKNOWLEDGED = 0.75
"""Part of the round-trip time after which most of what was delivered is acknowledged, once an
uplink is lost. Half of it, if all that was under way was lost too, as with the whole of a wire; all
of it, if everything still arrived, as with a port that is set down. Which it was is not known."""

_DEAD_PORT = (PortState.DOWN, PortState.ABSENT)


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


@dataclass(slots=True)
class _Peer:
    """What is known from a peer's probes, by whichever path they came.

    ``down``, ``lost`` and ``leaving`` are what the ``newest`` of them says.
    """

    newest: tuple[int, int] = (0, 0)
    down: tuple[str, ...] = ()
    lost: tuple[tuple[str, str], ...] = ()
    leaving: bool = False
    knows: int = 0
    """The newest of our rounds of which it tells."""
    told: int = 0
    """The last round that told it of another path that was found dead."""
    heard: float = float("-inf")
    confirmed: float = float("-inf")
    """When the peer had the newest of our probes that it tells of, by whichever path that came."""
    appeared: float = float("-inf")
    """When its probes began to come, after its application's start or after a silence."""


class Paths:
    """Every way from an uplink of ``site`` to an uplink of a peer."""

    def __init__(self, federation: Federation, site: str, epoch: int, now: float) -> None:
        """Begin with nothing known. ``epoch`` is the start of this process, in ns of Unix time."""
        self._site = federation.site(site)
        self._probed = federation.probes is not None
        self._probes = federation.probes or _UNPROBED
        self._epoch = epoch
        self._round = 0
        self.urgent = False
        """Whether there is something to tell for which the next round may not wait."""
        self._sent: dict[int, float] = {}
        self._live: dict[AddressPair, float] = {}
        self._began = now
        self._removed: dict[AddressPair, float] = {}
        """Paths that the federation file had before it was changed, and since when no more."""
        self._gone: frozenset[AddressPair] = frozenset()
        """Those of them that peers have had the time to find silent."""
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

    def __iter__(self) -> Iterator[Path]:
        return iter(self._paths.values())

    def probed(self) -> list[Path]:
        """Return the paths over which probes are sent, if any are."""
        return [path for path in self if path.name.peer in self._peers]

    def inherit(self, old: Paths) -> None:
        """Take over what an older federation's paths have found out about those that are left."""
        self._round, self._sent = old._round, old._sent
        self.ports |= {name: port for name, port in old.ports.items() if name in self.ports}
        self._peers |= {name: peer for name, peer in old._peers.items() if name in self._peers}
        pairs = {path.pair for path in self}
        before = dict.fromkeys((path.pair for path in old), self._began) | old._removed
        self._removed = {pair: since for pair, since in before.items() if pair not in pairs}
        for name, path in self._paths.items():
            known = old._paths.get(name)
            if known and (known.local, known.remote) == (path.local, path.remote):
                self._paths[name] = known

    # What happens

    def set_ports(self, ports: Mapping[str, PortState], now: float) -> bool:
        """Note the ports' states, by uplink; True if that is news."""
        if ports == self.ports:
            return False
        for path in self:
            before, after = self.ports[path.name.uplink], ports[path.name.uplink]
            if before in _DEAD_PORT and after not in _DEAD_PORT:
                path.restart(now)
        self.ports = dict(ports)
        self.urgent = self._probed
        return True

    def next_round(self, now: float, *, leaving: bool = False) -> list[tuple[Path, Probe]]:
        """Make one probe for every path whose own port is not down."""
        if not self._probed:
            return []
        self._round += 1
        self.urgent = False
        self._sent[self._round] = now
        self._sent.pop(self._round - _REMEMBERED_ROUNDS, None)
        down = tuple(name for name, port in self.ports.items() if port in _DEAD_PORT)
        lost = self._tell_lost(down)
        return [
            (path, self._probe(path, now, down, tuple(lost[path.name.peer]), leaving))
            for path in self.probed()
            if path.name.uplink not in down
        ]

    def _tell_lost(self, down: tuple[str, ...]) -> dict[str, list[tuple[str, str]]]:
        """Return what each peer is told of paths that were found dead, and note that it is."""
        lost: dict[str, list[tuple[str, str]]] = {peer: [] for peer in self._peers}
        found = [path for path in self if path.found and path.name.peer in lost]
        for path in sorted(found, key=lambda path: path.told is None):
            peer, names = self._peers[path.name.peer], lost[path.name.peer]
            if path.name.uplink not in down:  # else that says it
                if path.name.peer_uplink in peer.down or len(names) == MOST_LOST:
                    path.told = None
                    continue
                names.append((path.name.uplink, path.name.peer_uplink))
            if path.told is None:
                path.told = peer.told = self._round
        return lost

    def _probe(
        self,
        path: Path,
        now: float,
        down: tuple[str, ...],
        lost: tuple[tuple[str, str], ...],
        leaving: bool,
    ) -> Probe:
        epoch, number = (0, 0) if path.heard is None else path.newest
        return Probe(
            site=self._site.name,
            uplink=path.name.uplink,
            to=path.name.peer,
            to_uplink=path.name.peer_uplink,
            epoch=self._epoch,
            number=self._round,
            heard_epoch=epoch,
            heard=number,
            heard_ago=0 if path.heard is None else round((now - path.heard) * 1e6),
            down=down,
            lost=lost,
            leaving=leaving,
        )

    def take(self, probe: Probe, now: float) -> bool:
        """Note a probe that came; True if it changes more than the time of the last one."""
        path = self._paths.get(PathName(probe.to_uplink, probe.site, probe.uplink))
        if probe.to != self._site.name or path is None or probe.site not in self._peers:
            return False
        ours = probe.heard_epoch == self._epoch
        if not path.take(probe, now, self._sent.get(probe.heard) if ours else None):
            return False
        news = path.state is not PathState.UP
        peer = self._peers[probe.site]
        peer.confirmed = max(peer.confirmed, path.confirmed or peer.confirmed)
        if probe.epoch > peer.newest[0]:
            peer.knows = 0
        if probe.epoch > peer.newest[0] or now - peer.heard >= self._probes.detection:
            peer.appeared = now
        peer.heard = now
        # Only from one that has heard this process: what it said to an older one may be replayed.
        if ours:
            known, peer.knows = peer.knows, max(peer.knows, probe.heard)
            news |= known < peer.told <= peer.knows
            news |= self._take_word(peer, probe)
        return news

    def _take_word(self, peer: _Peer, probe: Probe) -> bool:
        """Note what a peer says, if it is the newest; True if it is not what it said before."""
        if (probe.epoch, probe.number) <= peer.newest:
            return False
        peer.newest = (probe.epoch, probe.number)
        before = (peer.down, peer.lost, peer.leaving)
        # One that has told of a loss waits until it knows that we know.
        self.urgent |= not set(probe.lost) <= set(peer.lost)
        self.urgent |= not set(probe.down) <= set(peer.down)
        peer.down, peer.lost, peer.leaving = probe.down, probe.lost, probe.leaving
        return before != (peer.down, peer.lost, peer.leaving)

    # What follows

    def judge(self, now: float) -> list[Path]:
        """Judge every path anew; return those whose state changed."""
        before = self._found()
        changed = [path for path in self if self._judge(path, now)]
        self.urgent |= self._probed and before != self._found()
        for path in self:
            if path.state is not PathState.DOWN:
                path.given_up = path.agreed = path.ended = False
                continue
            path.agreed = self._agreed(path, now)
            if now >= self._ends_at(path) and self._has_successor(path, now):
                path.given_up |= path.agreed or self._own_port_is_dead(path)
                path.ended |= path.agreed
        self._live = {
            path.pair: path.lives_since
            for path in self
            if path.state is PathState.UP and path.settled(now)
        }
        patience = PATIENCE * self._probes.detection
        self._gone = frozenset(
            pair for pair, since in self._removed.items() if now - since > patience
        )
        return changed

    def _judge(self, path: Path, now: float) -> bool:
        return path.judge(self._verdict(path, now), self._word(path, now), now, self._probes)

    def _found(self) -> set[PathName]:
        return {path.name for path in self if path.found}

    def _agreed(self, path: Path, now: float) -> bool:
        """Whether the peer is known to know that a path is dead, so that it counts on others.

        Each site may lose another path: if either ended what it lost, connections would have
        nothing left. So the peer has to know first; its word on the paths is newer then. What a
        peer knows it holds against the path when it hears no more from here.
        """
        peer = self._peers.get(path.name.peer)
        if peer is None or not self._probed:
            return False  # nobody says what lives
        told = path.told is not None and peer.knows >= path.told
        knows = told or self._word(path, now) is not None
        return knows and (path.agreed or self._speaks(peer, now))

    def _speaks(self, peer: _Peer, now: float) -> bool:
        """Whether what a peer has said last still holds."""
        return now - peer.heard < self._probes.detection

    def _ends_at(self, path: Path) -> float:
        """When the subflows of a path that is down may end.

        What a subflow has under way when it ends is sent again in order, what was delivered and not
        acknowledged yet before what was lost (net/mptcp/protocol.c,
        ``__mptcp_retransmit_pending_data``). A loss of one's own port is known before any of those
        acknowledgements has come: ended at once, it is twice as long a silence.
        """
        known_at_once = self._own_port_is_dead(path)
        return path.since + ACKNOWLEDGED * (path.rtt or 0.0) if known_at_once else path.since

    def _own_port_is_dead(self, path: Path) -> bool:
        return self.ports[path.name.uplink] in _DEAD_PORT

    def _has_successor(self, path: Path, now: float) -> bool:
        """Whether connections have had the time to get subflows on another path to the peer.

        Until then those of a path that is down stay, and go on by themselves if it comes back: the
        kernel gives a connection up ``close_timeout`` after its last subflow has been ended.
        """
        return any(
            other.name.peer == path.name.peer
            and other.state is not PathState.DOWN
            and other.settled(now)
            for other in self
        )

    def _verdict(self, path: Path, now: float) -> Finding:
        port = self.ports[path.name.uplink]
        if port in _DEAD_PORT:
            return Verdict.BAD, f"port of {path.name.uplink} is {port}"
        if not self._probed:
            return Verdict.UNPROBED, "the federation file has no 'probes'"
        peer = self._peers.get(path.name.peer)
        if peer is None:
            return Verdict.UNPROBED, f"{path.name.peer} has another's proxy ('proxy: socks5')"
        if peer.leaving:
            return Verdict.SILENT, f"the application of {path.name.peer} was stopped"
        verdict, why = self._heard(path, peer, now)
        return verdict, self._port_word(path, peer) or why

    def _word(self, path: Path, now: float) -> str | None:
        """Return what the peer says against a path; None if it says nothing."""
        peer = self._peers.get(path.name.peer)
        if not self._probed or peer is None or peer.leaving:
            return None
        lost = (path.name.peer_uplink, path.name.uplink) in peer.lost and self._speaks(peer, now)
        return self._port_word(path, peer) or (
            f"{path.name.peer} says it is dead" if lost else None
        )

    def _port_word(self, path: Path, peer: _Peer) -> str | None:
        down = path.name.peer_uplink in peer.down
        return f"{path.name.peer} says that its port is down" if down else None

    def _heard(self, path: Path, peer: _Peer, now: float) -> Finding:
        """Judge by what comes from the peer, and by what the peer says of what comes to it."""
        detection = self._probes.detection
        clearly = detection - 1.5 * self._probes.interval
        silence = f"{detection * 1000:.0f} ms"
        last = max(peer.appeared, path.opened if path.heard is None else path.heard)
        if now - last >= detection:
            # Another path must have been heard clearly later: else it is the peer that is silent.
            if peer.heard - last > clearly:
                return Verdict.BAD, f"nothing has come for {silence}"
            return Verdict.SILENT, f"nothing comes from {path.name.peer}"
        told = max(peer.appeared, path.opened if path.confirmed is None else path.confirmed)
        # What the peer said last is believed to go on for as long as its next probe is not late.
        said = now if now - last < 1.5 * self._probes.interval else last
        if said - told >= detection:
            # The same the other way: it may be this process that was not run for a while.
            if peer.confirmed - told > clearly:
                return Verdict.BAD, f"{path.name.peer} has heard nothing for {silence}"
            return Verdict.SILENT, f"{path.name.peer} hears nothing, by no path"
        # A peer that has only just appeared may still be silent on this path.
        oldest = min(path.heard or float("-inf"), path.confirmed or float("-inf"))
        if said - oldest >= detection:
            return Verdict.SILENT, "no probe has been answered yet"
        return Verdict.GOOD, "probes come and are answered"

    def next_deadline(self, now: float) -> float:
        """When to judge again, if no probe comes until then."""
        return min(
            (deadline for deadline in self._deadlines(now) if deadline > now), default=now + 1
        )

    def _deadlines(self, now: float) -> Iterator[float]:
        for path in self:
            if path.state is PathState.DOWN:
                yield self._ends_at(path)
                verdict, _ = self._verdict(path, now)
                if verdict in (Verdict.GOOD, Verdict.UNPROBED):
                    yield path.held_until(now, self._probes)
            for moment in (path.heard, path.confirmed):
                if moment is not None:
                    yield moment + self._probes.detection

    def orders(self) -> Orders:
        """Say what the kernel is to do."""
        given_up = {path.name for path in self if path.given_up}
        down_pairs = {path.pair for path in self if path.state is PathState.DOWN}
        dead_pairs = {path.pair for path in self if path.ended and path.agreed}
        return Orders(
            usable=frozenset(path.name.uplink for path in self if path.state is not PathState.DOWN),
            dead=frozenset(
                {name.uplink for name in given_up}
                - {path.name.uplink for path in self if not path.given_up}
            ),
            dead_pairs=self._gone | dead_pairs,
            down_pairs=frozenset(down_pairs - dead_pairs),
            live_pairs=self._live,
        )


def _path(uplink: Uplink, peer: str, other: Uplink, now: float) -> Path:
    name = PathName(uplink.name, peer, other.name)
    return Path(name, uplink.address.ip, other.peer_address, opened=now, since=now)
