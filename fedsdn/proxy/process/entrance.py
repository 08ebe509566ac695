"""A worker's doors, and the parts of the worker that read there."""

from __future__ import annotations

from collections.abc import Callable

from fedsdn.proxy.opening.device import HeldQueue
from fedsdn.proxy.process.doors import Doors
from fedsdn.proxy.process.listener import Listener
from fedsdn.proxy.process.parts import Parts


class Accepting:
    """A listener, and the part that runs it."""

    def __init__(self, parts: Parts, name: str, listener: Listener) -> None:
        """Accept from now on."""
        self._parts = parts
        self._part = parts.last(name, listener.run())
        self.listener = listener

    async def stop(self) -> Listener:
        """Accept no more; what waits in the kernel waits on."""
        await self._parts.end(self._part)
        return self.listener

    async def end(self) -> None:
        """Accept what waits, and no more."""
        (await self.stop()).close()


class Entrance:
    """A listener for peers and a queue of SYNs, and the parts that read there."""

    def __init__(
        self, parts: Parts, listener: Listener, queue: HeldQueue, take: Callable[[bytes], None]
    ) -> None:
        """Take what comes from now on; ``take`` takes packets of the queue."""
        self._parts = parts
        self._peers = self._accepting(listener)
        self._queue = queue
        self._reading = parts.last("queue of SYNs", queue.run(take))

    def _accepting(self, listener: Listener) -> Accepting:
        return Accepting(self._parts, "listener for peers", listener)

    @property
    def port(self) -> int:
        """Where it listens for peers."""
        return self._peers.listener.port

    async def listen_anew(self, listener: Listener) -> None:
        """Listen with another listener; what waits at the one before is accepted."""
        before, self._peers = self._peers, self._accepting(listener)
        await before.end()

    async def give_away(self) -> Doors:
        """Read no more, and return the doors: what waits there is for who reads next."""
        await self._parts.end(self._reading)
        return Doors((await self._peers.stop()).detach(), self._queue.detach())

    async def close(self) -> None:
        """Take what peers have opened, and no more. The queue's SYNs are for other workers."""
        await self._parts.end(self._reading)
        self._queue.close()
        await self._peers.end()
