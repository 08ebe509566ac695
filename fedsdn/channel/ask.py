"""Asking the application, as a command does: one question, one answer."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from fedsdn.channel.connection import Connection
from fedsdn.channel.messages import (
    LONGEST_LINE,
    Answer,
    Call,
    ChannelError,
    List,
    Page,
    Reload,
    connection_from,
)
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
                    sock.sendall(Call(List(skip=len(found)), number=1).encode())
                    page = _page(lines.readline(LONGEST_LINE))
                    found += map(connection_from, page.connections)
                    if not page.connections or len(found) >= page.of:
                        return found
    except _OtherVersionError as error:
        raise FedsdnError(
            f"the application ({path}) is of another version of fedsdn ({error}): restart it "
            "(systemctl restart fedsdn-app) with the version of this command"
        ) from error
    except (OSError, ChannelError) as error:
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
        sock.sendall(Call(Reload(), number=1).encode())
        with sock.makefile("rb") as lines:
            lines.readline(LONGEST_LINE)


class _OtherVersionError(Exception):
    """The application answers, and not as this version does."""


def _page(line: bytes) -> Page:
    if not line:
        raise OSError(0, "no answer")
    try:
        message = decode_message(line)
        if not isinstance(message, Answer):
            raise _OtherVersionError("it answers with a question")
        return message.read(Page)
    except ChannelError as error:
        raise _OtherVersionError(str(error)) from error
