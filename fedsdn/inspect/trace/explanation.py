"""A trace in words: what each table did and why, the outcome, and the remedy for a drop."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedsdn.inspect.flows.names import mark_name, table_name
from fedsdn.inspect.flows.purpose import flow_purpose
from fedsdn.ovs.trace import Step, Trace
from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import ROUTER_PORT, SERVER_PORT, SOCKSIFIER_PORT, Table

_COMPARE = "compare 'prefixes' in the federation files of both sites: "
_PREFIXES = f"{_COMPARE}the far VM's address is in no peer's prefix here"
_REMEDIES = {
    Table.UPLINK: "compare this site's 'address' and the peer's 'address' and 'public' in the "
    "federation files of both sites: only a peer's uplink may come in here",
    Table.WAN: "run 'fedsdn site up': the proxy's routes send by the wrong uplink",
    Table.SOCKSIFIER: _PREFIXES,
    Table.SERVER: _PREFIXES,
    Table.ROUTER: _PREFIXES,
    Table.ROUTER_TO_VM: f"{_COMPARE}the near VM's address is in no prefix of this site here",
    Table.SOCKSIFIER_STATE: "nothing: only VMs may open connections on this side",
    Table.SERVER_STATE: "compare 'prefixes' in the federation files of both sites, or, with "
    "'source_restore: nat', open the connection anew: conntrack has lost it",
    Table.RESTORE: "see that the application runs (fedsdn status): it adds a flow here before each "
    "connection is opened",
    Table.RESTORED: "open the connection anew: conntrack still knew an older one",
}


_PROXY = {SOCKSIFIER_PORT: "socksifier", SERVER_PORT: "SOCKS server", ROUTER_PORT: "router"}


@dataclass(frozen=True, slots=True)
class ExplainedStep:
    """One step in words; ``source`` is the line of fedsdn that made the flow, if it is ours."""

    table: str
    flow: str
    why: str
    source: str
    actions: tuple[str, ...]


def explain(trace: Trace) -> list[ExplainedStep]:
    """Explain a trace step by step."""
    return [_explained(step) for step in trace.steps]


def _explained(step: Step) -> ExplainedStep:
    made_by = origin(step.cookie)
    return ExplainedStep(
        table=table_name(step.table),
        flow=f"priority {step.priority}, {step.match or 'any packet'}",
        why=flow_purpose(made_by) if made_by else "another owner's flow",
        source=made_by.source if made_by else "",
        actions=tuple(_in_words(step.actions)),
    )


def _in_words(actions: tuple[str, ...]) -> Iterator[str]:
    tracked = any(action.startswith("ct(") for action in actions)
    learning = _TO_SENDER in actions
    for action in actions:
        # A trace prints a drop for conntrack's copy of the packet; it is not lost.
        if action == _TO_SENDER or (tracked and action == "drop"):
            continue
        if learning and action == "NORMAL":
            yield "shows the bridge where its sender is"
            continue
        yield next((say(found) for known, say in _WORDS if (found := known.match(action))), action)


_TO_SENDER = "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]"
_WORDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"resubmit\(,(\d+)\)"), lambda of: f"goes on in {table_name(int(of[1]))}"),
    (
        re.compile(r"ct\(table=(\d+)"),
        lambda of: f"asks conntrack, goes on in {table_name(int(of[1]))}",
    ),
    (re.compile(r"ct\(commit"), lambda _: "is committed to conntrack"),
    (
        re.compile(r"set_field:(\w+)->ct_mark"),
        lambda of: f"remembers the connection as {mark_name(int(of[1], 0))}",
    ),
    (re.compile(r"set_field:\S+->eth_dst"), lambda _: "is addressed to the proxy's port"),
    (re.compile(r"nat$"), lambda _: "is translated, if its connection is"),
    (re.compile(r"pop_vlan"), lambda _: "loses its VLAN tag"),
    (re.compile(r"output:(.*)"), lambda of: f"leaves by port {of[1]}"),
    (re.compile(r"LOCAL"), lambda _: "is for the host"),
    (re.compile(r"NORMAL"), lambda _: "is switched as usual"),
    (re.compile(r"drop"), lambda _: "is dropped"),
)


def outcome(trace: Trace) -> str:
    """Name the ports that the packet leaves by, or the drop."""
    if trace.flooded:
        return "it leaves by every port: the bridge has not learned where its destination is"
    if SOCKSIFIER_PORT in trace.ports and SERVER_PORT in trace.ports:
        return "both proxy ports get a copy; the one that has the connection takes it"
    for port, name in _PROXY.items():
        if port in trace.ports:
            return f"the {name} gets it"
    return f"it leaves by {', '.join(trace.ports)}" if trace.ports else "it is dropped"


def remedy(trace: Trace) -> str:
    """Return the remedy for a drop; empty if the packet was not dropped."""
    if trace.ports or not trace.steps:
        return ""
    table = trace.steps[-1].table
    known = {int(one): text for one, text in _REMEDIES.items()}
    return known.get(table, f"look at who made the flow: fedsdn flows dump --all --table {table}")


def text(trace: Trace) -> Iterator[str]:
    """Write a trace as lines for a terminal."""
    for step in explain(trace):
        yield f"  {step.table}: {step.why}"
        source = f" ({step.source})" if step.source else ""
        yield f"      {step.flow}{source}"
        for action in step.actions:
            yield f"      → {action}"
    yield f"  {outcome(trace)}"
    if advice := remedy(trace):
        yield f"  what to do: {advice}"
