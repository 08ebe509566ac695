"""docs/channel.md names every message and error code of the channel, and no others."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from fedsdn.channel import client, messages, server
from fedsdn.pipeline.declarations import RESTORE_SECONDS
from fedsdn.proxy.sockets.restored import ANSWER_SECONDS

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/channel.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading."""
    (section,) = re.findall(rf"## {heading}\n(.*?)(?:\n## |\Z)", DOCUMENT, re.DOTALL)
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_every_message_is_described_with_what_it_must_hold() -> None:
    described = {
        cells[0].strip("`"): " ".join(cells)
        for heading in ("Proxy to application", "Application to proxy")
        for cells in rows(heading)
    }
    assert described.keys() == messages.METHODS.keys()
    for name, kind in messages.METHODS.items():
        for field in inspect.get_annotations(kind):
            assert f"`{field}`" in described[name]


def test_every_error_is_described() -> None:
    codes = {int(cells[0]) for cells in rows("Errors")}
    assert codes == {
        messages.PARSE_ERROR,
        messages.INVALID_REQUEST,
        messages.METHOD_NOT_FOUND,
        messages.INVALID_PARAMS,
        messages.WRONG_VERSION,
    }


def test_the_numbers_are_the_codes() -> None:
    assert str(server.CHANNEL_SOCKET) in DOCUMENT
    assert f"now {messages.VERSION}." in DOCUMENT
    assert messages.LONGEST_LINE == 1 << 20
    assert "no line longer than 1 MiB" in DOCUMENT
    assert messages.MOST_CONNECTIONS == 1000
    assert (RESTORE_SECONDS, ANSWER_SECONDS) == (3, 10)
    assert "stay for three seconds" in DOCUMENT
    assert "up to ten seconds" in DOCUMENT
    assert (client.RETRY_SECONDS, client.REPORT_SECONDS) == (0.2, 0.2)
    assert "again five times" in DOCUMENT
