"""Runs the test program for datagrams in other places."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fedsdn.config.model import Address
from fedsdn.errors import FedsdnError
from fedsdn.shell import Shell
from fedsdn.traffic.echoes import Answered, Echo, StreamView
from fedsdn.traffic.runner import PORT
from fedsdn.traffic.values import endpoint_from

PROGRAM = "fedsdn.traffic.datagrams"
"""Its module."""
DNS_PORT = PORT + 1
"""UDP port on which it answers questions of DNS; datagrams on ``PORT``."""
_SPARE_SECONDS = 20.0


@contextmanager
def serving(where: Shell, address: Address) -> Iterator[None]:
    """Let the program answer at ``address`` while the block runs.

    Raises:
        FedsdnError: it cannot listen there.

    """
    words = ("serve", str(address), str(PORT), str(DNS_PORT))
    with where.started(*where.module(PROGRAM), *words) as server:
        if not server.line():
            server.finish()
            raise FedsdnError(f"{server.name} did not listen")
        yield


def ask(
    where: Shell, address: Address, size: int, *, port: int = PORT, whole: bool = False
) -> Echo:
    """Have a datagram of ``size`` bytes answered; with ``whole`` never in fragments.

    Raises:
        FedsdnError: the program did not run to its end.

    """
    words = ("--bytes", str(size), *(("--whole",) if whole else ()))
    found = _last(where.output(*where.module(PROGRAM), "ask", str(address), str(port), *words))
    return Echo(
        **{**found, "local": endpoint_from(found["local"]), "seen": endpoint_from(found["seen"])}
    )


def resolve(where: Shell, address: Address) -> Answered:
    """Ask the program at ``address`` for a name's addresses.

    Raises:
        FedsdnError: the program did not run to its end.

    """
    command = (*where.module(PROGRAM), "resolve", str(address), str(DNS_PORT))
    return Answered(**_last(where.output(*command)))


@dataclass(frozen=True, slots=True)
class Streams:
    """So many flows, for some ``seconds``, of datagrams of ``size`` bytes.

    ``interval`` seconds lie between two of a flow. The last answers are waited for as long as
    ``wait`` says, in seconds.
    """

    address: Address
    flows: int
    seconds: float
    wait: float = 1.0
    size: int = 1000
    interval: float = 0.01


def stream(where: Shell, streams: Streams, meanwhile: Callable[[], None]) -> list[StreamView]:
    """Have flows answered, and call ``meanwhile`` beside it.

    Raises:
        FedsdnError: the program did not run to its end.

    """
    options = {
        "flows": streams.flows,
        "seconds": streams.seconds,
        "wait": streams.wait,
        "bytes": streams.size,
        "interval": streams.interval,
    }
    words = [f"--{option}={value}" for option, value in options.items()]
    command = (*where.module(PROGRAM), "stream", str(streams.address), str(PORT), *words)
    with where.started(*command) as client:
        client.line()
        meanwhile()
        found = _last(client.finish(timeout=streams.seconds + streams.wait + _SPARE_SECONDS))
    return [StreamView(**flow) for flow in found["flows"]]


def dropped(where: Shell) -> int | None:
    """Return how many datagrams there had no room in the sockets that they were for, since ever.

    None where that cannot be found out. A kernel without IPv6 has no ``snmp6``.

    Source: ``/proc/net/snmp`` and ``snmp6`` (Linux Documentation/networking/snmp_counter.rst).
    """
    try:
        text = where.run("cat", "/proc/net/snmp", "/proc/net/snmp6").stdout
    except FedsdnError:
        return None
    heads, values = _values(text, "Udp:"), _values(text, "Udp:", 1)
    found = dict(zip(heads, values, strict=False)).get("RcvbufErrors")
    found6 = _values(text, "Udp6RcvbufErrors")
    return None if found is None else int(found) + sum(map(int, found6))


def _values(text: str, name: str, index: int = 0) -> list[str]:
    """Return what stands behind a name, where it is for the first or another time."""
    lines = [line.split() for line in text.splitlines()]
    found = [rest for first, *rest in filter(None, lines) if first == name]
    return found[index] if index < len(found) else []


def _last(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found
