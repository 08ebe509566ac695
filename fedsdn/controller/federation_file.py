"""Follows the federation file, and the bridge's ports, and says so to whoever goes by them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress

from fedsdn.config.model import Federation
from fedsdn.config.watch import WatchedFederation
from fedsdn.errors import FedsdnError
from fedsdn.ovs.wanted import wanted_flows
from fedsdn.pipeline.flows import Flow
from fedsdn.site.database import HERE

_LOG = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often the file is looked at."""

Follow = Callable[[Federation, tuple[Flow, ...]], Awaitable[None]]
"""Takes a federation and the site's flows: the first ones, all changed ones, and on request."""


class FederationFile:
    """A task that reads the file when it has changed, or on request."""

    def __init__(
        self, watched: WatchedFederation, site: str, follow: Follow, executor: Executor
    ) -> None:
        """Prepare; what may take a while (reading, checking, making flows) ``executor`` does."""
        self._watched = watched
        self._site = site
        self._follow = follow
        self._executor = executor
        self._woken = asyncio.Event()
        self._asked = False
        self._due = True
        self._complaint = ""

    def read_again(self) -> None:
        """Read the file now, even if it looks as before."""
        self._asked = True
        self._woken.set()

    def ports_changed(self) -> None:
        """Make the flows anew: the bridge's ports may have other VLANs."""
        self._due = True
        self._woken.set()

    async def run(self) -> None:
        """Follow the file for ever."""
        loop = asyncio.get_running_loop()
        while True:
            if self._due:
                await self._tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            asked, self._asked = self._asked, False
            changed = await loop.run_in_executor(
                self._executor, lambda force: self._watched.refresh(force=force), asked
            )
            self._due |= changed or asked

    async def _tell(self) -> None:
        self._due = False
        federation = self._watched.current
        try:
            flows = await asyncio.get_running_loop().run_in_executor(
                self._executor, wanted_flows, HERE, federation, self._site
            )
        except FedsdnError as error:
            self._due = True
            if str(error) != self._complaint:
                _LOG.warning("%s; flows stay as they are, trying again", error)
            self._complaint = str(error)
            return
        self._complaint = ""
        await self._follow(federation, flows)
