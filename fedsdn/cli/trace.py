"""fedsdn trace: which way a packet goes, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from fedsdn.channel.connection import Direction
from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.cli.connections import collect, document
from fedsdn.config.loader import load_federation
from fedsdn.config.model import Federation, Site
from fedsdn.errors import FedsdnError
from fedsdn.inspect.connections import ConnectionView
from fedsdn.inspect.flows.names import mark_name
from fedsdn.inspect.trace.bridge import VmPort, vm_port
from fedsdn.inspect.trace.question import (
    Question,
    direction_at,
    find_entry,
    parse_question,
    peer_of,
)
from fedsdn.inspect.trace.story import ending, remedy, scenes, tell
from fedsdn.lab.lab import open_lab
from fedsdn.ovs.conntrack import Entry, entries
from fedsdn.ovs.packet import TracedPacket, state
from fedsdn.ovs.trace import Trace, run_trace
from fedsdn.pipeline.declarations import SERVER_PORT, SOCKSIFIER_PORT, Table, port_mac
from fedsdn.shell import Shell
from fedsdn.socket_address import SocketAddress
from fedsdn.units import size
from fedsdn.uplinks.status import read_status

_GATEWAY_MAC = "02:00:00:00:00:01"
"""What a VM addresses; the flows do not look at it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that is known of a packet at one site."""

    site: Site
    direction: Direction
    peer: Site | None
    packet: TracedPacket
    guessed: bool
    entry: Entry | None
    trace: Trace
    view: ConnectionView | None


def trace(
    source: Annotated[str, typer.Argument(metavar="SRC[:PORT]", help="Who opens the connection.")],
    destination: Annotated[str, typer.Argument(metavar="DST:PORT", help="To whom.")],
    *,
    reply: Annotated[bool, typer.Option("--reply", help="A packet back, from DST to SRC.")] = False,
    lab: Annotated[
        str | None, typer.Option("--lab", help="In a lab: at both sites of the connection.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """Tell the way of a packet through this site, whether its connection is open or not yet."""
    question = parse_question(source, destination, reply=reply)
    if lab is not None:
        _in_lab(lab, question, (source, destination), as_json=as_json)
        return
    local = settings(config_file, site, federation)
    whole = load_federation(local.federation)
    answer = ask(whole, whole.local_site(local.site), question)
    if as_json:
        print(json.dumps(answer_document(answer), indent=2, default=str))
    else:
        print("\n".join(_lines(answer)))


def _in_lab(name: str, question: Question, words: tuple[str, str], *, as_json: bool) -> None:
    lab = open_lab(name)
    ends = (question.client, question.destination.address)
    sites = [
        site
        for site in lab.topology.federation.sites
        if any(end in prefix.network for end in ends for prefix in site.prefixes)
    ]
    if not sites:
        raise FedsdnError(f"no site of lab {name} has {ends[0]} or {ends[1]} in a prefix")
    options = [*(["--reply"] if question.reply else []), *(["--json"] if as_json else [])]
    if question.reply:
        sites.reverse()
    told = [lab.host(site.name).run("fedsdn", "trace", *words, *options) for site in sites]
    print(f"[{', '.join(told)}]" if as_json else "\n".join(told))


def ask(federation: Federation, site: Site, question: Question) -> Answer:
    """Trace a packet at this host's site.

    Raises:
        FedsdnError: neither end is here, or something of the site does not answer.

    """
    shell = Shell(site.name)
    direction = direction_at(site, question)
    entry = find_entry(entries(shell, site.provider_network.bridge), question)
    vm = question.client if direction is Direction.OUTBOUND else question.destination.address
    at = vm_port(shell, site, vm)
    packet = _packet(site, question, direction, entry, at)
    return Answer(
        site=site,
        direction=direction,
        peer=peer_of(federation, site, question),
        packet=packet,
        guessed=at.guessed,
        entry=entry,
        trace=_traced(shell, site, packet, entry),
        view=_view(site, entry),
    )


def _packet(
    site: Site, question: Question, direction: Direction, entry: Entry | None, at: VmPort
) -> TracedPacket:
    client, destination = question.ends(entry)
    opening = entry is None and not question.reply
    if question.reply is (direction is Direction.INBOUND):  # the VM sends it
        ends = (destination, client) if question.reply else (client, destination)
        return TracedPacket(at.port, *ends, at.mac, _GATEWAY_MAC, opening, at.vlan)
    port = SERVER_PORT if direction is Direction.INBOUND else SOCKSIFIER_PORT
    ends = (destination, client) if question.reply else (client, destination)
    if direction is Direction.INBOUND and site.source_restore == "nat":
        ends = (_own(site, entry, client, destination), destination)
    return TracedPacket(port, *ends, port_mac(site, port), at.mac, opening)


def _own(
    site: Site, entry: Entry | None, client: SocketAddress, destination: SocketAddress
) -> SocketAddress:
    """Return the proxy's socket towards a VM, whose address the bridge makes the client's."""
    if entry is not None:
        return entry.opener
    own = next(p.proxy_address for p in site.prefixes if destination.address in p.network)
    return SocketAddress(own, client.port)


def _traced(shell: Shell, site: Site, packet: TracedPacket, entry: Entry | None) -> Trace:
    bridge, mark = site.provider_network.bridge, entry.mark if entry else 0
    there = state(packet, entry)
    trace = run_trace(shell, bridge, packet.flow(mark), there)
    if entry is None or packet.source != entry.opener or entry.opener == entry.client:
        return trace
    # A trace does not translate: what conntrack makes of the packet is traced by itself.
    restored = TracedPacket(
        packet.in_port,
        entry.client,
        packet.destination,
        packet.source_mac,
        packet.destination_mac,
        packet.opening,
        packet.vlan,
    )
    after = run_trace(shell, bridge, restored.flow(mark), there)
    return Trace(
        tuple(step for step in trace.steps if step.table <= Table.SERVER)
        + tuple(step for step in after.steps if step.table > Table.SERVER),
        after.ports,
        after.flooded,
    )


def _view(site: Site, entry: Entry | None) -> ConnectionView | None:
    if entry is None:
        return None
    for view in collect(site):
        if (view.client, view.destination) == (entry.client, entry.destination):
            return view
    return None


# Telling


def _lines(answer: Answer) -> Iterator[str]:
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
    guessed = " (nobody knows where the VM is: the port is a guess)" if answer.guessed else ""
    yield f"  comes in at port {packet.in_port}{guessed}"
    yield from tell(answer.trace)
    yield from _carrying(answer)


def _other(answer: Answer) -> str:
    name = answer.peer.name if answer.peer else "?"
    return f"to site {name}" if answer.direction is Direction.OUTBOUND else f"from site {name}"


def _carrying(answer: Answer) -> Iterator[str]:
    """Say who carries the connection between the sites, or would."""
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
    elif answer.direction is Direction.OUTBOUND:
        status = read_status()
        paths = [
            f"{path.uplink} → {path.peer}/{path.peer_uplink} ({path.state})"
            for path in (status.paths if status else ())
            if path.peer == answer.peer.name
        ]
        yield f"  paths to {answer.peer.name}: {', '.join(paths) or 'nothing is known of them'}"


def answer_document(answer: Answer) -> dict[str, object]:
    """Write an answer as what JSON holds."""
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
        "steps": [asdict(scene) for scene in scenes(answer.trace)],
        "ports": answer.trace.ports,
        "ending": ending(answer.trace),
        "remedy": remedy(answer.trace) or None,
        "connection": document(answer.view) if answer.view else None,
    }
