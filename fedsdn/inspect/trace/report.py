"""The answer to a question, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from fedsdn.channel.connection import Direction
from fedsdn.inspect import connections
from fedsdn.inspect.flows.names import mark_name
from fedsdn.inspect.trace.answer import Answer
from fedsdn.inspect.trace.explanation import explain, outcome, remedy, text
from fedsdn.units import size


def lines(answer: Answer, file: Path) -> Iterator[str]:
    """Write an answer as lines for a terminal; ``file`` is the federation file."""
    packet = answer.packet
    yield f"site {answer.site.name}: {packet.source} → {packet.destination}"
    if answer.peer is None:
        yield "  no peer has the other end in a prefix: not federated"
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
    if answer.view is not None and answer.view.peer is not None:
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


def document(answer: Answer, file: Path) -> dict[str, object]:
    """Write an answer as what JSON holds; ``file`` is the federation file."""
    packet = answer.packet
    return {
        "site": answer.site.name,
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
    }
