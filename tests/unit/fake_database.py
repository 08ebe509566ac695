"""Open vSwitch's database, as one sees it who waits for news (RFC 7047, section 4.1)."""

from __future__ import annotations

import asyncio
import json

UPDATE = b'{"id":null,"method":"update","params":["ports",{"Port":{}}]}'


class FakeDatabase:
    """Answers the request of one client, and says what it is told to; ``heard`` is what it read."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client (for ``asyncio.start_unix_server``)."""
        self._writer = writer
        request = json.loads(await reader.read(1 << 16))
        self.write(json.dumps({"id": request["id"], "result": {}, "error": None}).encode())
        while said := await reader.read(1 << 16):
            self.heard.put_nowait(said)

    def write(self, text: bytes) -> None:
        """Say something."""
        assert self._writer is not None
        self._writer.write(text)

    def end(self) -> None:
        """End the connection."""
        assert self._writer is not None
        self._writer.close()
