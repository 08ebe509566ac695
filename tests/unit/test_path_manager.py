"""Which subflows a connection lacks."""

from __future__ import annotations

import socket
from itertools import product

from fedsdn.config.model import AddressPair, Uplink
from fedsdn.proxy.sockets.path_manager import Managed, lacking
from tests.unit.federations import uplink

A1, A2, A3 = (uplink(f"a{n}", f"198.51.100.{n}/24") for n in (1, 2, 3))
B1, B2 = (uplink(f"b{n}", f"203.0.113.{n}/24") for n in (1, 2))
NAT = uplink("nat", "192.168.1.2/24", public="203.0.113.9")


def pair(own: Uplink, other: Uplink) -> AddressPair:
    return own.address.ip, other.peer_address


def test_a_new_connection_lacks_what_shares_nothing_with_its_first() -> None:
    every = list(product((A1, A2), (B1, B2)))
    assert lacking(every, [pair(A1, B1)]) == [(A2, B2)]
    assert lacking(every, [pair(A1, B2)]) == [(A2, B1)]


def test_a_connection_on_every_uplink_lacks_nothing() -> None:
    every = list(product((A1, A2), (B1, B2)))
    assert lacking(every, [pair(A1, B1), pair(A2, B2)]) == []


def test_every_uplink_of_the_larger_site_is_brought_in() -> None:
    assert lacking(list(product((A1, A2, A3), (B1,))), [pair(A1, B1)]) == [(A2, B1), (A3, B1)]
    assert lacking(list(product((A1,), (B1, B2))), [pair(A1, B1)]) == [(A1, B2)]


def test_uplinks_whose_common_path_is_dead_are_brought_in_by_others() -> None:
    left = [(A1, B1), (A1, B2), (A2, B1)]
    assert lacking(left, [pair(A1, B1), pair(A2, B2)]) == [(A1, B2), (A2, B1)]


def test_what_is_on_no_usable_path_is_not_waited_for() -> None:
    assert lacking([(A1, B1)], [pair(A1, B1)]) == []
    assert lacking([], [pair(A1, B1)]) == []


def test_a_connection_on_dead_paths_only_is_joined_by_the_first_that_lives() -> None:
    assert lacking([(A2, B2)], [pair(A1, B1)]) == [(A2, B2)]


def test_a_better_path_comes_first() -> None:
    assert lacking([(A2, B1), (A1, B1), (A1, B2)], []) == [(A2, B1), (A1, B2)]


def test_a_peer_behind_nat_is_known_by_its_public_address() -> None:
    assert lacking([(A1, NAT)], [pair(A1, NAT)]) == []


def test_a_connection_whose_joins_are_refused_is_given_up() -> None:
    connection = managed(asked=frozenset({pair(A1, B1)}))
    lost = [connection.has_lost_its_peer({}, now) for now in (0.0, 0.1, 0.2, 0.6, 0.7, 1.2)]
    assert lost == [False, False, False, False, False, True]


def test_a_connection_that_waits_is_not_given_up() -> None:
    asked = frozenset({pair(A1, B1), pair(A2, B2)})
    being_opened, open_elsewhere = {pair(A2, B2): False}, {pair(A1, B2): True}
    for there in (being_opened, open_elsewhere):
        connection = managed(asked)
        assert not any(connection.has_lost_its_peer(there, now) for now in range(10))
    nothing_to_ask_for = managed(frozenset())
    assert not any(nothing_to_ask_for.has_lost_its_peer({}, now) for now in range(10))


def test_refusals_count_only_in_a_flow() -> None:
    connection = managed(asked=frozenset({pair(A1, B1)}))
    seen = [{}, {}, {pair(A1, B1): False}, {}, {}]
    assert not any(connection.has_lost_its_peer(there, now) for now, there in enumerate(seen))


def managed(asked: frozenset[AddressPair]) -> Managed:
    return Managed(socket.socket(), 1, "b", lambda *_: None, asked)
