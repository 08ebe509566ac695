"""One HTML page: the pipeline drawn, and under it the flows of each table with their counters.

The page stands alone: no script, font or style is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from fedsdn.inspect.flows.names import named_actions, named_match
from fedsdn.inspect.flows.report import TableView, source, why

if TYPE_CHECKING:
    import networkx as nx

_LEADS_TO = re.compile(r"resubmit\(,(\d+)\)|[(,]table=(\d+)")
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 188, 44, 16, 40, 2

_STYLE = """
:root { color-scheme: light dark; --line: #8888; --dim: #777; --box: #5b8def22; --hit: #2a9d5c; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 0 .8rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .2rem; }
p { margin: .2rem 0 .6rem; } .dim { color: var(--dim); } .draw { overflow-x: auto; }
svg a rect { fill: var(--box); stroke: var(--line); } svg a.hit rect { stroke: var(--hit); }
svg text { fill: currentColor; font-size: 13px; }
svg text.dim { fill: var(--dim); font-size: 11px; }
svg path { fill: none; stroke: var(--line); }
.flow { border-top: 1px solid var(--line); padding: .35rem 0; overflow-wrap: anywhere; }
.flow code { font-size: .86rem; } .flow.idle { color: var(--dim); }
.why { margin-top: .7rem; font-size: .9rem; } .n { font-variant-numeric: tabular-nums; }
.counts { float: right; margin-left: .8rem; font-size: .86rem; }
"""


def page(title: str, views: Sequence[TableView]) -> str:
    """Return the page of a bridge's tables."""
    body = "".join(_section(view) for view in views)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n"
        f'<div class="draw">{_drawing(views)}</div>\n{body}</body></html>\n'
    )


# The drawing


def _graph(views: Iterable[TableView]) -> nx.DiGraph[int]:
    """Make a graph of the tables, with an edge where a flow of one leads to the other."""
    import networkx as nx  # noqa: PLC0415 -- it is slow to load, and few draw

    graph: nx.DiGraph[int] = nx.DiGraph()
    shown = {view.number: view for view in views}
    graph.add_nodes_from(shown)
    for view in shown.values():
        for flow in view.flows:
            for found in _LEADS_TO.finditer(flow.actions):
                target = int(found[1] or found[2])
                if target in shown and target > view.number:
                    graph.add_edge(view.number, target)
    return graph


def _places(graph: nx.DiGraph[int]) -> dict[int, tuple[int, int]]:
    """Place each table below those that lead to it, and as near to them as there is room."""
    import networkx as nx  # noqa: PLC0415

    places: dict[int, tuple[int, int]] = {}
    for level, group in enumerate(nx.topological_generations(graph)):
        above = {
            number: min((places[one][0] for one in graph.predecessors(number)), default=_MARGIN)
            for number in group
        }
        free = _MARGIN
        for number in sorted(group, key=lambda one: (above[one], one)):
            x = max(free, above[number])
            places[number] = x, _MARGIN + level * (_HEIGHT + _GAP_Y)
            free = x + _WIDTH + _GAP_X
    return places


def _drawing(views: Sequence[TableView]) -> str:
    graph = _graph(views)
    places = _places(graph)
    if not places:
        return ""
    width = max(x for x, _ in places.values()) + _WIDTH + _MARGIN
    height = max(y for _, y in places.values()) + _HEIGHT + _MARGIN
    edges = "".join(_edge(places[one], places[other]) for one, other in sorted(graph.edges))
    boxes = "".join(_box(view, *places[view.number]) for view in views)
    return (
        f'<svg role="img" aria-label="the pipeline" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{edges}{boxes}</svg>'
    )


def _edge(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + _WIDTH // 2, start[1] + _HEIGHT
    x2, y2 = end[0] + _WIDTH // 2, end[1]
    bend = (y1 + y2) // 2
    return f'<path d="M{x1} {y1} C{x1} {bend} {x2} {bend} {x2} {y2}"/>'


def _box(view: TableView, x: int, y: int) -> str:
    packets = sum(flow.packets or 0 for flow in view.flows)
    kind = ' class="hit"' if packets else ""
    return (
        f'<a href="#t{view.number}"{kind}><rect x="{x}" y="{y}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" rx="6"/><text x="{x + 9}" y="{y + 18}">{escape(view.name)}</text>'
        f'<text class="dim" x="{x + 9}" y="{y + 35}">{len(view.flows)} flows, {packets} packets'
        "</text></a>"
    )


# The flows


def _section(view: TableView) -> str:
    flows = "".join(_flows(view))
    return (
        f'<h2 id="t{view.number}">{escape(view.name)}</h2>'
        f'<p class="dim">{escape(view.purpose)}</p>{flows}\n'
    )


def _flows(view: TableView) -> Iterator[str]:
    for (purpose, line), flows in groupby(view.flows, key=lambda flow: (why(flow), source(flow))):
        yield (f'<div class="why">{escape(purpose)} <span class="dim">{escape(line)}</span></div>')
        for flow in flows:
            counts = "" if flow.packets is None else f"{flow.packets} packets, {flow.bytes} bytes"
            kind = "" if flow.packets else " idle"
            yield (
                f'<div class="flow{kind}"><span class="counts n">{counts}</span>'
                f'<span class="n">{flow.priority}</span> <code>{escape(named_match(flow))}</code>'
                f" → <code>{escape(named_actions(flow))}</code></div>"
            )
