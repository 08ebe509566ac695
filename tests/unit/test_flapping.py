"""Carriers that come and go."""

from __future__ import annotations

from fedsdn.uplinks.flapping import AGAIN_SECONDS, STEADY_SECONDS, Flapping

UP: frozenset[str] = frozenset()
DOWN, OTHER, BOTH = frozenset({"up1"}), frozenset({"up2"}), frozenset({"up1", "up2"})
SOON = 0.02


class Looks:
    """Looks at the carriers, one after the other."""

    def __init__(self) -> None:
        self.now = 100.0
        self.flapping = Flapping()

    def take(self, lost: frozenset[str], later: float = SOON) -> frozenset[str]:
        self.now += later
        return self.flapping.take(lost, self.now)


def flapped() -> Looks:
    """Return looks that have seen one loss, its return, another loss and the beginning of its."""
    looks = Looks()
    assert [looks.take(lost) for lost in (DOWN, UP, DOWN, UP)] == [DOWN, UP, DOWN, DOWN]
    return looks


def test_a_loss_and_its_return_count_at_once() -> None:
    looks = Looks()
    assert [looks.take(lost) for lost in (UP, DOWN, DOWN, UP)] == [UP, DOWN, DOWN, UP]
    assert [looks.take(lost, AGAIN_SECONDS) for lost in (DOWN, UP)] == [DOWN, UP]


def test_the_return_of_one_that_was_lost_again_counts_when_it_stays() -> None:
    looks = flapped()
    assert looks.take(UP, STEADY_SECONDS / 2) == DOWN
    assert looks.take(UP, STEADY_SECONDS / 2) == UP


def test_flapping_without_end_is_one_loss() -> None:
    looks = flapped()
    assert {looks.take(lost) for lost in (DOWN, UP) * 1000} == {DOWN}
    assert looks.take(UP, STEADY_SECONDS) == UP


def test_a_loss_soon_after_a_long_one_is_another_of_the_same_trouble() -> None:
    looks = Looks()
    for _ in range(10):
        assert looks.take(DOWN, AGAIN_SECONDS) == DOWN
    assert [looks.take(lost) for lost in (UP, DOWN, UP)] == [UP, DOWN, DOWN]


def test_others_are_not_doubted_with_it() -> None:
    looks = flapped()
    assert [looks.take(lost) for lost in (OTHER, UP)] == [BOTH, DOWN]


def test_one_that_has_stayed_is_believed_again() -> None:
    looks = flapped()
    assert looks.take(UP, STEADY_SECONDS) == UP
    assert [looks.take(lost, AGAIN_SECONDS) for lost in (DOWN, UP)] == [DOWN, UP]
