"""Which paths carry what is not TCP, to all peers of a site; no sockets, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from fedsdn.config.model import Address, Family, Federation, Network
from fedsdn.tunnels.plan import tunnels
from fedsdn.tunnels.sessions import End
from fedsdn.uplinks.path import Path, PathKey
from fedsdn.uplinks.routes.carriers import Carriers, Seen
from fedsdn.uplinks.routes.groups import Exit, PeerRoutes, Wanted
from fedsdn.uplinks.status import PathState


class Choices:
    """Follows the states of paths. Those without a tunnel have no part in it."""

    def __init__(self, federation: Federation, name: str, old: Choices | None = None) -> None:
        """Begin for the site called ``name``, with what carries by an older federation file."""
        site = federation.site(name)
        self._prefer = site.prefer
        self._sources: dict[Family, Address] = {}
        for prefix in site.prefixes:
            self._sources.setdefault(prefix.family, prefix.proxy_address)
        self._exits: dict[PathKey, Exit] = {}
        self._prefixes: dict[str, tuple[Network, ...]] = {}
        self._paths: dict[str, dict[PathKey, Path]] = {}
        for tunnel in tunnels(federation, site):
            for peer in tunnel.peers:
                key = tunnel.uplink, peer.site, peer.uplink
                self._exits[key] = Exit(tunnel.name, peer.next_hop)
                self._prefixes[peer.site] = peer.prefixes
                self._paths[peer.site] = {}
        self._carriers = dict.fromkeys(self._prefixes, Carriers())
        self._reached: dict[str, tuple[Set[PathKey], PeerRoutes]] = {}
        """What was wanted last for each peer, and the paths that carried then."""
        self._silent: Set[End] = frozenset()
        if old is not None:
            self._silent = old._silent
            before = old._carriers.items()
            self._carriers |= {peer: one for peer, one in before if peer in self._carriers}

    def take_over(self, carried: Mapping[Network, frozenset[str]], now: float) -> None:
        """Begin with what the kernel has: over which interfaces prefixes are reached."""
        for peer, prefixes in self._prefixes.items():
            names = frozenset[str]().union(*(carried.get(prefix, ()) for prefix in prefixes))
            keys = (key for key, found in self._exits.items() if found.interface in names)
            live = frozenset(key for key in keys if key[1] == peer)
            self._carriers[peer] = Carriers(live, live)
        self._judge_all(now)

    def end(self, key: PathKey) -> End | None:
        """Return which tunnel a path has; None without one."""
        found = self._exits.get(key)
        return None if found is None else (found.interface, key[1])

    def live(self) -> set[End]:
        """Return the tunnels whose paths are up."""
        every = (path for paths in self._paths.values() for path in paths.values())
        up = (self.end(path.key) for path in every if path.state is PathState.UP)
        return {end for end in up if end is not None}

    def take(self, paths: Iterable[Path], now: float) -> bool:
        """Follow paths that are new, or whose state has changed; True if others carry now."""
        peers = set()
        for path in paths:
            if path.key in self._exits:
                self._paths[path.name.peer][path.key] = path
                peers.add(path.name.peer)
        moved = [self._judge(peer, now) for peer in peers]
        return any(moved)

    def judge(self, now: float) -> bool:
        """Follow the paths' round-trip times, if they count; True if others carry now."""
        return self._prefer == "latency" and self._judge_all(now)

    def _judge_all(self, now: float) -> bool:
        moved = [self._judge(peer, now) for peer in self._paths]
        return any(moved)

    def is_silent(self, end: End) -> bool:
        """Whether nothing comes by a tunnel, as far as is known."""
        return end in self._silent

    def set_silent(self, silent: Set[End], now: float) -> bool:
        """Note the tunnels by which nothing comes; True if others carry now."""
        if silent == self._silent:
            return False
        self._silent = silent
        return self._judge_all(now)

    def _judge(self, peer: str, now: float) -> bool:
        before = self._carriers[peer]
        seen = [
            Seen(key, path.state, path.rtt, not self.is_silent((self._exits[key].interface, peer)))
            for key, path in self._paths[peer].items()
        ]
        after = self._carriers[peer] = before.after(seen, self._prefer, now)
        return after.paths != before.paths

    def wanted(self) -> Wanted:
        """Say what the kernel is to have."""
        return Wanted(tuple(map(self._peer_routes, self._carriers)), self._sources)

    def _peer_routes(self, peer: str) -> PeerRoutes:
        """Return what is wanted for a peer: the same object while the same paths carry."""
        paths = self._carriers[peer].paths
        known = self._reached.get(peer)
        if known is None or known[0] != paths:
            exits = frozenset(self._exits[key] for key in paths)
            known = self._reached[peer] = paths, PeerRoutes(self._prefixes[peer], exits)
        return known[1]
