"""Has the packet filter judge datagrams by the federation file that the application follows.

The proxy takes changed rules up at once, and so do flows that are not TCP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from fedsdn.config.model import Federation
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.namespace import MissingNamespaceError
from fedsdn.site import firewall
from fedsdn.uplinks.happened import happened

_LOG = logging.getLogger(__name__)

_AGAIN_SECONDS = 5.0
"""How long after a failure it is tried again, and after the namespace was missing."""


class Rules:
    """A task of the application's event loop."""

    def __init__(
        self,
        namespace: str,
        site: str,
        federation: Callable[[], Federation],
        executor: Executor,
    ) -> None:
        """Prepare; ``executor`` has one thread, which tells the packet filter."""
        self._namespace = namespace
        self._site = site
        self._federation = federation
        self._executor = executor
        self._due = asyncio.Event()
        self._log = DampedLog(_LOG)

    def look(self) -> None:
        """Note that the federation may be another."""
        self._due.set()

    async def run(self) -> None:
        """Follow the federation's rules for ever."""
        followed: Federation | None = None
        while True:
            self._due.clear()
            federation = self._federation()
            if federation is not followed and await self._tell(federation):
                followed = federation
            await happened(self._due, None if federation is followed else _AGAIN_SECONDS)

    async def _tell(self, federation: Federation) -> bool:
        """Go over to the rules of a federation; say whether they are in force."""
        loop = asyncio.get_running_loop()
        wanted = self._namespace, federation, federation.site(self._site)
        try:
            if await loop.run_in_executor(self._executor, firewall.apply_rules, *wanted):
                _LOG.info("datagrams are judged by the rules of the federation file as it is now")
        except MissingNamespaceError:
            return False  # said where endpoints are kept
        except (FedsdnError, OSError) as error:
            text = f"datagrams are judged by the rules that were before: {error}; trying again"
            self._log.say(logging.WARNING, str(error), text)
            return False
        return True
