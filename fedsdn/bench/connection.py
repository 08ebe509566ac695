"""A fast connection between two VMs, watched while it runs."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fedsdn.bench.figures import longest_silence
from fedsdn.bench.stream import BUCKET_SECONDS, bucket_at
from fedsdn.config.model import Address
from fedsdn.errors import FedsdnError
from fedsdn.shell import Shell, Started
from fedsdn.traffic.values import TransferDirection

_PROGRAM = (sys.executable, "-m", "fedsdn.bench.stream")
_PORT = 15002
_END_SECONDS = 90.0
"""Time-out for an end of stream, in seconds: longer than ``close_timeout``."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a connection: bytes sent and received, and the failure, if any."""

    sent: int
    received: int
    error: str | None


class _Output(threading.Thread):
    """Reads the output of one end of the connection."""

    def __init__(self, program: Started) -> None:
        super().__init__(daemon=True)
        self.name = program.name
        self.buckets: dict[int, int] = {}
        self.last: dict[str, Any] = {}
        self._stdin = program.process.stdin
        self._lines = iter(program.line, "")
        self.start()

    def tell_to_end(self) -> None:
        """End the program's standard input."""
        if self._stdin is not None:
            self._stdin.close()

    def run(self) -> None:
        for line in self._lines:
            said = json.loads(line)
            if "bucket" in said:
                self.buckets[said["bucket"]] = said["size"]
            else:
                self.last = said


class FastConnection:
    """A running connection; times are seconds of the machine's monotonic clock."""

    def __init__(self, sender: Started, receiver: Started) -> None:
        """Watch a connection with both ends started."""
        self._sender = sender
        self._sent = _Output(sender)
        self._received = _Output(receiver)

    def received(self, start: float, end: float) -> int:
        """Count the bytes received between two times."""
        buckets = range(bucket_at(start), bucket_at(end))
        return sum(self._received.buckets.get(bucket, 0) for bucket in buckets)

    def silence(self, start: float, end: float) -> float:
        """Return the receiver's longest silence between two times, in seconds."""
        found = longest_silence(self._received.buckets, bucket_at(start), bucket_at(end) - 1)
        return found * BUCKET_SECONDS

    def alive(self) -> bool:
        """Whether both ends still run."""
        return self._sent.is_alive() and self._received.is_alive()

    def finish(self) -> Ending:
        """Have the sender end, wait until the receiver has seen it, and say what became of it."""
        self._sent.tell_to_end()
        for output in (self._sent, self._received):
            output.join(_END_SECONDS)
            if output.is_alive():
                return Ending(0, 0, f"{output.name} did not end within {_END_SECONDS:g} s")
        sent, received = self._sent.last, self._received.last
        went, came = sent.get("size", 0), received.get("size", 0)
        errors = [end["error"] for end in (sent, received) if end.get("error")]
        if not errors and (not received.get("intact") or went != came):
            errors = [f"{went} bytes were sent, and {came} came, or others"]
        return Ending(went, came, "; ".join(errors) or None)

    def break_off(self) -> None:
        """Have both ends give up, and wait for them: their output cannot be closed before."""
        for output in (self._received, self._sent):
            output.tell_to_end()
        for output in (self._received, self._sent):
            output.join()


@contextmanager
def fast_connection(
    near: Shell, far: Shell, address: Address, direction: TransferDirection
) -> Iterator[FastConnection]:
    """Let ``near`` open a connection to ``far`` at ``address``, and move data as fast as it goes.

    Raises:
        FedsdnError: it cannot be opened.

    """
    roles = ("receive", "send") if direction == "upload" else ("send", "receive")
    with far.started(*_PROGRAM, "listen", roles[0], str(_PORT)) as listener:
        _expect(listener, "listening")
        with near.started(*_PROGRAM, "connect", roles[1], str(_PORT), str(address)) as client:
            _expect(client, "open")
            ends = (client, listener) if direction == "upload" else (listener, client)
            connection = FastConnection(*ends)
            try:
                yield connection
            finally:
                connection.break_off()


def _expect(program: Started, event: str) -> None:
    line = program.line()
    if not line:
        program.finish()
    if json.loads(line or "{}").get("event") != event:
        raise FedsdnError(f"{program.name} did not get so far as {event!r}: it said {line!r}")
