"""Has two VMs send datagrams to each other all the time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from fedsdn.config.model import Address
from fedsdn.errors import FedsdnError
from fedsdn.shell import Shell, Started

_PROGRAM = "fedsdn.bench.ticker"
_ports = count(20_000)


def new_port() -> int:
    """Return a UDP port that no flow had before."""
    return next(_ports)


@contextmanager
def ticking(
    near: tuple[Shell, Address], far: tuple[Shell, Address], port: int | None = None
) -> Iterator[tuple[Started, Started]]:
    """Have both ends send to each other while the block runs, from and to a ``port``.

    Raises:
        FedsdnError: nothing comes.

    """
    number = str(port or new_port())
    with _started(near, number, far[1]) as here, _started(far, number, near[1]) as there:
        for one in (here, there):
            if not one.line():
                one.finish()
                raise FedsdnError(f"{one.name}: no datagram came")
        yield here, there


@contextmanager
def _started(own: tuple[Shell, Address], port: str, peer: Address) -> Iterator[Started]:
    shell, address = own
    with shell.started(*shell.module(_PROGRAM), str(address), port, str(peer)) as one:
        yield one


def finish(one: Started) -> tuple[list[float], list[tuple[int, float]]]:
    """Have an end send no more; return when each number was sent, and which came when."""
    found = json.loads(one.finish())
    return found["sent"], found["came"]
