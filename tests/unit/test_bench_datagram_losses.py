"""What became of datagrams, and what of it is beyond its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedsdn.bench.cases import Kind
from fedsdn.bench.datagrams import DatagramLoss, DatagramResults, table
from fedsdn.bench.ticked import CHANGE_SECONDS, Fate, OneWay, fate

DELAY = 0.015
EVER = (0.0, float("inf"))


def one_way(sent: int, came: list[int]) -> OneWay:
    """Number n is sent at n hundredths; what came did so in this order, at the earliest in time."""
    times = [n / 100 for n in range(1, sent + 1)]
    arrived, now = [], 0.0
    for number in came:
        now = max(now, times[number - 1] + DELAY)
        arrived.append((number, now))
    return OneWay(times, arrived)


@given(came=st.lists(st.integers(1, 50), max_size=80))
def test_each_datagram_is_lost_or_came_once_or_more_often(came: list[int]) -> None:
    found = fate(one_way(50, came), *EVER, ())
    assert found.sent == 50
    assert found.lost == 50 - len(set(came))
    assert found.again == len(came) - len(set(came))


@given(came=st.permutations(range(1, 20)))
def test_late_is_what_a_later_one_has_overtaken(came: list[int]) -> None:
    late = sum(number < max(came[: at + 1]) for at, number in enumerate(came))
    assert fate(one_way(20, came), *EVER, ()).late == late


def test_only_what_was_sent_meanwhile_counts() -> None:
    way = one_way(100, [*range(1, 40), *range(60, 101)])
    assert fate(way, 0.395, 0.505, ()).lost == 11
    assert fate(way, 0.0, 0.395, ()).lost == 0


def test_out_of_order_is_excused_at_a_change_alone() -> None:
    way = one_way(100, [*range(1, 50), 51, 50, *range(52, 101)])
    assert fate(way, *EVER, (0.45,)).late_elsewhere == 0
    assert fate(way, *EVER, (0.6,)).late_elsewhere == 1
    assert fate(way, *EVER, (0.49 - CHANGE_SECONDS,)).late_elsewhere == 1


def test_the_longest_silence_is_the_receivers() -> None:
    way = one_way(100, [*range(1, 40), *range(60, 101)])
    assert round(fate(way, *EVER, ()).silence, 6) == 0.21


def lost(number: int, *, again: int = 0) -> Fate:
    return Fate(100, number, again, 0, 0, 0.03)


def results(kind: Kind, *hit: Fate, others: tuple[Fate, ...] = ()) -> DatagramResults:
    losses = [DatagramLoss(kind, (one,), others) for one in hit]
    return DatagramResults(losses, silent_bound=33)


def test_bounds() -> None:
    assert not results(Kind.WIRE, *[lost(5)] * 99, lost(15)).broken
    assert results(Kind.WIRE, *[lost(6)] * 100).broken
    assert results(Kind.WIRE, *[lost(1)] * 10, lost(16)).broken
    assert not results(Kind.SILENT, lost(33)).broken
    assert results(Kind.SILENT, lost(34)).broken


def test_nothing_excuses_losses_on_another_wire_or_datagrams_that_come_twice() -> None:
    assert results(Kind.WIRE, lost(1), others=(lost(1),)).broken
    assert results(Kind.WIRE, lost(1, again=1)).broken


def test_the_table_has_a_row_of_each_kind_that_was_measured() -> None:
    _, headings, rows = table(results(Kind.SILENT, lost(30), lost(32)))
    ((kind, flows, *figures),) = rows
    assert (kind, flows, figures[:3]) == ("silent", "2", ["31", "32", "32"])
    assert len(headings) == len(rows[0])
