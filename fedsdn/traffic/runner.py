"""Runs the test program of ``traffic`` in other places."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedsdn.config.model import Address
from fedsdn.errors import FedsdnError
from fedsdn.shell import Shell, Started
from fedsdn.traffic.values import Amount, ClientView, TransferDirection

PROGRAM = "fedsdn.traffic.program"
"""Its module."""
PORT = 15001
"""TCP port on which the test program listens."""
LIMIT_SECONDS = 60.0
"""No transfer of ours goes on for longer."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """So many connections to the program at ``address``, each with the same data."""

    address: Address
    amount: Amount
    direction: TransferDirection = "upload"
    connections: int = 1
    port: int = PORT
    source: Address | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """What makes the program do it, and hold the connections open until told to go on."""
        source = ("--source", str(self.source)) if self.source else ()
        return (
            "send",
            str(self.address),
            str(self.port),
            *("--connections", str(self.connections)),
            *("--bytes", str(self.amount.size)),
            *("--seconds", str(self.amount.seconds)),
            *("--direction", self.direction),
            *("--limit", str(LIMIT_SECONDS)),
            "--hold",
            *source,
        )


@contextmanager
def serving(where: Shell, address: Address | None = None) -> Iterator[None]:
    """Let the program listen on ``PORT`` while the block runs.

    Raises:
        FedsdnError: it cannot listen there.

    """
    bound = ("--address", str(address)) if address else ()
    with where.started(*where.module(PROGRAM), "serve", "--port", str(PORT), *bound) as server:
        if not server.line():
            server.finish()
            raise FedsdnError(f"{server.name} did not listen")
        yield


def send(
    where: Shell, transfer: Transfer, while_open: Callable[[], None] = lambda: None
) -> tuple[ClientView, ...]:
    """Make a transfer, and call ``while_open`` when all its connections are open.

    What goes wrong with a single connection is in its ``error``.

    Raises:
        FedsdnError: the program did not run to its end.

    """
    with where.started(*where.module(PROGRAM), *transfer.arguments) as client:
        wait_open(client)
        while_open()
        return finish(client)


def wait_open(client: Started) -> None:
    """Wait until all connections of a started transfer are open, or could not be opened."""
    client.line()


def finish(client: Started) -> tuple[ClientView, ...]:
    """Let a started transfer move its data, and return what became of each connection.

    Raises:
        FedsdnError: the program did not run to its end.

    """
    lines = client.finish(timeout=LIMIT_SECONDS + 20).splitlines()
    return tuple(ClientView.from_json(data) for data in json.loads(lines[-1])["connections"])
