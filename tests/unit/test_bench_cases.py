"""Which losses are measured, and that the flaps of a seed can be repeated."""

from collections import Counter
from itertools import pairwise

import pytest

from fedsdn.bench.cases import Control, Kind, losses, losses_beside, variations
from fedsdn.bench.flaps import random_flaps


def test_each_four_losses_have_every_uplink_direction_and_family_twice() -> None:
    every = list(variations(8))
    assert len(set(every)) == 8
    for four in (every[:4], every[4:]):
        for values in zip(*four, strict=True):
            assert set(Counter(values).values()) == {2}


def test_every_class_has_as_many_losses_as_asked_for() -> None:
    counts = Counter((case.kind, case.control) for case in losses(5))
    assert len(counts) == len(Kind) * len(Control)
    assert set(counts.values()) == {5}


def test_classes_take_turns_and_the_application_is_rarely_stopped() -> None:
    cases = list(losses(4))
    changes = sum(a.control != b.control for a, b in pairwise(cases))
    assert changes == 4
    first = cases[: len(Kind)]
    assert [case.kind for case in first] == list(Kind)


def test_no_uplink_is_lost_twice_in_a_row() -> None:
    for cases in (list(losses(9)), list(losses_beside(9, 1))):
        assert all(a.uplink != b.uplink for a, b in pairwise(cases))


@pytest.mark.parametrize("kind", Kind)
def test_every_class_has_every_uplink_direction_and_family(kind: Kind) -> None:
    for control in Control:
        of_class = [c for c in losses(8) if (c.kind, c.control) == (kind, control)]
        assert len({(c.uplink, c.direction, c.family) for c in of_class}) == 8


def test_losses_beside_live_connections() -> None:
    cases = list(losses_beside(3, 1000))
    assert [case.live for case in cases] == [1000] * 3
    assert {(case.kind, case.control) for case in cases} == {(Kind.WIRE, Control.APPLICATION)}


def test_a_seed_repeats_its_flaps() -> None:
    assert list(random_flaps(7, 50)) == list(random_flaps(7, 50))
    assert list(random_flaps(7, 50)) != list(random_flaps(8, 50))


def test_flaps_are_of_both_uplinks_and_never_silent() -> None:
    flaps = list(random_flaps(1, 200))
    assert {flap.uplink for flap in flaps} == {0, 1}
    assert {flap.kind for flap in flaps} == set(Kind) - {Kind.SILENT}
    assert all(0 <= flap.down <= 0.5 and 0 <= flap.up <= 0.5 for flap in flaps)
