"""Keeps the routes of what is not TCP on live paths, whoever changes them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import TypeVar

from fedsdn.config.model import Federation
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.namespace import MissingNamespaceError
from fedsdn.pipeline.declarations import TUNNELS_TABLE
from fedsdn.tunnels.sessions import End, Heard
from fedsdn.uplinks.happened import happened
from fedsdn.uplinks.path import Path
from fedsdn.uplinks.routes.choices import Choices
from fedsdn.uplinks.routes.kernel import Routes
from fedsdn.uplinks.routes.silent import Silence
from fedsdn.uplinks.status import PathState

_LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""How often round-trip times are compared; and a namespace that was missing is tried again."""

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
        ask: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; ``executor`` has one thread, for the routes alone.

        ``ask`` has somebody ``hear`` soon what comes by the tunnels: a path lives whose tunnel was
        silent.
        """
        self._namespace, self._site = namespace, site
        self._choices = Choices(federation, site)
        self._routes = Routes(namespace, TUNNELS_TABLE)
        self._silence = Silence()
        self._executor, self._ask = executor, ask
        self._due = asyncio.Event()
        self._log = DampedLog(_LOG)

    def set_federation(self, federation: Federation) -> None:
        """Go over to another federation; ``follow`` is then told of its paths."""
        self._choices = Choices(federation, self._site, self._choices)
        self._due.set()

    def follow(self, paths: Iterable[Path]) -> None:
        """Follow paths that are new, or whose state has changed."""
        paths, now = list(paths), time.monotonic()
        silent = False
        for path in paths:
            end = self._choices.end(path.key)
            if end is not None:
                self._silence.follow(end, path.state, now)
                silent |= path.state is PathState.UP and self._choices.is_silent(end)
        if self._choices.take(paths, now):
            self._due.set()
        if silent:
            self._ask()

    def live(self) -> set[End]:
        """Return the tunnels whose paths are up."""
        return self._choices.live()

    def hear(self, heard: Mapping[End, Heard]) -> None:
        """Note what has come by the tunnels: those that are silent are left out."""
        now = time.monotonic()
        if self._choices.set_silent(self._silence.note(heard, now), now):
            self._due.set()

    async def run(self) -> None:
        """Keep them for ever: first of all what is there already is taken over."""
        try:
            await self._keep()
        finally:
            self._executor.submit(self._routes.close)  # behind what it does now

    async def _keep(self) -> None:
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
