"""The flows that are not TCP's between this site and others, out of conntrack and the plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from fedsdn import namespace
from fedsdn.channel.connection import Direction
from fedsdn.config.model import Address, Federation, Site
from fedsdn.pipeline.declarations import PROXY_NAMESPACE, ct_tunnel_received, ct_tunnel_sent
from fedsdn.shell import Shell
from fedsdn.tunnels.plan import Tunnel, tunnels
from fedsdn.tunnels.tracked import Tracked, read_tracked
from fedsdn.uplinks.path import PathName


@dataclass(frozen=True, slots=True)
class FlowView:
    """A flow between a VM of this site and one of ``peer``.

    ``source`` sent the first packet. The ports are None where the protocol has none,
    ``identifier`` is that of an ICMP echo, else None. ``sent_by`` and ``received_by`` are the paths
    that the last packets took, None if none went that way yet. Bytes and packets are the VMs', with
    their IP headers. ``age`` is in seconds, None if the kernel does not keep it.
    """

    direction: Direction
    protocol: str
    source: Address
    source_port: int | None
    destination: Address
    destination_port: int | None
    identifier: int | None
    peer: str
    sent_by: PathName | None
    received_by: PathName | None
    sent: int
    received: int
    packets_sent: int
    packets_received: int
    age: float | None

    @property
    def answered(self) -> bool:
        """Whether packets went both ways."""
        return self.packets_sent > 0 and self.packets_received > 0


Paths = Mapping[tuple[int, str], PathName]
"""Paths by the slot of their tunnel and the peer's name."""


def tunnel_paths(found: Iterable[Tunnel]) -> Paths:
    """Return the paths that tunnels take."""
    return {
        (tunnel.slot, peer.site): PathName(tunnel.uplink, peer.site, peer.uplink)
        for tunnel in found
        for peer in tunnel.peers
    }


def read_datagrams(federation: Federation, site: Site) -> list[FlowView]:
    """Ask conntrack of this host, which is ``site``'s.

    Raises:
        FedsdnError: it does not answer, or there is no namespace.

    """
    if not namespace.exists(PROXY_NAMESPACE):
        raise namespace.MissingNamespaceError(PROXY_NAMESPACE)
    tracked = read_tracked(Shell(site.name).inside(PROXY_NAMESPACE))
    return list(views(tracked, federation, site, tunnel_paths(tunnels(federation, site))))


def views(
    tracked: Iterable[Tracked], federation: Federation, site: Site, paths: Paths
) -> Iterator[FlowView]:
    """Yield what is between the site's prefixes and a peer's, the one with most bytes first."""
    found = (_view(one, federation, site, paths) for one in tracked)
    yield from sorted(
        (view for view in found if view is not None),
        key=lambda view: -(view.sent + view.received),
    )


def _view(one: Tracked, federation: Federation, site: Site, paths: Paths) -> FlowView | None:
    ends = federation.prefix_of(one.source), federation.prefix_of(one.destination)
    origin, target = (None if end is None else end[0] for end in ends)
    if origin is None or target is None or (origin is target) or site not in (origin, target):
        return None
    outbound = origin is site
    peer = target if outbound else origin
    out, back = (one.there, one.back) if outbound else (one.back, one.there)
    sent_by, received_by = (ct_tunnel_sent(one.mark), ct_tunnel_received(one.mark))
    return FlowView(
        direction=Direction.OUTBOUND if outbound else Direction.INBOUND,
        protocol=one.name,
        source=one.source,
        source_port=one.source_port,
        destination=one.destination,
        destination_port=one.destination_port,
        identifier=one.identifier,
        peer=peer.name,
        sent_by=None if sent_by is None else paths.get((sent_by, peer.name)),
        received_by=None if received_by is None else paths.get((received_by, peer.name)),
        sent=out.size,
        received=back.size,
        packets_sent=out.packets,
        packets_received=back.packets,
        age=one.age,
    )


def document(view: FlowView) -> dict[str, object]:
    """Write a flow as what JSON holds."""
    addresses = {"source": str(view.source), "destination": str(view.destination)}
    return {**asdict(view), **addresses, "answered": view.answered}


def by_rate(
    now: Iterable[FlowView], before: Iterable[FlowView], seconds: float
) -> Iterator[tuple[float, FlowView]]:
    """Yield flows with their bytes per second, both ways together, the fastest first."""
    then = {_key(view): view.sent + view.received for view in before}
    rates = []
    for view in now:
        total = view.sent + view.received
        earlier = then.get(_key(view), total)
        rates.append((max(0, total - earlier) / seconds, view))
    yield from sorted(rates, key=lambda pair: -pair[0])


def _key(view: FlowView) -> tuple[object, ...]:
    ends = (view.source, view.source_port, view.destination, view.destination_port)
    return (view.protocol, *ends, view.identifier)
