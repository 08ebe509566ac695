"""Records of SYNs that no peer is asked for."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from fedsdn.proxy.ended import summed
from fedsdn.proxy.ended.record import Ended, Reason
from fedsdn.proxy.ended.unasked import Unasked
from fedsdn.socket_address import SocketAddress
from tests.unit.loopback import asynchronous, until

DESTINATION = SocketAddress(ip_address("10.2.0.11"), 80)


def vm(number: int, port: int) -> SocketAddress:
    return SocketAddress(ip_address(f"10.1.0.{number}"), port)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summed, "_EVERY_SECONDS", 0.01)


@asynchronous
async def test_a_flood_is_one_record_and_none_is_lost() -> None:
    kept: list[Ended] = []
    flood = Unasked(kept.append)
    for port in range(1, 20_001):
        flood.note(vm(11, port), DESTINATION, Reason.UNASKED, "")
    flood.note(vm(12, 7), DESTINATION, Reason.UNASKED, "")
    assert kept == []
    await until(lambda: len(kept) == 2)
    assert [(one.reason, one.client, one.count) for one in kept] == [
        (Reason.UNASKED, vm(11, 20_000), 20_000),
        (Reason.UNASKED, vm(12, 7), 1),
    ]
    flood.note(vm(11, 5), DESTINATION, Reason.UNASKED, "")
    await until(lambda: len(kept) == 3)
    assert kept[-1].count == 1


@asynchronous
async def test_many_vms_do_not_grow_it() -> None:
    kept: list[Ended] = []
    flood = Unasked(kept.append)
    for number in range(250):
        flood.note(vm(number, 1), DESTINATION, Reason.UNASKED, "")
    await until(lambda: bool(kept))
    assert len(kept) == summed._MOST_KEYS + 1
    assert sum(one.count for one in kept) == 250


@asynchronous
async def test_each_reason_has_a_record() -> None:
    kept: list[Ended] = []
    flood = Unasked(kept.append)
    for _ in range(3):
        flood.note(vm(11, 1), DESTINATION, Reason.UNASKED, "")
        flood.note(vm(11, 1), DESTINATION, Reason.UNFEDERATED, "no VM")
    await until(lambda: len(kept) == 2)
    assert [(one.reason, one.count, one.detail) for one in kept] == [
        (Reason.UNASKED, 3, ""),
        (Reason.UNFEDERATED, 3, "no VM"),
    ]


@asynchronous
async def test_each_peer_has_a_record() -> None:
    kept: list[Ended] = []
    flood = Unasked(kept.append)
    for peer in ("b", "c", "b"):
        flood.note(vm(11, 1), DESTINATION, Reason.NO_RULE, "none", peer)
    await until(lambda: len(kept) == 2)
    assert [(one.peer, one.count) for one in kept] == [("b", 2), ("c", 1)]
