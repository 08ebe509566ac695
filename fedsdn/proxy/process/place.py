"""What a worker has from its parent."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from fedsdn.pipeline.declarations import MOST_WORKERS
from fedsdn.proxy.memory import Memory
from fedsdn.proxy.opening.tables import HeldTuples, KnownDestinations
from fedsdn.proxy.socks.sequence import Begun
from fedsdn.proxy.stats import WorkerStatistics
from fedsdn.proxy.tls.contexts import server_context


@dataclass(frozen=True, slots=True)
class Shared:
    """What the workers share, made before they are forked."""

    known: KnownDestinations
    held: HeldTuples
    begun: Begun
    tls: ssl.SSLContext

    @classmethod
    def within(cls, memory: Memory) -> Shared:
        """Make it, or take what ``memory`` has inherited."""
        tables = KnownDestinations(memory), HeldTuples(MOST_WORKERS, memory), Begun(memory)
        return cls(*tables, server_context())


@dataclass(frozen=True, slots=True)
class Place:
    """Which worker of the proxy this is, and what it has from its parent.

    ``workers`` is how many there are; one of them is the ``first``, which says what concerns all.
    ``identity`` is the directory of the site's private keys. Root alone makes ``queue``, to be one
    of held SYNs (``tun.open_queue``), and ``order``, the program that keeps these in order.
    """

    statistics: WorkerStatistics
    workers: int
    first: bool
    shared: Shared
    control: socket.socket
    identity: Path
    queue: int
    order: int
