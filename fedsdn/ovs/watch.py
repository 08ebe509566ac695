"""News of bridges and ports from Open vSwitch's database, as they come (RFC 7047, section 4.1)."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

DATABASE_SOCKET = Path("/run/openvswitch/db.sock")
"""Where ovsdb-server listens (ovsdb-server(1))."""

_CHUNK = 1 << 16
_NEWS = {"initial": False}
_MONITOR = {
    "method": "monitor",
    "id": "ports",
    "params": [
        "Open_vSwitch",
        None,
        {
            "Port": {
                "columns": [
                    *("interfaces", "tag", "trunks", "cvlans", "vlan_mode"),
                    "other_config",  # Neutron's agent says there which network's a VLAN is
                ],
                "select": _NEWS,
            },
            "Interface": {"columns": ["ofport", "options"], "select": _NEWS},
            "Bridge": {
                "columns": ["name", "ports", "protocols", "controller", "fail_mode"],
                "select": _NEWS,
            },
        },
    ],
}


async def port_changes(database: Path) -> AsyncIterator[None]:
    """Yield at the start, and whenever bridges, ports, their VLANs or their numbers have changed.

    It ends when the database ends the connection.

    Raises:
        OSError: the database cannot be reached.

    """
    reader, writer = await asyncio.open_unix_connection(database)
    try:
        writer.write(json.dumps(_MONITOR).encode())
        async for message in _messages(reader):
            if message.get("method") == "echo":
                answer = {"id": message["id"], "result": message["params"], "error": None}
                writer.write(json.dumps(answer).encode())
            else:
                yield
    finally:
        writer.close()


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Read JSON objects, which come without anything between them."""
    decode, text = codecs.getincrementaldecoder("utf-8")(), ""
    while chunk := await reader.read(_CHUNK):
        text += decode.decode(chunk)
        while text:
            try:
                message, end = json.JSONDecoder().raw_decode(text)
            except json.JSONDecodeError:
                break  # the rest of it is still to come
            yield message
            text = text[end:].lstrip()
