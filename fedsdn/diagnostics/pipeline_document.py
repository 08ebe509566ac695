"""``flows/PIPELINE.md`` filled with the rows of a dump.

The prose is written by hand. Behind each ``<!-- rows: TABLE -->`` stands a fenced block that is
generated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ovs.flow.ofp import OFPFlow

from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import Table

_BLOCK = re.compile(r"(<!-- rows: (\w+) -->\n```\n).*?(```\n)", re.DOTALL)
_NOT_SHOWN = re.compile(r"cookie=0x[0-9a-f]+, |send_flow_rem ")


def own_rows(dump: Iterable[str]) -> list[str]:
    """Rows of ours in the output of ``ovs-ofctl --names --no-stats dump-flows``.

    They are ordered by table, falling priority and text, so that two dumps of the same rows are
    the same text.
    """
    rows = []
    for line in dump:
        text = line.strip()
        if not text.startswith("cookie="):
            continue
        flow = OFPFlow(text)
        if origin(flow.info["cookie"]) is not None:
            rows.append((_table(flow), -flow.match.get("priority", 0), text))
    return [text for _table, _priority, text in sorted(rows)]


def filled(document: str, rows: Iterable[str]) -> str:
    """Put the ``rows`` of a dump into the blocks of ``document``.

    Raises:
        ValueError: a table has no block.

    """
    blocks = {table.name: "".join(_lines(table, rows)) for table in Table}
    absent = blocks.keys() - {name for _head, name, _tail in _BLOCK.findall(document)}
    if absent:
        raise ValueError(f"no block for {', '.join(sorted(absent))}")
    return _BLOCK.sub(lambda block: block[1] + blocks[block[2]] + block[3], document)


def _lines(table: Table, rows: Iterable[str]) -> Iterator[str]:
    above = ""
    for row in rows:
        flow = OFPFlow(row)
        if _table(flow) != table:
            continue
        made_by = origin(flow.info["cookie"])
        source = made_by.source if made_by else ""
        if source != above:
            yield f"# {source}\n"
        above = source
        yield _NOT_SHOWN.sub("", row) + "\n"


def _table(flow: OFPFlow) -> int:
    return int(flow.info.get("table", Table.HOOK))
