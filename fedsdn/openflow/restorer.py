"""Has the bridge restore the client's address of connections that are about to be opened.

Requests that arrive while the bridge takes one batch of flows form the next batch: connections that
open at once share messages and barriers, however many they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fedsdn.openflow.messages import forget
from fedsdn.openflow.session import Session, SessionError
from fedsdn.openflow.wire import FlowMod, FlowWriter
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.restore import Restoration
from fedsdn.socket_address import SocketAddress

_MOST_REMEMBERED = 100_000
_MOST = 500
"""Connections in one batch: more would keep the first of them waiting."""

Flows = Callable[[Restoration], Sequence[Flow]]
"""The flows that restore one connection's client."""

Errors = list[str | None]
"""For each connection why it is not restored, or None."""


class _Used:
    """Own addresses of earlier connections, whose conntrack entries a new one must not meet.

    A new connection of the same client to the same destination shows that the old one is over, and
    so does one from the same own address. Only these are flushed: conntrack refuses unknown ones.
    """

    def __init__(self) -> None:
        self._by_sockets: dict[tuple[SocketAddress, SocketAddress], SocketAddress] = {}

    def used(self, wanted: Restoration) -> set[SocketAddress]:
        """Return own addresses that were used before; note the new connection's."""
        destination = wanted.destination
        keys = {(wanted.client, destination), (wanted.own, destination)}
        before = {self._by_sockets.pop(key) for key in keys if key in self._by_sockets}
        self._by_sockets |= dict.fromkeys(keys, wanted.own)
        while len(self._by_sockets) > _MOST_REMEMBERED:
            del self._by_sockets[next(iter(self._by_sockets))]
        return before


class Restorer:
    """A task that adds the flows of all waiting connections at a time."""

    def __init__(self, session: Callable[[], Session | None], flows: Flows) -> None:
        """Use whichever ``session`` with the bridge there is; ``run`` does the work."""
        self._session = session
        self._flows = flows
        self._over = _Used()
        self._waiting: asyncio.Queue[tuple[list[Restoration], asyncio.Future[Errors]]]
        self._waiting = asyncio.Queue()

    async def restore(self, wanted: Iterable[Restoration]) -> Errors:
        """Have some connections restored; return for each why not, or None."""
        outcome: asyncio.Future[Errors] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((list(wanted), outcome))
        return await outcome

    async def run(self) -> None:
        """Restore for ever."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and sum(len(one) for one, _ in batch) < _MOST:
                batch.append(self._waiting.get_nowait())
            errors = iter(await self._restore([one for wanted, _ in batch for one in wanted]))
            for wanted, outcome in batch:
                mine = [next(errors) for _ in wanted]
                if not outcome.done():  # whoever asked may have gone
                    outcome.set_result(mine)

    async def _restore(self, wanted: list[Restoration]) -> Errors:
        session = self._session()
        if session is None:
            return ["the bridge is not connected to the application"] * len(wanted)
        messages: list[Any] = []
        ends = []
        for one in wanted:
            messages += self._messages(session.datapath, one)
            ends.append(len(messages))
        try:
            refused = await session.send(messages)
        except SessionError as error:
            return [str(error)] * len(wanted)
        starts = [0, *ends[:-1]]
        return [
            next((str(refused[at]) for at in range(start, end) if at in refused), None)
            for start, end in zip(starts, ends, strict=True)
        ]

    def _messages(self, datapath: Any, wanted: Restoration) -> Iterator[Any]:
        """Yield what restores one connection's client."""
        for own in self._over.used(wanted):
            yield forget(datapath, own, wanted.destination)
        for flow in self._flows(wanted):
            yield FlowMod(datapath, FlowWriter({}).write(flow))
