"""Lines of the channel: any bytes give a message as docs/channel.md says, or a ``ChannelError``."""

from __future__ import annotations

import re
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from fedsdn.channel import messages

from tests.fuzz.run import fuzz


def one_input(data: bytes) -> None:
    """Read a line, and what its message holds."""
    try:
        found = messages.decode(data)
        if not isinstance(found, messages.Call):
            return
        if isinstance(found.params, messages.Restore):
            for one in messages.restorations(found.params):
                assert one.own.address.version == one.client.address.version
        if isinstance(found.params, messages.Connections):
            for message in found.params.opened:
                messages.connection_from(message)
    except messages.ChannelError as error:
        messages.encode_error(error)


if __name__ == "__main__":
    DOCUMENT = Path(__file__).parents[2] / "docs/channel.md"
    fuzz(one_input, re.findall(rb'\{.*"jsonrpc".*\}', DOCUMENT.read_bytes()))
