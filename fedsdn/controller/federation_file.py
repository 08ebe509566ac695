"""Follows the federation file, and the bridge's ports, and says so to whoever goes by them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from fedsdn.config.model import Federation
from fedsdn.config.watch import WatchedFederation
from fedsdn.errors import FedsdnError
from fedsdn.ovs.database import read_bridges
from fedsdn.ovs.local_vlans import Bridges, ambiguity
from fedsdn.ovs.wanted import flows_among
from fedsdn.pipeline.build import Groups, SiteFlows
from fedsdn.site.database import HERE

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

POLL_SECONDS = 1.0
"""How often the file is looked at."""

Follow = Callable[[Federation, Groups], Awaitable[None]]
"""Takes a federation and the site's flows: the first ones, all changed ones, and on request.

Groups that did not change are the same objects as the last time."""


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
        self._bridges: Bridges | None = None
        """As the database told them last."""
        self._followed: Federation | None = None
        self._flows: SiteFlows | None = None
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
        while True:
            if self._due:
                await self._tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            asked, self._asked = self._asked, False
            changed = await self._blocking(partial(self._watched.refresh, force=asked))
            self._due |= changed or asked

    async def _tell(self) -> None:
        """Follow the file and the ports; while the database is silent, the file and ports known.

        What the file forbids is not to wait for the database.
        """
        federation = self._watched.current
        self._due = False  # what changes while the database is read is due again
        silent = not await self._read_bridges(federation)
        self._due |= silent
        if self._bridges is None or (silent and federation == self._followed):
            return
        self._flows = await self._blocking(
            flows_among, self._bridges, federation, self._site, self._flows
        )
        self._followed = federation
        await self._follow(federation, self._flows.groups)

    async def _read_bridges(self, federation: Federation) -> bool:
        """Ask the database for the bridges; say whether it answers."""
        site = federation.site(self._site)
        try:
            bridges = await self._blocking(read_bridges, HERE, site.provider_network.bridge)
        except FedsdnError as error:
            self._complain(f"{error}; ports are taken to be as they were, trying again")
            return False
        self._bridges = bridges
        self._complain(": ".join(ambiguity(site, bridges) or ()))
        return True

    def _complain(self, complaint: str) -> None:
        """Log it, once."""
        if complaint and complaint != self._complaint:
            _LOG.warning("%s", complaint)
        self._complaint = complaint

    async def _blocking(self, work: Callable[..., _T], *words: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *words)
