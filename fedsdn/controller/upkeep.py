"""Keeps the proxy's namespace as ``fedsdn site up`` has made it, whoever changes it."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress

from fedsdn.config.model import Federation
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.site.keeper import Keeper
from fedsdn.site.setup import Part

_LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""How often settings are looked at, of which the kernel does not tell."""

_PAUSE_SECONDS = 0.1
"""The least pause between two looks: what is changed in one go is looked at in few."""

_SETTLE_SECONDS = 0.03
"""How long after the first news a look begins: an interface's routes go before it does."""

_SHARE = 9
"""A pause is so many times as long as the processor was busy with the look before it, however
often somebody changes things."""


def _processor_seconds() -> float:
    """Return what the process has used of the processor, with its children that have ended.

    A look has threads inside the namespace, and nft for children. What else the process does
    meanwhile counts as the look's: the pause is longer then, and never too short.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Upkeep:
    """A task of the application's event loop."""

    def __init__(
        self,
        namespace: str,
        site: str,
        federation: Callable[[], Federation],
        executor: Executor,
        others_interfaces: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; ``executor`` has one thread, which looks and puts back.

        ``others_interfaces`` is called when interfaces may be others than before.
        """
        self._namespace = namespace
        self._federation = federation
        self._executor = executor
        self._others_interfaces = others_interfaces
        self._keeper = Keeper(namespace, site)
        self._log = DampedLog(_LOG)

    async def run(self) -> None:
        """Keep it for ever."""
        loop = asyncio.get_running_loop()
        while True:
            took = await loop.run_in_executor(self._executor, self._look, loop)
            await asyncio.sleep(max(_PAUSE_SECONDS, _SHARE * took))
            await self._news()

    def _look(self, loop: asyncio.AbstractEventLoop) -> float:
        """Look once, and return the seconds of the processor that it took."""
        began = _processor_seconds()
        try:
            changed = self._keeper.look(self._federation())
            if self._keeper.followed:
                loop.call_soon_threadsafe(self._say_followed)
            for part in changed:
                if part is not Part.INTERFACES or not self._keeper.followed:
                    loop.call_soon_threadsafe(self._say_put_back, part)
            if Part.INTERFACES in self._keeper.looked_at:
                loop.call_soon_threadsafe(self._others_interfaces)
        except FedsdnError as error:
            loop.call_soon_threadsafe(self._complain, str(error))
        return _processor_seconds() - began

    def _say_put_back(self, part: Part) -> None:
        text = f"put back {part} of network namespace {self._namespace}: changed by somebody else"
        self._log.say(logging.WARNING, part, text)

    def _say_followed(self) -> None:
        text = "an uplink has another MTU: the proxy's interfaces and the tunnels follow"
        self._log.say(logging.INFO, text, text)

    def _complain(self, text: str) -> None:
        self._log.say(logging.WARNING, text, f"{text}; trying again")

    async def _news(self) -> None:
        """Wait until the kernel tells of changes, and for ``_LOOK_SECONDS`` at most."""
        loop = asyncio.get_running_loop()
        told, listening = asyncio.Event(), self._keeper.sockets
        for sock in listening:
            loop.add_reader(sock, told.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await told.wait()
        finally:
            for sock in listening:
                loop.remove_reader(sock)
        if told.is_set():
            await asyncio.sleep(_SETTLE_SECONDS)
