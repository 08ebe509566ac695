"""Many connections: whether all are served, and in their order."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack

from fedsdn.bench.behaviour.case import Case, Ends, both, port_of, tell
from fedsdn.bench.short import Outcome, Way

_PROGRAM = "fedsdn.bench.short"
_PORT = 15008
_AT_ONCE = 25
_LIMIT_SECONDS = 120.0
_PAIRS = 100
"""Of connections to one server, and as many each to a server of its own."""


def _order(ends: Ends) -> str:
    """Open two at once, one after the other: to one server, and to a new one each time."""
    swapped = 0
    with ends.listen() as listener:
        for _ in range(_PAIRS):
            swapped += _swapped(ends, listener)
    for _ in range(_PAIRS):
        with ends.listen() as listener:
            swapped += _swapped(ends, listener)
    return f"{swapped} of {2 * _PAIRS} swapped"


def _swapped(ends: Ends, listener: socket.socket) -> bool:
    with ExitStack() as stack:
        ports = []
        for _ in range(2):
            client = stack.enter_context(ends.client.open(ends.family))
            client.setblocking(False)
            client.connect_ex(listener.getsockname()[:2])
            ports.append(port_of(client))
        came = []
        for _ in range(2):
            server, name = listener.accept()
            server.close()
            came.append(name[1])
    return came != ports


def _short_connections(ends: Ends) -> str:
    """Open many, of which each has an answer of its own after its half-close."""
    count = ends.lengths.short_connections
    server_command = (*ends.server.shell.module(_PROGRAM), "serve", str(_PORT))
    with ends.server.shell.started(*server_command) as server:
        if not server.line():
            server.finish()
        arguments = (Way.HALF_CLOSE, str(_PORT), ends.address, str(count), str(_AT_ONCE))
        said = ends.client.shell.output(
            *ends.client.shell.module(_PROGRAM), *arguments, timeout=_LIMIT_SECONDS
        )
    outcomes: dict[str, int] = json.loads(said.splitlines()[-1])["outcomes"]
    other = {name: n for name, n in outcomes.items() if name != Outcome.DONE}
    done = tell(outcomes.get(Outcome.DONE, 0), count)
    return ", ".join((f"{done} done", *(f"{n} {name}" for name, n in other.items())))


CASES = (
    Case("order", "of the arrival of connections opened one right after the other", _order,
         both(f"0 of {2 * _PAIRS} swapped"), seconds=20),
    Case("short connections", "very many, each with its answer after a half-close",
         _short_connections, both("all done"), seconds=60),
)  # fmt: skip
