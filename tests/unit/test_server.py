"""The server: what it does for a peer whose connection has waited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from unittest.mock import MagicMock

import pytest

from fedsdn.proxy.admission.carried import Carried
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.admission.slots import Work
from fedsdn.proxy.ended.record import Ended, Reason
from fedsdn.proxy.sockets import transport
from fedsdn.proxy.socks import server as module
from fedsdn.proxy.socks.parked import Parked
from fedsdn.proxy.socks.protocol import GREETING, SELECTION, Request
from fedsdn.proxy.socks.server import Server
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


@pytest.mark.parametrize("change", CHANGED)
@asynchronous
async def test_a_request_is_judged_by_the_file_of_its_time(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """While a connection waits for a slot, nobody carries it, and none finds it to be reset."""
    monkeypatch.setattr(transport, "prepare", lambda _: None)
    monkeypatch.setattr(module, "is_usable", lambda *_: True)
    ended: list[Ended] = []
    waiting: list[Work] = []
    carried = Carried(ended.append)
    relays = MagicMock()
    others: dict[str, Any] = {name: MagicMock() for name in OTHERS}

    def take_slot(_owner: object, work: Work, _refuse: Callable[[], None]) -> None:
        waiting.append(work)

    parked = Parked(1, carried, relays.statistics)
    policy = Policy.at(FEDERATION, HERE.name)
    report = MagicMock()
    server = Server(policy, relays, report, carried, **others, parked=parked, take_slot=take_slot)
    far, peer = tcp_pair()
    with far, peer:
        peer.send(GREETING)
        (await server.meet(far, CALLER))()
        await waiting.pop()()
        assert peer.recv(2) == SELECTION
        peer.send(REQUEST.encode())
        await until(lambda: bool(waiting))
        server.policy = Policy.at(CHANGED[change], HERE.name)
        await waiting[0]()
        assert [one.reason for one in ended] == [Reason.REVOKED]
        assert not report.carried.called
