"""Callers that have not proved yet to be the peer whose address they have.

Whoever can send in a peer's name on an uplink's network gets this far, so little may be had here: a
caller that is silent has a descriptor and no task, none has one of the slots of those that are
carried, and each has ten seconds. Of one address there are so many, and so many in all; one more
sheds one of the address that has most: the oldest of those that have said nothing, because the peer
speaks as soon as it is connected; or else the oldest of those that have had the time that the peer
needs; or else any. For if so many come that nobody has that time, the oldest is the peer for sure.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedsdn.channel.connection import Direction
from fedsdn.config.model import Address, Site
from fedsdn.damped_log import DampedLog
from fedsdn.mptcp.connection import tcp_info
from fedsdn.proxy.admission.policy import Refusal
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.ended.summed import Summed
from fedsdn.socket_address import SocketAddress

_LOG = logging.getLogger(__name__)

PROOF_SECONDS = 10.0
"""How long a caller may take: some round trips on the longest path, and losses."""

WIND_UP_SECONDS = 2.0
"""How long they may take when the worker stops."""

_SPEAKS_SECONDS = 0.05
"""The peer's first octets come right behind the end of its connect: who is silent for longer is
shed first. Not before, since the peer may be the only one that is."""

_ROUND_TRIPS = 4
"""A handshake and the greeting take three, behind the one of the connection itself."""

_TURNS_SECONDS = 0.1
"""What the peer waits besides for turns of ``Steps``."""

_LONGEST_ROUND_TRIP_SECONDS = 0.3
"""No more is believed of a caller's: by acknowledging late it would choose how long it may stay."""

_OF_ONE = 1 / 2
"""The part of all places that one address may have."""


class NotProvenError(Exception):
    """A caller is not the peer, or does not show that it is: why, and a few words."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        """Give the reason that is counted, and what the record says besides."""
        super().__init__(detail or str(reason))
        self.reason = reason
        self.detail = detail


Meet = Callable[[socket.socket, SocketAddress], Coroutine[Any, Any, Callable[[], object]]]
"""Has a caller prove who it is; returns what takes the connection over from then on.

Raises NotProvenError, or OSError if the caller has gone. The socket is closed then, but not one
that was made of it. It is cancelled when its time is over.
"""


@dataclass(slots=True, eq=False)
class _Caller:
    far: socket.socket
    name: SocketAddress
    peer: str
    since: float
    had_time: float
    """From when on it has had as long as the peer needs on such a path."""
    expiry: asyncio.TimerHandle | None = None
    task: asyncio.Task[Callable[[], object]] | None = field(default=None)


class Unproven:
    """The unproven callers of a worker."""

    def __init__(
        self,
        most: int,
        peer_behind: Callable[[Address], Site | Refusal],
        meet: Meet,
        keep: Callable[[Ended], None],
        any_of: Callable[[Sequence[_Caller]], _Caller] = secrets.choice,
    ) -> None:
        """Begin without any, in the running event loop; all addresses together have ``most``.

        ``peer_behind`` says whose an address is; ``keep`` is given a record a second of those that
        were refused, by peer, address and reason. ``any_of`` chooses who is shed of those that are
        equal: nobody can foresee whom.
        """
        self._any = any_of
        self._most = max(2, most)
        self._of_one = max(1, int(self._most * _OF_ONE))
        self._peer_behind = peer_behind
        self._meet = meet
        self._refused = Summed(keep)
        self._keep = keep
        self._callers: dict[Address, dict[_Caller, None]] = {}
        """By address, the oldest first."""
        self._count = 0
        self._none_left: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()
        self._log = DampedLog(_LOG)

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def take(self, far: socket.socket, name: SocketAddress) -> None:
        """Take over an accepted socket, which does not block."""
        peer = self._peer_behind(name.address)
        if isinstance(peer, Refusal):
            far.close()
            self._note(name, "", peer.reason, "")
            return
        now = self._loop.time()
        needs = _TURNS_SECONDS + _ROUND_TRIPS * _round_trip_seconds(far)
        caller = _Caller(far, name, peer.name, now, now + needs)
        self._make_room(name.address)
        self._callers.setdefault(name.address, {})[caller] = None
        self._count += 1
        late = Reason.SILENT_CALLER, f"not proven within {PROOF_SECONDS:g} s"
        caller.expiry = self._loop.call_later(PROOF_SECONDS, self._shed, caller, *late)
        self._loop.add_reader(far, self._heard, caller)

    def _make_room(self, address: Address) -> None:
        own = self._callers.get(address, {})
        if self._count >= self._most and len(own) < self._of_one:
            own = max(self._callers.values(), key=len)
        elif len(own) < self._of_one:
            return
        detail = f"more than {len(own)} unproven at a time"
        self._shed(self._least(list(own)), Reason.CROWDED, detail)

    def _least(self, crowd: Sequence[_Caller]) -> _Caller:
        """Return who is shed first of callers at one address, the oldest first."""
        now = self._loop.time()
        silent = (one for one in crowd if one.task is None and one.since <= now - _SPEAKS_SECONDS)
        had_time = (one for one in crowd if one.had_time <= now)
        return next(silent, None) or next(had_time, None) or self._any(crowd)

    def _heard(self, caller: _Caller) -> None:
        """Have a caller, who says something, prove who it is; one that has gone is forgotten."""
        if _has_gone(caller.far):
            self._drop(caller)
            return
        self._loop.remove_reader(caller.far)
        caller.task = self._loop.create_task(self._meet(caller.far, caller.name))
        caller.task.add_done_callback(partial(self._met, caller))

    def _met(self, caller: _Caller, task: asyncio.Task[Callable[[], object]]) -> None:
        self._leave(caller)
        if not task.cancelled() and task.exception() is None:
            task.result()()
            return
        caller.far.close()
        if task.cancelled():
            return  # who has cancelled it has said why
        error = task.exception()
        if isinstance(error, NotProvenError):
            self._note(caller.name, caller.peer, error.reason, error.detail)
        elif isinstance(error, OSError):
            _LOG.debug("%s has gone: %s", caller.name, error)
        elif error is not None:
            self._log.fault("a connection is reset: handling it failed", error)
            detail = f"{type(error).__name__}: {error}"
            self._keep(Ended(*_inbound(Reason.FAULT), caller.peer, detail=detail))

    def _shed(self, caller: _Caller, reason: Reason, detail: str) -> None:
        if caller.task is not None and caller.task.done():
            return  # it is about to leave
        self._note(caller.name, caller.peer, reason, detail)
        self._drop(caller)

    def _drop(self, caller: _Caller) -> None:
        self._leave(caller)
        if caller.task is not None:
            caller.task.cancel()
            return
        self._loop.remove_reader(caller.far)
        caller.far.close()

    def _leave(self, caller: _Caller) -> None:
        """Give a place back, once."""
        own = self._callers.get(caller.name.address, {})
        if caller not in own:
            return
        if caller.expiry is not None:
            caller.expiry.cancel()
        del own[caller]
        if not own:
            del self._callers[caller.name.address]
        self._count -= 1
        if not self._count and self._none_left is not None:
            self._none_left.set()

    def _note(self, name: SocketAddress, peer: str, reason: Reason, detail: str) -> None:
        words = f"from {name.address}" + (f": {detail}" if detail else "")
        ended = Ended(*_inbound(reason), peer, detail=words)
        self._refused.note((peer, name.address), ended)

    async def wind_up(self, seconds: float = PROOF_SECONDS) -> None:
        """Wait until there are none, and drop those that are left after so many seconds.

        None may be taken any more.
        """
        if self._count:
            self._none_left = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._none_left.wait()
        for own in list(self._callers.values()):
            for caller in list(own):
                self._drop(caller)
        self._refused.keep_all()


def _inbound(reason: Reason) -> tuple[Reason, Who, Direction]:
    return reason, Who.HERE, Direction.INBOUND


def _has_gone(far: socket.socket) -> bool:
    """Whether a socket that is readable has nothing to be read."""
    try:
        return not far.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _round_trip_seconds(far: socket.socket) -> float:
    try:
        return min(tcp_info(far).rtt * 1e-6, _LONGEST_ROUND_TRIP_SECONDS)
    except OSError:  # it has gone
        return 0.0
