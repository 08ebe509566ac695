"""Follows the federation file, and says so to whoever goes by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress

from fedsdn.config.model import Federation
from fedsdn.config.watch import WatchedFederation
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.flows import Flow

POLL_SECONDS = 1.0
"""How often the file is looked at."""

Follow = Callable[[Federation, tuple[Flow, ...]], Awaitable[None]]
"""Takes a federation and the site's flows: the first one, every changed one, and on request."""


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
        self._asked = asyncio.Event()

    def read_again(self) -> None:
        """Read the file now, even if it looks as before."""
        self._asked.set()

    async def run(self) -> None:
        """Follow the file for ever."""
        loop = asyncio.get_running_loop()
        due = True
        while True:
            if due:
                federation = self._watched.current
                flows = await loop.run_in_executor(
                    self._executor, pipeline_flows, federation, self._site
                )
                await self._follow(federation, flows)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            changed = await loop.run_in_executor(
                self._executor, lambda force: self._watched.refresh(force=force), asked
            )
            due = changed or asked
