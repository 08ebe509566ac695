"""Gives the tunnels their keys and peers: those of the federation file, and no others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from fedsdn.config.model import Federation
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.namespace import MissingNamespaceError
from fedsdn.tunnels.configuration import Identities
from fedsdn.tunnels.configure import Memory, configure
from fedsdn.uplinks.happened import happened

_LOG = logging.getLogger(__name__)

_CHECK_SECONDS = 10.0
"""How often is looked whether somebody else has changed what an interface was told."""

_ROTATING_SECONDS = 0.5
"""How often, while a peer has a new identity, is looked whether it has begun a session with it."""


class Tunnels:
    """A task of the application's event loop."""

    def __init__(
        self,
        namespace: str,
        site: str,
        federation: Callable[[], Federation],
        executor: Executor,
    ) -> None:
        """Prepare; ``executor`` has one thread, which asks and tells the interfaces."""
        self._namespace = namespace
        self._site = site
        self._federation = federation
        self._identities = Identities()
        self._memory = Memory()
        self._executor = executor
        self._due = asyncio.Event()
        self._log = DampedLog(_LOG)

    def identify(self, identities: Identities) -> None:
        """Go over to the keys that sites use now."""
        self._identities = identities
        self._due.set()

    def look(self) -> None:
        """Note that the federation or interfaces may be others."""
        self._due.set()

    async def run(self) -> None:
        """Keep them for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._due.clear()
            wanted = self._federation(), self._site, self._identities, self._memory
            changed: tuple[str, ...] = ()
            try:
                changed = await loop.run_in_executor(
                    self._executor, configure, self._namespace, *wanted
                )
            except MissingNamespaceError:
                pass  # said where endpoints are kept
            except FedsdnError as error:
                self._log.say(logging.WARNING, str(error), f"{error}; trying again")
            soon = changed or self._memory.rotating
            await happened(self._due, _ROTATING_SECONDS if soon else _CHECK_SECONDS)
