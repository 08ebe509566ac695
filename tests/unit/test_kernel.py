"""In which order the kernel is brought in line; its netlink sockets are fakes.

Thousands of real subflows would take minutes to open.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from ipaddress import ip_address

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from fedsdn.config.model import AddressPair
from fedsdn.mptcp.endpoints import Endpoint
from fedsdn.mptcp.subflows import Doomed
from fedsdn.uplinks import kernel
from fedsdn.uplinks.kernel import Kernel, Plan
from fedsdn.uplinks.teardown import Orders
from tests.unit.federations import two_sites

SITE = two_sites().site("a")
FIRST, SECOND, LIVE = (
    (ip_address(f"192.0.2.{number}"), ip_address(f"198.51.100.{number}")) for number in range(3)
)
IDLE, BUSY = 350, 3


def plan(dead: set[AddressPair], usable: set[str]) -> Plan:
    orders = Orders(
        usable=frozenset(usable),
        dead=frozenset({"up1", "up2"} - usable),
        dead_pairs=frozenset(dead),
        down_pairs=frozenset(),
        live_pairs={LIVE: -math.inf},
    )
    return Plan(orders, SITE)


class FakeNetlink:
    """Endpoints and subflows; the plan changes when the first batch of subflows has ended."""

    def __init__(self) -> None:
        self.plans = [plan({FIRST}, {"up1", "up2"})]
        self.there: dict[Endpoint, int] = {}
        self.did: list[tuple[str, int]] = []
        self.fails: Exception | None = None
        self.subflows = {("first", FIRST, False): IDLE, ("second", SECOND, True): BUSY}

    def current_plan(self) -> Plan:
        return self.plans[-1]

    def __call__(self, _namespace: str) -> FakeNetlink:
        return self

    def __enter__(self) -> FakeNetlink:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def doomed(self, pairs: Container[AddressPair]) -> list[Doomed]:
        return [
            Doomed(pair, (2, name.encode()), 1, busy, ((LIVE, (2, b"live")),))
            for (name, pair, busy), count in self.subflows.items()
            if pair in pairs
            for _ in range(count)
        ]

    def end(self, doomed: Sequence[Doomed], _live: Mapping[AddressPair, float]) -> int:
        for one in doomed:
            (key,) = [key for key in self.subflows if key[1] == one.pair]
            self.subflows[key] -= 1
        if doomed:
            self.did.append((doomed[0].name[1].decode(), len(doomed)))
        if len(self.plans) == 1:
            self.plans.append(plan({FIRST, SECOND}, {"up1"}))
        return len(doomed)

    def doubt(self, orders: Orders, *_words: object) -> None:
        self.did.append(("next hops", len(orders.dead_pairs)))
        if self.fails is not None:
            raise self.fails

    def read(self) -> dict[Endpoint, int]:
        return self.there

    def apply(self, wanted: Iterable[Endpoint]) -> bool:
        self.there = {endpoint: number for number, endpoint in enumerate(wanted, 1)}
        self.did.append(("endpoints", len(self.there)))
        return True


@pytest.fixture
def netlink(monkeypatch: pytest.MonkeyPatch) -> FakeNetlink:
    netlink = FakeNetlink()
    for name in ("Endpoints", "Subflows", "Neighbours"):
        monkeypatch.setattr(kernel, name, netlink)
    return netlink


def test_a_second_loss_does_not_wait_for_idle_subflows_of_the_first(netlink: FakeNetlink) -> None:
    obeying = Kernel("none")
    for _ in range(3):
        obeying.obey(netlink.current_plan)
    of_connections = [one for one in netlink.did if one[0] != "next hops"]
    assert of_connections[:3] == [("first", 100), ("endpoints", 1), ("second", BUSY)]
    assert set(netlink.subflows.values()) == {0}, "none is forgotten"
    assert netlink.did[:3] == [*of_connections[:2], ("next hops", 2)], "what connections need first"


@pytest.mark.parametrize("error", [NetlinkError(errno.EINVAL), OSError(errno.ENOBUFS, "full")])
def test_next_hops_that_cannot_be_asked_cost_connections_nothing(
    netlink: FakeNetlink, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    netlink.fails = error
    obeying = Kernel("none")
    for _ in range(3):
        assert obeying.obey(netlink.current_plan) == {"up1": 1}
    assert set(netlink.subflows.values()) == {0}
    (said,) = {one.getMessage() for one in caplog.records}
    assert said.startswith("next hops of network namespace none cannot be asked anew")
