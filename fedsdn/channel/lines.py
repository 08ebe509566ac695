"""Reading the lines of a channel, none longer than what is allowed."""

from __future__ import annotations

import asyncio

from fedsdn.channel.messages import LONGEST_LINE, PARSE_ERROR, ChannelError


async def read_line(reader: asyncio.StreamReader) -> bytes:
    """Read a line; empty at the end of the stream, also in mid-line.

    The reader must have been made with ``limit=LONGEST_LINE``.

    Raises:
        ChannelError: the line is too long; nothing more can be read then.
        OSError: the channel broke.

    """
    try:
        return await reader.readuntil()
    except asyncio.IncompleteReadError:
        return b""
    except asyncio.LimitOverrunError:
        raise ChannelError(PARSE_ERROR, f"a line of more than {LONGEST_LINE} bytes") from None
