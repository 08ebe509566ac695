"""MPTCP endpoints of a real namespace, read back with ip mptcp."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from uuid import uuid4

import pytest

from fedsdn import namespace
from fedsdn.errors import FedsdnError
from fedsdn.mptcp.endpoints import Endpoint, EndpointFlag, Endpoints
from fedsdn.site import links
from fedsdn.site.network import Network
from fedsdn.uplinks.next_hops import Neighbours

pytestmark = pytest.mark.real

BOTH = EndpointFlag.SIGNAL | EndpointFlag.SUBFLOW
V4 = Endpoint(ip_address("192.0.2.1"), BOTH)
V6 = Endpoint(ip_address("2001:db8::1"), BOTH)
BEHIND_NAT = Endpoint(ip_address("192.0.2.7"), EndpointFlag.SUBFLOW)


@pytest.fixture
def name() -> Iterator[str]:
    name = f"endpoints-{uuid4().hex[:8]}"
    namespace.create(name)
    yield name
    namespace.delete(name)


def mptcp(name: str, command: str) -> str:
    return subprocess.run(
        ["ip", "-n", name, "-json", "mptcp", *command.split()],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def listed(name: str) -> dict[str, tuple[int, set[str]]]:
    """Identifier and flags by address."""
    found = json.loads(mptcp(name, "endpoint") or "[]")
    flags = {"signal", "subflow", "backup", "fullmesh", "implicit"}
    return {entry["address"]: (entry["id"], flags & entry.keys()) for entry in found}


def test_both_families_and_flags(name: str) -> None:
    with Endpoints(name) as endpoints:
        assert endpoints.apply([V4, V6, BEHIND_NAT])
        assert set(endpoints.read()) == {V4, V6, BEHIND_NAT}
    assert listed(name) == {
        "192.0.2.1": (1, {"signal", "subflow"}),
        "2001:db8::1": (2, {"signal", "subflow"}),
        "192.0.2.7": (3, {"subflow"}),
    }


def test_what_is_wanted_already_is_not_touched(name: str) -> None:
    with Endpoints(name) as endpoints:
        endpoints.apply([V4, V6])
        assert not endpoints.apply([V6, V4])
        assert endpoints.apply([V6])
        assert endpoints.apply([V6, BEHIND_NAT])
    found = listed(name)
    assert set(found) == {"2001:db8::1", "192.0.2.7"}
    assert found["2001:db8::1"][0] == 2


def test_foreign_endpoints_go_and_changed_flags_change(name: str) -> None:
    mptcp(name, "endpoint add 192.0.2.1 backup subflow")
    mptcp(name, "endpoint add 198.51.100.1 signal port 4000")
    with Endpoints(name) as endpoints:
        assert endpoints.apply([V4])
    assert {address: flags for address, (_, flags) in listed(name).items()} == {
        "192.0.2.1": {"signal", "subflow"}
    }


def test_an_endpoint_that_appears_meanwhile_is_replaced(name: str) -> None:
    class Late(Endpoints):
        late = True

        def read(self) -> dict[Endpoint, int]:
            there = super().read()
            if self.late:
                mptcp(name, "endpoint add 192.0.2.1 subflow")
            self.late = False
            return there

    with Late(name) as endpoints:
        assert endpoints.apply([V4])
    assert {address: flags for address, (_, flags) in listed(name).items()} == {
        "192.0.2.1": {"signal", "subflow"}
    }


def test_an_endpoint_that_disappears_meanwhile_is_no_error(name: str) -> None:
    class Late(Endpoints):
        def read(self) -> dict[Endpoint, int]:
            there = super().read()
            mptcp(name, "endpoint flush")
            return there

    with Endpoints(name) as endpoints:
        endpoints.apply([V4])
    with Late(name) as endpoints:
        endpoints.apply([V6])
    assert set(listed(name)) == {"2001:db8::1"}


def test_values_print_as_iproute2_does(name: str) -> None:
    assert str(V4) == "192.0.2.1 signal subflow"


def test_a_namespace_that_is_missing_is_not_made(name: str) -> None:
    namespace.delete(name)
    with pytest.raises(FedsdnError, match=f"{name} is missing: run 'fedsdn site up' first"):
        Endpoints(name)
    assert not namespace.exists(name)


def test_a_namespace_is_read_without_a_fork(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of a process that has threads may wait for ever for a lock that one of them held."""

    def fork() -> int:
        raise AssertionError("forked")

    home = namespace.own_identity()
    monkeypatch.setattr(os, "fork", fork)
    with Endpoints(name) as endpoints, Network(name) as network, Neighbours(name):
        assert endpoints.apply([V4])
        assert set(endpoints.read()) == {V4}
        assert network.interfaces() == set()
    assert set(links.namespace_links(name)) == {"lo"}
    assert namespace.own_identity() == home
