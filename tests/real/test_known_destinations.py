"""A VM's connect() to a destination that has answered others lately."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.real.held_syns import OTHER, outcome, port_of, served, with_another_vm
from tests.real.proxy_connections import Net, is_reset, reset, wait_until_none_is_open
from tests.real.test_direction import syn

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with with_another_vm() as net:
        yield net


def test_a_known_destination_is_answered_at_once_until_it_refuses(net: Net, family: int) -> None:
    """Which worker takes a connection, nobody chooses: what one learns, the others know."""
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener:
        port = port_of(listener)
        with near.counts(outbound=1, outbound_early=0), near.vm.connect(address, port) as client:
            served(listener, client)
        with near.counts(outbound=20, outbound_early=20, outbound_failed=0):
            for _ in range(20):
                with near.vm.connect(address, port) as client:
                    served(listener, client)
    with near.counts(outbound=1, outbound_early=1, outbound_failed=1):
        try:
            client = near.vm.connect(address, port)
        except ConnectionResetError:  # the reset was sooner than who waited for connect()
            pass
        else:
            with client:
                assert is_reset(client)
    with near.counts(outbound=20, outbound_early=0, outbound_failed=20):
        assert {outcome(near, address, port)[0] for _ in range(20)} == {errno.ECONNREFUSED}


def test_a_reset_makes_a_destination_unknown(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener:
        port = port_of(listener)
        with near.vm.connect(address, port) as client:
            server, _ = listener.accept()
            reset(server)
            assert is_reset(client)
        wait_until_none_is_open(net)
        with near.counts(outbound=1, outbound_early=0), near.vm.connect(address, port) as client:
            served(listener, client)


def test_a_vm_that_gives_up_leaves_a_destination_known(net: Net, family: int) -> None:
    """It says nothing of the destination; anybody could take that away from all others."""
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener, near.vm.raw(family) as other:
        port = port_of(listener)
        with near.vm.connect(address, port) as client:
            served(listener, client)
        with near.counts(outbound=1, outbound_early=1, outbound_failed=1):
            # It is answered by a SYN-ACK, and its kernel, which knows nothing of it, by a reset.
            other.sendto(syn((OTHER[family], 33_333), (address, port), 7), (address, 0))
        with near.counts(outbound=1, outbound_early=1), near.vm.connect(address, port) as client:
            served(listener, client)


def test_nothing_went_wrong_on_the_way(net: Net) -> None:
    """Runs last."""
    for site in net:
        assert "Traceback" not in site.log
