"""The Unix socket on which the proxy tells its statistics: connect, and read one JSON document."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedsdn.errors import FedsdnError
from fedsdn.proxy.stats import Statistics

STATISTICS_SOCKET = Path("/run/fedsdn/proxy.sock")
_ANSWER_SECONDS = 5.0


class StatisticsSocket:
    """Listens on ``path`` and answers with the totals."""

    def __init__(self, path: Path, statistics: Statistics) -> None:
        """Listen.

        Raises:
            FedsdnError: another proxy answers on the socket, or it cannot be made.

        """
        self._path = path
        self._statistics = statistics
        if _answers(path):
            raise FedsdnError(f"{path}: another proxy runs here; stop it first")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self.socket.bind(str(path))
            path.chmod(0o600)
            self.socket.listen()
        except OSError as error:
            self.socket.close()
            raise FedsdnError(f"{path}: cannot listen: {error.strerror}") from error

    def answer(self) -> None:
        """Answer one connection that waits."""
        with suppress(OSError):
            connection, _address = self.socket.accept()
            with connection:
                connection.sendall(json.dumps(self._statistics.totals()).encode() + b"\n")

    def remove(self) -> None:
        """Stop listening, and take the socket away."""
        self.socket.close()
        self._path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    try:
        read_statistics(path)
    except FedsdnError:
        return False
    return True


def read_statistics(path: Path = STATISTICS_SOCKET) -> dict[str, Any]:
    """Ask a running proxy.

    Raises:
        FedsdnError: none answers.

    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(path))
            with connection.makefile() as stream:
                found: dict[str, Any] = json.load(stream)
        except (OSError, ValueError) as error:
            raise FedsdnError(
                f"{path}: no proxy answers ({error}); start it with 'fedsdn proxy run'"
            ) from error
        return found
