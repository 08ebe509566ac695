"""How many connections a worker carries, and which is the next one.

No VM and no peer can take all slots: the last ones are for those that hold few.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from fedsdn.damped_log import DampedLog
from fedsdn.proxy.admission.shares import Owner, Shares

_LOG = logging.getLogger(__name__)

WAIT_SECONDS = 10.0
"""How long a connection may wait for a slot until it is reset."""

Work = Callable[[], Coroutine[Any, Any, None]]
"""Makes the coroutine that handles a connection to its end."""


class _Waiting:
    """A connection that waits for a slot."""

    def __init__(self, owner: Owner, share: float, work: Work, expiry: asyncio.TimerHandle) -> None:
        self.owner = owner
        self.share = share
        self.work = work
        self.expiry = expiry


class Slots:
    """At most ``most`` running connections, and ``waiting`` more that wait for their turn."""

    def __init__(
        self,
        most: int,
        waiting: int = 0,
        failed: Callable[[Owner, BaseException], object] = lambda *_: None,
    ) -> None:
        """Begin without any, in the running event loop.

        ``failed`` is told of a handler's exception, which has been logged.
        """
        self._failed = failed
        self.tasks: dict[asyncio.Task[None], Owner] = {}
        self._shares = Shares(most)
        self._most_waiting = waiting
        self._waiting: dict[Owner, deque[_Waiting]] = {}
        """By owner, in the order of their turns."""
        self._loop = asyncio.get_running_loop()
        self._log = DampedLog(_LOG)

    def full(self) -> bool:
        """Whether no more connections can run, of any owner."""
        return self._shares.full()

    def take(self, owner: Owner, share: float, work: Work, refuse: Callable[[], None]) -> None:
        """Run ``work`` now or when it is its turn; call ``refuse`` if it has none in time.

        ``share`` is as in ``Shares.allow``.
        """
        if self.allow(owner, share):
            self.run(owner, work)
            return
        self._say(owner)
        if sum(map(len, self._waiting.values())) >= self._most_waiting:
            refuse()
            return

        def expire() -> None:
            self._leave(waiting)
            refuse()

        expiry = self._loop.call_later(WAIT_SECONDS, expire)
        waiting = _Waiting(owner, share, work, expiry)
        self._waiting.setdefault(owner, deque()).append(waiting)

    def allow(self, owner: Owner, share: float) -> bool:
        """Whether a connection of ``owner`` need not wait."""
        return self._shares.allow(owner, share)

    def run(self, owner: Owner, work: Work) -> asyncio.Task[None]:
        """Run ``work`` now, however many slots its owner holds."""
        task = self._loop.create_task(work())
        self.tasks[task] = owner
        self._shares.take(owner)
        task.add_done_callback(self._ended)
        return task

    def run_all(self) -> None:
        """Run all that wait."""
        for queue in list(self._waiting.values()):
            for waiting in list(queue):
                self._run_waiting(waiting)

    def _run_waiting(self, waiting: _Waiting) -> None:
        self._leave(waiting)
        waiting.expiry.cancel()
        self.run(waiting.owner, waiting.work)

    def _leave(self, waiting: _Waiting) -> None:
        """Wait no more; the owner's next connection comes after those of all other owners."""
        queue = self._waiting.pop(waiting.owner)
        queue.remove(waiting)
        if queue:
            self._waiting[waiting.owner] = queue

    def _ended(self, task: asyncio.Task[None]) -> None:
        owner_of_it = self.tasks.pop(task)
        self._shares.give_back(owner_of_it)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.fault("a connection is reset: handling it failed", error)
            self._failed(owner_of_it, error)
        for owner, queue in self._waiting.items():
            if self.allow(owner, queue[0].share):
                self._run_waiting(queue[0])
                return

    def _say(self, owner: Owner) -> None:
        self._log.say(
            logging.WARNING,
            "waiting",
            f"{owner} has {self._shares.held[owner]} of the {self._shares.taken} connections that "
            f"this worker carries, of at most {self._shares.most}: its new ones wait until some "
            f"end, {WAIT_SECONDS:g} s at most, or are reset",
        )
