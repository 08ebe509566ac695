"""What the kernel in the proxy's namespace does with a datagram that the bridge hands it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fedsdn.config.model import Federation, Site
from fedsdn.inspect.datagrams import FlowView, read_datagrams, tunnel_paths
from fedsdn.inspect.trace.question import Question
from fedsdn.pipeline.declarations import PROXY_NAMESPACE, ROUTER_PORT, SocketMark
from fedsdn.shell import Shell
from fedsdn.tunnels.plan import tunnels
from fedsdn.uplinks.path import PathName


@dataclass(frozen=True, slots=True)
class Routed:
    """A datagram's flow, None if conntrack knows none, and the path by which the kernel sends it.

    ``path`` is None if no path to the peer lives.
    """

    flow: FlowView | None
    path: PathName | None


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
    """Return the path by which the kernel sends what a VM sends to a peer; None if it has none."""
    client, server = question.ends(None)
    source, to = (server, client) if question.reply else (client, server)
    kind = {("icmp", 6): "ipv6-icmp"}.get(
        (question.protocol, to.address.version), question.protocol
    )
    ports = ("sport", str(source.port), "dport", str(to.port))
    done = (
        Shell(site.name)
        .inside(PROXY_NAMESPACE)
        .run(
            *("ip", "-json", "route", "get", str(to.address)),
            *("from", str(source.address), "iif", ROUTER_PORT, "mark", f"{SocketMark.ROUTED:#x}"),
            *("ipproto", kind, *(() if question.protocol == "icmp" else ports)),
        )
    )
    if done.returncode:
        return None  # unreachable: that is how the command says it
    device = json.loads(done.stdout)[0].get("dev")
    found = tunnels(federation, site)
    slots = (tunnel.slot for tunnel in found if tunnel.name == device)
    return next((tunnel_paths(found).get((slot, peer.name)) for slot in slots), None)
