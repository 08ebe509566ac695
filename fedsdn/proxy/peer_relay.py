"""The relay between a VM and a peer: what is the same in both roles of the proxy."""

from __future__ import annotations

import socket

from fedsdn.channel.connection import Connection
from fedsdn.proxy.pipes import PipePool
from fedsdn.proxy.poller import Poller
from fedsdn.proxy.queue import SendQueue
from fedsdn.proxy.relay import Relay
from fedsdn.proxy.stats import Counter, WorkerStatistics


def peer_relay(
    near: socket.socket,
    far: socket.socket,
    poller: Poller,
    pipes: PipePool,
    statistics: WorkerStatistics,
    connection: Connection,
) -> Relay:
    """Prepare to relay a connection between ``near``, a VM's socket, and ``far``, a peer's."""
    queue = SendQueue(far)

    def sent(moved: int) -> None:
        statistics.add(Counter.BYTES_SENT, moved)
        connection.sent += moved
        queue.sent(moved)

    def received(moved: int) -> None:
        statistics.add(Counter.BYTES_RECEIVED, moved)
        connection.received += moved

    return Relay(near, far, poller, pipes, outward=sent, inward=received)
