"""Has the packet filter judge datagrams by the federation file that the application follows.

The proxy takes changed rules up at once, and so do flows that are not TCP.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor

from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.namespace import MissingNamespaceError
from fedsdn.site import firewall

_LOG = logging.getLogger(__name__)


class Rules:
    """For the application's event loop."""

    def __init__(self, namespace: str, site: str, executor: Executor) -> None:
        """Prepare; ``executor`` has one thread, which tells the packet filter."""
        self._namespace = namespace
        self._site = site
        self._executor = executor
        self._followed: Federation | None = None

    async def follow(self, federation: Federation) -> None:
        """Go over to the rules of a federation."""
        if federation is self._followed:
            return
        self._followed = federation
        loop = asyncio.get_running_loop()
        site = federation.site(self._site)
        wanted = self._namespace, federation, site
        try:
            if await loop.run_in_executor(self._executor, firewall.apply_rules, *wanted):
                _LOG.info("datagrams are judged by the rules of the federation file as it is now")
        except MissingNamespaceError:
            pass  # ``fedsdn site up`` makes it with these rules
        except (FedsdnError, OSError) as error:
            _LOG.warning("datagrams are judged by the rules of the last 'site up': %s", error)
