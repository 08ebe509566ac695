"""Gives the tunnels their keys and peers, those of the federation file, and has sessions begin."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Set
from concurrent.futures import Executor

from fedsdn.config.model import Federation
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.namespace import MissingNamespaceError
from fedsdn.tunnels.configuration import Identities
from fedsdn.tunnels.configure import Memory, configure
from fedsdn.tunnels.sessions import End, Heard
from fedsdn.uplinks.happened import happened

_LOG = logging.getLogger(__name__)

_CHECK_SECONDS = 2.0
"""How often is looked what has come by the interfaces, and whether somebody else has changed what
they were told."""

_RESTLESS_SECONDS = 0.25
"""How often while a session may begin any moment: a path lives, or a peer has a new identity."""

_SHARE = 9
"""After a look there is none, whoever asks for it, for so many times as long as processors worked
for it: that at thousands of peers, with paths that come up one by one."""

_MOST_PAUSE_SECONDS = 10.0
"""But for no longer: what others' programs have used meanwhile, as nft(8), is counted, too."""

_LEAST_PAUSE_SECONDS = 0.05
"""Nor for less: what is asked for meanwhile is looked at together."""


class Tunnels:
    """A task of the application's event loop."""

    def __init__(
        self,
        namespace: str,
        site: str,
        federation: Callable[[], Federation],
        executor: Executor,
        live: Callable[[], Set[End]],
        hear: Callable[[Mapping[End, Heard]], None],
    ) -> None:
        """Prepare; ``executor`` has one thread, which asks and tells the interfaces.

        ``live`` says which paths are up, and ``hear`` is told what has come by all tunnels.
        """
        self._namespace = namespace
        self._site = site
        self._federation = federation
        self._identities = Identities()
        self._memory = Memory()
        self._executor = executor
        self._live, self._hear = live, hear
        self._due, self._urgent = asyncio.Event(), asyncio.Event()
        self._log = DampedLog(_LOG)

    def identify(self, identities: Identities) -> None:
        """Go over to the keys that sites use now."""
        self._identities = identities
        self.look_at_once()

    def look_at_once(self) -> None:
        """Note that the federation is another."""
        self._urgent.set()
        self._due.set()

    def look(self) -> None:
        """Note that interfaces, or what is live, may be others."""
        self._due.set()

    async def run(self) -> None:
        """Keep them for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._due.clear()
            self._urgent.clear()
            wanted = self._federation(), self._site, self._identities, self._live()
            changed: tuple[str, ...] = ()
            try:
                changed = await loop.run_in_executor(
                    self._executor, configure, self._namespace, *wanted, self._memory
                )
            except MissingNamespaceError:
                pass  # said where endpoints are kept
            except FedsdnError as error:
                self._log.say(logging.WARNING, str(error), f"{error}; trying again")
            if self._memory.heard is not None:
                self._hear(self._memory.heard)
            await self._pause(soon=bool(changed))

    async def _pause(self, *, soon: bool) -> None:
        rest = min(max(_LEAST_PAUSE_SECONDS, _SHARE * self._memory.spent), _MOST_PAUSE_SECONDS)
        if await happened(self._urgent, rest):
            return
        soon |= self._memory.rotating or self._memory.sessions.is_restless(time.monotonic())
        pause = _RESTLESS_SECONDS if soon else _CHECK_SECONDS
        await happened(self._due, max(0.0, pause - rest))
