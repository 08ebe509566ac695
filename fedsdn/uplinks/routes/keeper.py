"""Keeps the routes of what is not TCP on live paths, whoever changes them."""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

from fedsdn.config.model import Federation
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.namespace import MissingNamespaceError
from fedsdn.pipeline.declarations import TUNNELS_TABLE
from fedsdn.tunnels.configure import peers
from fedsdn.tunnels.wireguard import PeerState
from fedsdn.uplinks.happened import happened
from fedsdn.uplinks.path import Path
from fedsdn.uplinks.routes.choices import Choices
from fedsdn.uplinks.routes.kernel import Routes
from fedsdn.uplinks.routes.silent import End, Heard, Silence

_LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""How often round-trip times are compared; and a namespace that was missing is tried again."""

_LISTEN_SECONDS = 2.0
"""How often it is asked what has come by the tunnels."""

_PAUSE_SECONDS = 0.02
_SHARE = 9
"""What somebody changes is looked at after a pause, so many times as long as the look before took:
a loop of changes costs a tenth of a core. A path's death does not wait for that."""

_Result = TypeVar("_Result")


class RouteKeeper:
    """A task of the application's event loop."""

    def __init__(
        self,
        namespace: str,
        federation: Federation,
        site: str,
        executor: Executor,
        commands: Executor,
    ) -> None:
        """Prepare; ``executor`` has one thread, for the routes alone; ``commands`` runs ``wg``."""
        self._namespace, self._site = namespace, site
        self._choices = Choices(federation, site)
        self._sites = _by_key(federation)
        self._routes = Routes(namespace, TUNNELS_TABLE)
        self._silence = Silence()
        self._executor, self._commands = executor, commands
        self._due = asyncio.Event()
        self._log = DampedLog(_LOG)

    def set_federation(self, federation: Federation) -> None:
        """Go over to another federation; ``follow`` is then told of its paths."""
        self._choices = Choices(federation, self._site, self._choices)
        self._sites = _by_key(federation)
        self._due.set()

    def follow(self, paths: Iterable[Path]) -> None:
        """Follow paths that are new, or whose state has changed."""
        paths, now = list(paths), time.monotonic()
        for path in paths:
            end = self._choices.end(path.key)
            if end is not None:
                self._silence.follow(end, path.state, now)
        if self._choices.take(paths, now):
            self._due.set()

    async def run(self) -> None:
        """Keep them for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep())
                tasks.create_task(self._listen())
        finally:
            self._executor.submit(self._routes.close)  # behind what it does now

    async def _listen(self) -> None:
        """Leave out tunnels by which nothing comes."""
        while True:
            with suppress(FedsdnError):  # who gives tunnels their keys says so
                said = await asyncio.get_running_loop().run_in_executor(
                    self._commands, peers, self._namespace
                )
                now = time.monotonic()
                silent = self._silence.note(self._ends(said), now)
                if self._choices.set_silent(silent, now):
                    self._due.set()
            await asyncio.sleep(_LISTEN_SECONDS)

    def _ends(self, said: Iterable[PeerState]) -> dict[End, Heard]:
        """Say whose keys they are; a site may have two."""
        ends: dict[End, Heard] = {}
        for one in said:
            if one.key in self._sites:
                end = one.interface, self._sites[one.key]
                known = ends.get(end, Heard(0, 0))
                last = max(known.handshake, one.handshake or 0)
                ends[end] = Heard(known.octets + one.received, last)
        return ends

    async def _keep(self) -> None:
        """Keep the routes: first of all what is there already is taken over."""
        while (found := await self._have(self._routes.carried)) is None:
            await asyncio.sleep(_LOOK_SECONDS)
        self._choices.take_over(found, time.monotonic())
        while True:
            self._due.clear()
            wanted, began = self._choices.wanted(), time.monotonic()
            await self._have(lambda wanted=wanted: self._routes.obey(wanted))  # type: ignore[misc]
            took = time.monotonic() - began
            if not await happened(self._due, max(_PAUSE_SECONDS, _SHARE * took)):
                await self._news()
            self._choices.judge(time.monotonic())

    async def _have(self, work: Callable[[], _Result]) -> _Result | None:
        """Return what the routes' thread finds; None if it fails."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except MissingNamespaceError:
            return None  # the monitor of uplinks says so
        except FedsdnError as error:
            self._log.say(logging.WARNING, str(error), str(error))
            return None

    async def _news(self) -> None:
        """Wait for changes, ours or others', and for ``_LOOK_SECONDS`` at most."""
        loop, news = asyncio.get_running_loop(), self._routes.news
        if news is not None:
            loop.add_reader(news, self._due.set)
        try:
            await happened(self._due, _LOOK_SECONDS)
        finally:
            if news is not None:
                loop.remove_reader(news)


def _by_key(federation: Federation) -> dict[str, str]:
    """Return the sites by their public keys, as WireGuard writes these."""
    return {
        b64encode(identity.key).decode(): site.name
        for site in federation.sites
        for identity in site.identities
    }
