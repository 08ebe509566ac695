"""Peers' connections that wait for a request of theirs: they hold no slot of those that run."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from fedsdn.channel.connection import Direction
from fedsdn.proxy.admission.carried import Carried, PeerConnection
from fedsdn.proxy.socks.protocol import Reply, encode_reply
from fedsdn.proxy.stats import Counter, WorkerStatistics

PARKED_SECONDS = 300.0
"""How long a peer may keep a connection without a request: longer than it does."""

LEAVING_SECONDS = 3.0
"""How long a peer that is told to end one may take: it does so where it reads that, unless its
request was under way, which is as late as the word itself. On paths that are dead neither comes."""


class Parked:
    """The parked connections of a worker."""

    def __init__(self, most: int, carried: Carried, statistics: WorkerStatistics) -> None:
        """Begin without any. Beyond ``most``, the oldest of the peer with most of them is reset."""
        self._most = most
        self._carried = carried
        self._statistics = statistics
        self._leaving = False
        self._told: dict[asyncio.Task[bool], asyncio.TimerHandle] = {}
        """Those whose peers know that we leave, and what ends each that they do not end."""
        self._tasks: defaultdict[str, dict[asyncio.Task[bool], socket.socket]] = defaultdict(dict)

    @property
    def tasks(self) -> set[asyncio.Task[bool]]:
        """The tasks of those that are parked."""
        return {task for tasks in self._tasks.values() for task in tasks}

    def park(self, far: socket.socket, peer: str, go_on: Callable[[], None]) -> None:
        """Take over a connection until the peer says something, and then ``go_on``."""
        task = asyncio.get_running_loop().create_task(self._wait(far, peer))
        task.add_done_callback(partial(self._leave, far, peer, go_on))
        self._tasks[peer][task] = far
        self._statistics.add(Counter.IDLE_OPEN)
        if self._leaving:
            self._say_that_we_leave(task, far)
        if sum(map(len, self._tasks.values())) > self._most:
            crowd = max(self._tasks.values(), key=len)
            next(iter(crowd)).cancel()

    def leave(self) -> None:
        """Tell the peers to make no more requests on these; what is under way is still taken.

        They end a connection where they read that, and so nothing is lost.
        """
        self._leaving = True
        for tasks in self._tasks.values():
            for task, far in tasks.items():
                self._say_that_we_leave(task, far)

    def dismiss(self, is_good: Callable[[socket.socket, str], bool]) -> None:
        """Tell the peers to end the connections that are not good any more.

        By a reset a request that is under way would be lost, and the VM's first data with it. It is
        still taken; if it may not be, the peer is told at that to ask again. A connection that its
        peer does not end is reset after ``LEAVING_SECONDS``.
        """
        for peer, tasks in self._tasks.items():
            for task, far in tasks.items():
                if not is_good(far, peer):
                    self._say_that_we_leave(task, far)

    async def _wait(self, far: socket.socket, peer: str) -> bool:
        """Wait until the peer says something; False if it does not for too long."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(far, readable.set)
        try:
            with self._carried.carrying(PeerConnection(Direction.INBOUND, peer)):
                async with asyncio.timeout(PARKED_SECONDS):
                    return await readable.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(far)

    def _leave(
        self, far: socket.socket, peer: str, go_on: Callable[[], None], task: asyncio.Task[bool]
    ) -> None:
        self._statistics.add(Counter.IDLE_OPEN, -1)
        if (told := self._told.pop(task, None)) is not None:
            told.cancel()
        del self._tasks[peer][task]
        if not self._tasks[peer]:
            del self._tasks[peer]
        if task.cancelled() or task.exception() is not None or not task.result():
            far.close()
        else:
            go_on()

    def _say_that_we_leave(self, task: asyncio.Task[bool], far: socket.socket) -> None:
        """Say it once, and reset the connection if the peer does not end it."""
        if task in self._told:
            return
        self._told[task] = task.get_loop().call_later(LEAVING_SECONDS, task.cancel)
        try:
            far.send(encode_reply(Reply.LEAVING))
        except BlockingIOError:
            task.cancel()  # the peer does not read, and half a record would be in the way
        except OSError:
            pass  # it is broken, which whoever waits for a request will find

    def close(self) -> None:
        """Reset all."""
        for tasks in self._tasks.values():
            for task in tasks:
                task.cancel()
