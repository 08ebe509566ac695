"""Asking the application, as a command does: one question, one answer."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedsdn.channel.connection import Connection
from fedsdn.channel.messages import LONGEST_LINE, Answer, Call, ChannelError, parse_connection
from fedsdn.channel.messages import decode as decode_message
from fedsdn.errors import FedsdnError

_SECONDS = 5.0


def open_connections(path: Path) -> list[Connection]:
    """Return the connections that the proxy has told the application of.

    Raises:
        FedsdnError: no application answers.

    """
    found: list[Connection] = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_SECONDS)
            sock.connect(str(path))
            with sock.makefile("rb") as lines:
                while True:
                    sock.sendall(Call("list", {"skip": len(found)}, number=1).encode())
                    page = _answer(lines.readline(LONGEST_LINE))
                    found += map(parse_connection, page["connections"])
                    if not page["connections"] or len(found) >= page["of"]:
                        return found
    except (OSError, ChannelError, KeyError) as error:
        why = getattr(error, "strerror", None) or str(error) or "no answer"
        raise FedsdnError(
            f"the application does not answer ({path}: {why}): start it with "
            "'osken-manager fedsdn.app', or see its log"
        ) from error


def reload(path: Path) -> None:
    """Have the proxy read the federation file again, and wait until it has, if there is one.

    Without an application, or if it does not answer in time, nothing happens.
    """
    with suppress(OSError, ChannelError), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_SECONDS)
        sock.connect(str(path))
        sock.sendall(Call("reload", {}, number=1).encode())
        with sock.makefile("rb") as lines:
            lines.readline(LONGEST_LINE)


def _answer(line: bytes) -> dict[str, Any]:
    message = decode_message(line)
    if not isinstance(message, Answer):
        raise ChannelError(0, "no answer to the question")
    return message.result
