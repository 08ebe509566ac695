"""The server: what it does for a peer whose connection has waited."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from fedsdn.proxy.admission.carried import Carried
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.admission.slots import Work
from fedsdn.proxy.admission.unproven import NotProvenError
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.sockets import transport
from fedsdn.proxy.socks import server as module
from fedsdn.proxy.socks.answering import Dialogue
from fedsdn.proxy.socks.parked import Parked
from fedsdn.proxy.socks.protocol import GREETING, SELECTION, Request
from fedsdn.proxy.socks.server import Server
from fedsdn.proxy.tls.secured import Secured, TlsError
from fedsdn.socket_address import SocketAddress
from tests.unit.federations import two_sites, unencrypted
from tests.unit.loopback import asynchronous, tcp_pair, until

FEDERATION = unencrypted(two_sites())
HERE, PEER = FEDERATION.sites
CALLER = SocketAddress(PEER.uplinks[0].peer_address, 40000)
REQUEST = Request(
    SocketAddress(ip_address("10.2.0.11"), 40000),
    SocketAddress(ip_address("10.1.0.11"), 80),
    number=1,
)
OTHERS = ("restore", "path_manager", "turns", "held", "sequence", "tls")
CHANGED = {
    "the uplink is gone": replace(
        FEDERATION, sites=(HERE, replace(PEER, uplinks=PEER.uplinks[1:]))
    ),
    "the peer is gone": replace(FEDERATION, sites=(HERE,)),
}


class Scene:
    """A server, the work that it gives slots to, and the records that it leaves."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        self.waiting: list[Work] = []
        self.report = MagicMock()
        carried, relays = Carried(self.ended.append), MagicMock()
        others: dict[str, Any] = {name: MagicMock() for name in OTHERS}
        parked = Parked(1, carried, relays.statistics)
        self.server = Server(
            *(Policy.at(FEDERATION, HERE.name), relays, self.report, carried),
            **others,
            parked=parked,
            take_slot=self._take_slot,
        )

    def _take_slot(self, _owner: object, work: Work, _refuse: Callable[[], None]) -> None:
        self.waiting.append(work)

    async def greeted(self, far: socket.socket, peer: socket.socket) -> None:
        peer.send(GREETING)
        (await self.server.meet(far, CALLER))()
        await self.waiting.pop()()
        assert peer.recv(2) == SELECTION


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Scene]:
    """Connections here are plain TCP."""
    monkeypatch.setattr(transport, "prepare", lambda _: None)
    monkeypatch.setattr(module, "is_usable", lambda *_: True)
    return Scene


@pytest.mark.parametrize("change", CHANGED)
@asynchronous
async def test_a_request_is_judged_by_the_file_of_its_time(
    scene: Callable[[], Scene], change: str
) -> None:
    """While a connection waits for a slot, nobody carries it, and none finds it to be reset."""
    here = scene()
    far, peer = tcp_pair()
    with far, peer:
        await here.greeted(far, peer)
        peer.send(REQUEST.encode())
        await until(lambda: bool(here.waiting))
        here.server.policy = Policy.at(CHANGED[change], HERE.name)
        await here.waiting[0]()
        assert [one.reason for one in here.ended] == [Reason.REVOKED]
        assert not here.report.carried.called


@asynchronous
async def test_a_record_that_was_changed_on_the_way_leaves_one_here(
    scene: Callable[[], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = scene()
    far, peer = tcp_pair()
    with far, peer:
        await here.greeted(far, peer)
        broken = TlsError(Reason.PROTOCOL, Who.PEER, "bad record mac")
        monkeypatch.setattr(Dialogue, "request", AsyncMock(side_effect=broken))
        peer.send(REQUEST.encode())
        await until(lambda: bool(here.waiting))
        await here.waiting[0]()
        assert [(one.reason, one.peer, one.detail) for one in here.ended] == [
            (Reason.PROTOCOL, PEER.name, "bad record mac")
        ]


@asynchronous
async def test_a_caller_that_has_said_nothing_after_all_is_waited_for(
    scene: Callable[[], Scene],
) -> None:
    """Linux may wake who waits for what it then throws away."""
    here = scene()
    here.server.policy = Policy.at(two_sites(), HERE.name)
    secured = MagicMock(spec=Secured)
    called = MagicMock(side_effect=[BlockingIOError, secured])
    here.server._tls = MagicMock(called=called, prove=AsyncMock())
    far, peer = tcp_pair()
    with far, peer:
        proving = asyncio.create_task(here.server._prove(far, CALLER, PEER))
        await until(lambda: called.call_count == 1)
        assert not proving.done()
        peer.send(b"!")
        assert await proving is secured.__enter__()


@asynchronous
async def test_beginning_with_tls_waits_for_its_turn_as_every_step(
    scene: Callable[[], Scene],
) -> None:
    here = scene()
    here.server.policy = Policy.at(two_sites(), HERE.name)
    called = MagicMock(return_value=MagicMock(spec=Secured))
    here.server._tls = MagicMock(called=called, prove=AsyncMock())
    far, peer = tcp_pair()
    with far, peer:
        async with here.server._steps.step("somebody else"):
            proving = asyncio.create_task(here.server._prove(far, CALLER, PEER))
            await until(lambda: bool(here.server._steps._waiting))
            assert not called.called
        await proving
        assert called.call_count == 1


@pytest.mark.parametrize(
    ("said", "error"), [(b"", ConnectionResetError), (GREETING[:1], NotProvenError)]
)
@asynchronous
async def test_a_caller_that_goes_away_is_counted_only_if_it_has_said_half_a_greeting(
    scene: Callable[[], Scene], said: bytes, error: type[Exception]
) -> None:
    """A peer says nothing on a connection which it makes ready, and then does not want."""
    far, peer = tcp_pair()
    with far, peer:
        peer.send(said)
        peer.close()
        with pytest.raises(error, match="in the middle"):
            await scene().server.meet(far, CALLER)
