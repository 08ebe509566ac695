"""A hundred datagrams a second, each way: one end of it.

``python -m fedsdn.bench.ticker ADDRESS PORT PEER`` sends numbered datagrams to the same port of the
peer, and notes when each was sent and when the peer's came, by the clock that all programs of a
machine share. It prints a line when the first has come, and how many have whenever it reads one.
When its standard input ends it sends no more, waits for those under way, and prints both lists as
one JSON object. Numbers begin with 1.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from contextlib import suppress
from ipaddress import ip_address

EVERY_SECONDS = 0.01
BYTES = 1000
"""Of data in each: much more than what else is said on an idle path."""

LAST_SECONDS = 1.0
"""How long those under way are waited for."""

_NUMBER_BYTES = 8


def main() -> None:
    """Be an end."""
    address, port, peer = sys.argv[1:]
    family = socket.AF_INET if ip_address(peer).version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((address, int(port)))
        sock.connect((peer, int(port)))
        sock.setblocking(False)
        ticker = _Ticker(sock)
        ticker.run()
    print(json.dumps({"sent": ticker.sent, "came": ticker.came}), flush=True)


class _Ticker:
    """What has been sent, by number, and which numbers came when."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent: list[float] = []
        self.came: list[tuple[int, float]] = []

    def run(self) -> None:
        """Send and take until the standard input ends, and then take what is under way."""
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                self._send()
                due += EVERY_SECONDS
            wait = max(0.0, due - time.monotonic())
            readable, _, _ = select.select([self._sock, sys.stdin], [], [], wait)
            self._take()
            if sys.stdin in readable:
                if not sys.stdin.readline():
                    break
                print(len(self.came), flush=True)
        until = time.monotonic() + LAST_SECONDS
        while (left := until - time.monotonic()) > 0:
            select.select([self._sock], [], [], left)
            self._take()

    def _send(self) -> None:
        self.sent.append(time.monotonic())
        with suppress(OSError):  # unreachable, or refused while nobody listens there yet
            self._sock.send(len(self.sent).to_bytes(_NUMBER_BYTES).ljust(BYTES, b"\0"))

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                number = int.from_bytes(self._sock.recv(BYTES)[:_NUMBER_BYTES])
                self.came.append((number, time.monotonic()))
                if len(self.came) == 1:
                    print("came", flush=True)


if __name__ == "__main__":
    main()
