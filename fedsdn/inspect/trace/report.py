"""The answer to a question, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from fedsdn.channel.connection import Direction
from fedsdn.inspect import connections, datagrams
from fedsdn.inspect.flows.names import mark_name
from fedsdn.inspect.trace.answer import Answer
from fedsdn.inspect.trace.explanation import explain, outcome, remedy, text
from fedsdn.inspect.trace.routed import Routed
from fedsdn.ovs.packet import TracedPacket
from fedsdn.pipeline.declarations import ROUTER_PORT
from fedsdn.socket_address import SocketAddress
from fedsdn.units import size


def lines(answer: Answer, file: Path) -> Iterator[str]:
    """Write an answer as lines for a terminal; ``file`` is the federation file."""
    packet = answer.packet
    ends = (_end(packet, one) for one in (packet.source, packet.destination))
    yield f"site {answer.site.name}: {' → '.join(ends)}"
    if answer.peer is None:
        yield f"  no peer has the other end in a prefix: {answer.decision.why}"
    elif answer.routed is not None:
        yield f"  {packet.protocol}, {answer.direction} ({_other(answer)}); {_known(answer.routed)}"
    elif answer.entry is None:
        yield f"  {answer.direction} ({_other(answer)}); conntrack does not know it: a new one"
    else:
        mark = mark_name(answer.entry.mark) if answer.entry.mark else "no direction"
        yield (
            f"  {answer.direction} ({_other(answer)}); conntrack: {answer.entry.state}, {mark}, "
            f"opened by {answer.entry.client}"
        )
    guessed = " (a guess: the bridge has not learned where the VM is)" if answer.guessed else ""
    yield f"  comes in at port {packet.in_port}{guessed}"
    yield from text(answer.trace)
    if answer.peer is not None:
        yield f"  federation file: {answer.decision}{answer.decision.place(file)}"
    yield from _carrying(answer)


def _end(packet: TracedPacket, end: SocketAddress) -> str:
    return str(end.address) if packet.protocol == "icmp" else str(end)


def _known(routed: Routed) -> str:
    flow = routed.flow
    if flow is None:
        return "conntrack does not know it: a new flow"
    return f"conntrack: {size(flow.sent)} sent, {size(flow.received)} received"


_REFUSED = {
    Direction.OUTBOUND: "the socksifier tells the VM that it is administratively prohibited",
    Direction.INBOUND: "the SOCKS server tells a peer that asks that it is not allowed",
}


def _other(answer: Answer) -> str:
    name = answer.peer.name if answer.peer else "?"
    return f"to site {name}" if answer.direction is Direction.OUTBOUND else f"from site {name}"


def _carrying(answer: Answer) -> Iterator[str]:
    """Name what carries the connection between the sites, or would."""
    if answer.peer is None:
        return
    if answer.routed is not None:
        yield from _routing(answer, answer.routed)
    elif answer.view is not None and answer.view.peer is not None:
        over = ", ".join(
            f"{share.uplink} ({share.subflows} subflow{'s' if share.subflows > 1 else ''}, "
            f"{share.rtt_ms:.0f} ms, {size(share.sent)} out, {size(share.received)} in)"
            for share in answer.view.shares
        )
        how = f"Multipath TCP over {over}" if answer.view.multipath else "plain TCP"
        yield f"  the proxy carries it: {how}"
    elif answer.entry is not None:
        yield "  the proxy does not carry it: it has ended there, or begins this moment"
    elif not answer.decision.allowed:
        yield f"  {_REFUSED[answer.direction]}"
    elif answer.direction is Direction.OUTBOUND:
        paths = [
            f"{path.uplink} → {path.peer}/{path.peer_uplink} ({path.state})"
            for path in answer.paths
        ]
        yield f"  paths to {answer.peer.name}: {', '.join(paths) or 'nothing is known of them'}"


def _routing(answer: Answer, routed: Routed) -> Iterator[str]:
    """Say what the kernel does with a datagram, or has done."""
    if answer.sent_by_vm and ROUTER_PORT not in answer.trace.ports:
        return
    if not answer.decision.allowed:
        yield "  the packet filter tells its sender that it is administratively prohibited"
    elif not answer.sent_by_vm:
        by = None if routed.flow is None else routed.flow.received_by
        yield f"  it comes by the tunnels, {f'the last one over {by}' if by else 'none came yet'}"
    elif routed.path is None:
        yield "  no path to the peer lives: its sender is told that it is unreachable"
    else:
        several = " (the source port is a guess: another one may have another path)"
        yield f"  the kernel sends it over {routed.path}{several if routed.any_port else ''}"


def document(answer: Answer, file: Path) -> dict[str, object]:
    """Write an answer as what JSON holds; ``file`` is the federation file."""
    packet = answer.packet
    return {
        "site": answer.site.name,
        "protocol": packet.protocol,
        "direction": answer.direction,
        "peer": answer.peer.name if answer.peer else None,
        "source": str(packet.source),
        "destination": str(packet.destination),
        "in_port": packet.in_port,
        "in_port_guessed": answer.guessed,
        "conntrack": answer.entry.state if answer.entry else None,
        "mark": mark_name(answer.entry.mark) if answer.entry else None,
        "steps": [asdict(step) for step in explain(answer.trace)],
        "ports": answer.trace.ports,
        "federation_file": answer.decision.document(file) if answer.peer else None,
        "outcome": outcome(answer.trace),
        "remedy": remedy(answer.trace) or None,
        "connection": connections.document(answer.view) if answer.view else None,
        "routed": _routed_document(answer.routed) if answer.routed else None,
    }


def _routed_document(routed: Routed) -> dict[str, object]:
    return {
        "flow": datagrams.document(routed.flow) if routed.flow else None,
        "path": str(routed.path) if routed.path else None,
    }
