"""What the kernel in the proxy's namespace does with a datagram that the bridge hands it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fedsdn.config.model import Federation, Site
from fedsdn.errors import FedsdnError
from fedsdn.inspect.datagrams import FlowView, read_datagrams, tunnel_paths
from fedsdn.inspect.trace.question import Question
from fedsdn.pipeline.declarations import PROXY_NAMESPACE, ROUTER_PORT, SocketMark
from fedsdn.shell import Shell, last_words
from fedsdn.tunnels.plan import tunnels
from fedsdn.uplinks.path import PathName

_UNREACHABLE = ("No route to host", "Network is unreachable")
"""How ``ip`` says it of a route that is ``unreachable``, and of none (ip-route(8), errno(3))."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A datagram's flow, None if conntrack knows none, and the path by which the kernel sends it.

    ``path`` is None if no path to the peer lives, or if the datagram comes from the peer.
    ``any_port`` says that nobody named the source port, with which the path may be another one.
    """

    flow: FlowView | None
    path: PathName | None
    any_port: bool = False


def find_flow(federation: Federation, site: Site, question: Question) -> FlowView | None:
    """Find the flow of a datagram.

    Raises:
        FedsdnError: the host is not set up, or conntrack does not answer.

    """
    for flow in read_datagrams(federation, site):
        if (
            flow.protocol.startswith(question.protocol)
            and (flow.source, flow.destination) == (question.client, question.destination.address)
            and (flow.destination_port or 0) == question.destination.port
            and question.client_port in (None, flow.source_port)
        ):
            return flow
    return None


def path_to(federation: Federation, site: Site, peer: Site, question: Question) -> PathName | None:
    """Return the path by which the kernel sends what a VM sends to a peer; None if it has none.

    Raises:
        FedsdnError: the kernel cannot be asked, or sends it over no tunnel to the peer.

    """
    client, server = question.ends(None)
    source, to = (server, client) if question.reply else (client, server)
    kind = {("icmp", 6): "ipv6-icmp"}.get(
        (question.protocol, to.address.version), question.protocol
    )
    ports = ("sport", str(source.port), "dport", str(to.port))
    proxy = Shell(site.name).inside(PROXY_NAMESPACE)
    done = proxy.run(
        *("ip", "-json", "route", "get", str(to.address)),
        *("from", str(source.address), "iif", ROUTER_PORT, "mark", f"{SocketMark.ROUTED:#x}"),
        *("ipproto", kind, *(() if question.protocol == "icmp" else ports)),
    )
    if done.returncode:
        said = last_words(done.stderr, done.stdout)
        if said.endswith(_UNREACHABLE):
            return None
        raise FedsdnError(f"{proxy.name}: the route to {to.address} cannot be read: {said}")
    device = json.loads(done.stdout)[0].get("dev")
    found = tunnels(federation, site)
    paths = tunnel_paths(found)
    for tunnel in found:
        if tunnel.name == device and (tunnel.slot, peer.name) in paths:
            return paths[tunnel.slot, peer.name]
    raise FedsdnError(
        f"{proxy.name}: {to.address} is routed to {device}, which is no tunnel to {peer.name}: "
        "run 'fedsdn site show'"
    )
