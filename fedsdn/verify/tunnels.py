"""What the tunnels to the peers are doing: an interface and a peer for each path."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from fedsdn.config.model import Federation, Site
from fedsdn.shell import COMMAND_SECONDS, Shell
from fedsdn.tunnels.plan import Tunnel, TunnelKind, TunnelPeer, tunnels
from fedsdn.tunnels.wireguard import PeerState, read_peers
from fedsdn.units import ago
from fedsdn.uplinks.path import PathName
from fedsdn.uplinks.status import PathState, SiteStatus
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.view import SiteView

_ATTEMPTS_BYTES = 3 * 148
"""What three attempts at a handshake are (the paper's section 5.4.2); one more comes each 5 s."""
_SESSION_SECONDS = 180.0
"""So long after its handshake a session ends (section 6.1)."""
_STALE_SECONDS = 240.0
"""After so long a session has ended, and keepalives have not seen to a new one before."""
_SETTLE_SECONDS = 60.0
"""So long a path has to live before its tunnel is judged: handshakes that cross fail, and so may
the next ones."""
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class TunnelView:
    """The tunnel of a path.

    ``there`` says whether the interface is, ``known`` whether it has the peer, too. ``sent`` and
    ``received`` are its bytes on the uplink, without the headers of IP and UDP; of a VXLAN they are
    the packets' inside. ``handshake`` is when the last one ended (Unix time), None if there was
    none.
    """

    path: PathName
    interface: str
    kind: TunnelKind
    port: int
    there: bool
    known: bool
    handshake: float | None = None
    sent: int = 0
    received: int = 0


def read_tunnels(
    federation: Federation, site: Site, proxy: Shell, timeout: float = COMMAND_SECONDS
) -> list[TunnelView]:
    """Ask WireGuard and the kernel in the proxy's namespace.

    Raises:
        FedsdnError: one of them does not answer, or not within ``timeout`` seconds.

    """
    planned = tunnels(federation, site)
    if not planned:
        return []
    encrypted = any(tunnel.kind is TunnelKind.WIREGUARD for tunnel in planned)
    peers = read_peers(proxy, timeout) if encrypted else []
    counters = parse_counters(proxy.output("cat", "/proc/net/dev", timeout=timeout))
    return list(views(planned, federation, peers, counters))


def parse_counters(text: str) -> dict[str, tuple[int, int]]:
    """Read bytes sent and received by interface from /proc/net/dev (proc_pid_net(5))."""
    counters = {}
    for line in text.splitlines()[2:]:
        name, _, values = line.partition(":")
        received, sent = (int(values.split()[column]) for column in (0, 8))
        counters[name.strip()] = (sent, received)
    return counters


def views(
    planned: Iterable[Tunnel],
    federation: Federation,
    peers: Iterable[PeerState],
    counters: Mapping[str, tuple[int, int]],
) -> Iterator[TunnelView]:
    """Join the plan, what WireGuard says, and the interfaces' bytes sent and received."""
    states = {(state.interface, state.key): state for state in peers}
    for tunnel in planned:
        for peer in tunnel.peers:
            path = PathName(tunnel.uplink, peer.site, peer.uplink)
            there = tunnel.name in counters
            if tunnel.kind is TunnelKind.VXLAN:
                state = PeerState(tunnel.name, "", None, *counters[tunnel.name]) if there else None
            else:
                state = _joined(list(_states(federation, tunnel, peer, states)))
            known = there and state is not None
            found = TunnelView(path, tunnel.name, tunnel.kind, tunnel.port, there, known)
            yield (
                found
                if state is None
                else replace(
                    found, handshake=state.handshake, sent=state.sent, received=state.received
                )
            )


def _states(
    federation: Federation,
    tunnel: Tunnel,
    peer: TunnelPeer,
    states: Mapping[tuple[str, str], PeerState],
) -> Iterator[PeerState]:
    """Yield what an interface knows of a peer, under each of its keys."""
    for identity in federation.site(peer.site).identities:
        state = states.get((tunnel.name, b64encode(identity.tunnel_key).decode()))
        if state is not None:
            yield state


def _joined(states: list[PeerState]) -> PeerState | None:
    """Take the states of a peer that goes over to another key for one."""
    if not states:
        return None
    return replace(
        max(states, key=lambda state: state.handshake or 0.0),
        sent=sum(state.sent for state in states),
        received=sum(state.received for state in states),
    )


def tunnels_line(view: SiteView, status: SiteStatus | None) -> str:
    """See that there is a tunnel for each path, and that what is sent over live ones arrives.

    Raises:
        CheckFailedError: it is not so.

    """
    found = read_tunnels(view.federation, view.site, view.proxy)
    now = float(view.shell.output("date", "+%s"))  # a host's clock is its own
    return judged(found, live_paths(status), now, (view.set_up, view.start_application))


def live_paths(status: SiteStatus | None) -> dict[PathName, float]:
    """Return the paths whose probes are answered, and since when (Unix time)."""
    return {
        PathName(path.uplink, path.peer, path.peer_uplink): path.since
        for path in (status.paths if status else ())
        if path.state is PathState.UP
    }


def judged(
    found: Iterable[TunnelView],
    live: Mapping[PathName, float],
    now: float,
    fixes: tuple[str, str],
) -> str:
    """Say in a line how tunnels are; ``fixes`` make interfaces, and give them their peers.

    Raises:
        CheckFailedError: one is missing, or a live path has a tunnel that nobody answers.

    """
    every = list(found)
    if not every:
        return "none: no peer takes anything but TCP"
    if absent := [view for view in every if not view.there]:
        raise CheckFailedError(f"{_named(absent)}: no interface {absent[0].interface}", fixes[0])
    if unknown := [view for view in every if not view.known]:
        raise CheckFailedError(
            f"{_named(unknown)}: {unknown[0].interface} does not have the peer", fixes[1]
        )
    secured = [view for view in every if view.kind is TunnelKind.WIREGUARD]
    unheard = [view for view in secured if _is_unheard(view, live.get(view.path), now)]
    if unheard:
        raise CheckFailedError(
            f"{_named(unheard)}: probes are answered, WireGuard is not",
            f"let UDP to and from port {unheard[0].port} pass between the uplinks, and compare the "
            "keys: fedsdn identity check, at both sites",
        )
    shaken = [view.handshake for view in secured if view.handshake is not None]
    latest = f", the latest handshake {ago(max(shaken), now)} ago" if shaken else ""
    clear = sorted({view.path.peer for view in every if view.kind is TunnelKind.VXLAN})
    plain = f"; not encrypted: with {', '.join(clear)}" if clear else ""
    if not secured:
        return f"{len(every)}{plain}"
    sessions = sum(now - handshake < _SESSION_SECONDS for handshake in shaken)
    return f"{sessions} of {len(secured)} with a session{latest}{plain}"


def _is_unheard(view: TunnelView, lives_since: float | None, now: float) -> bool:
    """Whether nobody answers what is sent to a peer, though its path lives."""
    if lives_since is None or now - lives_since < _SETTLE_SECONDS:
        return False
    if view.handshake is None:
        return view.sent >= _ATTEMPTS_BYTES
    return now - view.handshake > _STALE_SECONDS


def _named(some: list[TunnelView]) -> str:
    named = ", ".join(str(view.path) for view in some[:_MOST_NAMED])
    return named + (f" and {len(some) - _MOST_NAMED} more" if some[_MOST_NAMED:] else "")
