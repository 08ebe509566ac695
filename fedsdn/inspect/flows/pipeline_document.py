"""``flows/PIPELINE.md`` filled with the flows of dumps.

The prose is written by hand. Behind each ``<!-- flows: TABLE TOPOLOGY -->`` stands a block that is
generated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ovs.flow.ofp import OFPFlow

from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import Table

_BLOCK = re.compile(r"(<!-- flows: (\w+) ([\w-]+) -->\n```\n).*?(```\n)", re.DOTALL)
_NOT_SHOWN = re.compile(r"cookie=0x[0-9a-f]+, |send_flow_rem ")


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
        flow = OFPFlow(text)
        if origin(flow.info["cookie"]) is not None:
            flows.append((_table(flow), -flow.match.get("priority", 0), text))
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
        flow = OFPFlow(line)
        if _table(flow) != table:
            continue
        made_by = origin(flow.info["cookie"])
        source = made_by.source if made_by else ""
        if source != above:
            yield f"# {source}\n"
        above = source
        yield _NOT_SHOWN.sub("", line) + "\n"


def _table(flow: OFPFlow) -> int:
    return int(flow.info.get("table", Table.HOOK))
