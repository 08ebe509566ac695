"""Idle connections beside a measurement, which must survive it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from fedsdn.bench.rig import Rig
from fedsdn.config.model import Family
from fedsdn.errors import FedsdnError
from fedsdn.shell import Started
from fedsdn.traffic.runner import PORT, PROGRAM, Transfer, finish
from fedsdn.traffic.values import Amount, ClientView

_EACH = Amount(size=16 * 1024)
"""Data of each at the end, as proof of life."""
_LIMIT = ("--limit", "7200")
_FAMILIES: tuple[Family, ...] = (4, 6)


@dataclass(frozen=True, slots=True)
class LiveConnections:
    """Open connections between the sites' last VMs, half of them IPv6."""

    count: int
    _clients: Sequence[Started]

    def finish(self) -> list[str]:
        """Have each carry data and end; return the failures."""
        wrong = []
        for client in self._clients:
            try:
                wrong += [_wrong(connection) for connection in finish(client)]
            except FedsdnError as error:  # at least one of them hangs
                wrong.append(str(error))
        return [error for error in wrong if error]


@contextmanager
def live_connections(rig: Rig, count: int) -> Iterator[LiveConnections]:
    """Have ``count`` connections open while the block runs; they end with it.

    Raises:
        FedsdnError: they cannot be opened.

    """
    near, far = (view.vms[-1] for view in rig.sites)
    with ExitStack() as stack:
        command = (*far.shell.module(PROGRAM), "serve", "--port", str(PORT), *_LIMIT)
        server = stack.enter_context(far.shell.started(*command))
        if not server.line():
            server.finish()
        clients = []
        for family, share in zip(_FAMILIES, (count - count // 2, count // 2), strict=True):
            address = far.address(family)
            if address is None or not share:
                continue
            transfer = Transfer(address, _EACH, connections=share)
            command = (*near.shell.module(PROGRAM), *transfer.arguments, *_LIMIT)
            client = stack.enter_context(near.shell.started(*command))
            if not client.line():
                client.finish()
                raise FedsdnError(f"{client.name} opened no connections")
            clients.append(client)
        yield LiveConnections(count, clients)


def _wrong(connection: ClientView) -> str | None:
    if connection.error:
        return connection.error
    if connection.received is None or not connection.received.intact:
        return "its data did not come as they were sent"
    return None
