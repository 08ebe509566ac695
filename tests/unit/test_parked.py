"""Connections that wait for a peer's request."""

from __future__ import annotations

from unittest.mock import MagicMock

from fedsdn.proxy.admission.carried import Carried
from fedsdn.proxy.socks.parked import Parked
from tests.unit.loopback import asynchronous, tcp_pair, until


@asynchronous
async def test_a_fault_closes_the_connection() -> None:
    carried = MagicMock(spec=Carried)
    carried.carrying.side_effect = ValueError
    far, peer = tcp_pair()
    go_on = MagicMock()
    with far, peer:
        Parked(1, carried, MagicMock()).park(far, "b", go_on)
        await until(lambda: far.fileno() == -1)
    assert not go_on.called
