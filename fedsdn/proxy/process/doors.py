"""By what new connections come to a worker, and how workers hand it on.

A reload loses none of them, because neither the listening socket nor the queue is closed: only who
reads is another one. Parent and worker tell each other by one word in a packet (unix(7),
``SOCK_SEQPACKET``), which may bring descriptors. The two may be of different versions of fedsdn.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from fedsdn.pipeline.declarations import MOST_WORKERS
from fedsdn.proxy.opening.device import attach
from fedsdn.proxy.sockets import transport

_LONGEST = 64


class Word(Enum):
    """What parent and worker say to each other."""

    READY = b"ready"
    """Worker: all that it needs is there but doors."""
    OPEN = b"open"
    """Parent: open doors of your own."""
    TAKE = b"take"
    """Parent: take these, too."""
    LEAVE = b"leave"
    """Parent: give your doors away, read the federation file again, and end with what you carry."""
    DOORS = b"doors"
    """Worker: these are given away."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The listening socket for peers, and a queue of held SYNs: both descriptors are owned."""

    peers: int
    queue: int

    @classmethod
    def opened(cls, port: int, queue: int) -> Doors:
        """Listen for peers on ``port``, and attach a queue.

        Raises:
            OSError: one of them cannot be had.

        """
        listener = transport.listen(port)
        try:
            attach(queue)
        except OSError:
            listener.close()
            raise
        return cls(listener.detach(), queue)

    def close(self) -> None:
        """Close both; whoever has copies keeps them."""
        os.close(self.peers)
        os.close(self.queue)


def close_all(doors: Iterable[Doors]) -> None:
    """Close them all."""
    for each in doors:
        each.close()


def say(control: socket.socket, word: Word, *doors: Doors) -> None:
    """Say a word to the other side, with copies of ``doors``.

    Raises:
        OSError: it has ended.

    """
    descriptors = [one for each in doors for one in (each.peers, each.queue)]
    socket.send_fds(control, [word.value], descriptors)


def hear(control: socket.socket) -> tuple[Word, list[Doors]]:
    """Return the next word, and the doors that came with it.

    Raises:
        OSError: the other side has ended, or says what nobody knows.

    """
    flags = socket.MSG_CMSG_CLOEXEC
    said, descriptors, *_ = socket.recv_fds(control, _LONGEST, 2 * MOST_WORKERS, flags)
    doors = [Doors(*pair) for pair in zip(descriptors[::2], descriptors[1::2], strict=False)]
    try:
        return Word(said), doors
    except ValueError:
        close_all(doors)
        raise ConnectionResetError(f"{said!r} from the proxy's other process") from None
