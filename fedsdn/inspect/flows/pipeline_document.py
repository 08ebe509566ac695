"""``flows/PIPELINE.md`` filled with the flows of dumps.

The prose is written by hand; the block after each ``<!-- flows: TABLE TOPOLOGY -->`` is generated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fedsdn.ovs.flows import parse_flow
from fedsdn.pipeline.declarations import Table

_BLOCK = re.compile(r"(<!-- flows: (\w+) ([\w-]+) -->\n```\n).*?(```\n)", re.DOTALL)
_NOT_SHOWN = re.compile(r"cookie=0x[0-9a-f]+, ")


def own_flows(dump: Iterable[str]) -> list[str]:
    """Flows of ours in the output of ``ovs-ofctl --names --no-stats dump-flows``.

    They are ordered by table, falling priority and text, so that two dumps of the same flows are
    the same text.
    """
    flows = []
    for line in dump:
        text = line.strip()
        if not text.startswith("cookie="):
            continue
        flow = parse_flow(text)
        if flow.ours:
            flows.append((flow.table, -flow.priority, text))
    return [text for _table, _priority, text in sorted(flows)]


def filled(document: str, dumps: Mapping[str, Sequence[str]]) -> str:
    """Put the flows of ``dumps``, by their topology, into the blocks of ``document``.

    Raises:
        ValueError: a table has no block, or a block's topology has no dump.

    """
    blocks = [(Table[name], topology) for _, name, topology, _ in _BLOCK.findall(document)]
    absent = [f"table {table.name}" for table in set(Table) - {table for table, _ in blocks}]
    absent += [f"dump {topology}" for topology in {topology for _, topology in blocks} - {*dumps}]
    if absent:
        raise ValueError(f"{', '.join(sorted(absent))}: a table without block, or a block without")
    return _BLOCK.sub(
        lambda block: block[1] + "".join(_lines(Table[block[2]], dumps[block[3]])) + block[4],
        document,
    )


def _lines(table: Table, dump: Iterable[str]) -> Iterator[str]:
    above = ""
    for line in dump:
        flow = parse_flow(line)
        if flow.table != table:
            continue
        source = flow.origin.source if flow.origin else ""
        if source != above:
            yield f"# {source}\n"
        above = source
        yield _NOT_SHOWN.sub("", line) + "\n"
