"""A socket in the way of a new connection, and kernels that do not end it. Netlink is a fake."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.mptcp import orphan
from fedsdn.mptcp.orphan import Standing, end
from fedsdn.mptcp.sock_diag import Found
from fedsdn.socket_address import SocketAddress

CLIENT = SocketAddress(ip_address("10.1.0.11"), 50_000)
VM = SocketAddress(ip_address("10.2.0.11"), 80)
OLD, NEW = (2, b"old"), (2, b"new")


class FakeKernel:
    def __init__(self, left: Found | None, there: int = 1) -> None:
        self.left, self.there = left, there

    def __call__(self) -> FakeKernel:
        return self

    def destroy(self, _doomed: object) -> int:
        return self.there

    def between(self, *_: object) -> Found | None:
        return self.left

    def close(self) -> None:
        pass


def ended(monkeypatch: pytest.MonkeyPatch, kernel: FakeKernel) -> bool:
    monkeypatch.setattr(orphan, "SockDiag", kernel)
    return end(Standing(OLD, 0, 0), CLIENT, VM)


def test_a_kernel_that_leaves_an_orphan_where_it_is_has_not_ended_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(FedsdnError, match=r"use Linux 6\.11, 6\.1\.132 or newer"):
        ended(monkeypatch, FakeKernel(Found(OLD, 4, 0, {})))


@pytest.mark.parametrize("left", [None, Found(NEW, 1, 0, {})], ids=["none", "another's"])
def test_what_is_gone_has_been_ended(monkeypatch: pytest.MonkeyPatch, left: Found | None) -> None:
    assert ended(monkeypatch, FakeKernel(left))


def test_what_was_gone_before_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ended(monkeypatch, FakeKernel(None, there=0))
