"""When a VM is silent, and when the other one is muted for it."""

from __future__ import annotations

import pytest

from fedsdn.proxy.relay.silence import SILENT_SECONDS, Silences, is_silent, probe_interval
from fedsdn.proxy.sockets.vm_liveness import (
    IDLE_SECONDS,
    LONGEST_PROBE_SECONDS,
    MOST_PROBES,
    PROBE_SECONDS,
)


@pytest.mark.parametrize(
    ("unanswered", "last_acknowledgement", "silent"),
    [
        (0, 3600.0, False),  # nothing was asked
        (1, 14.9, False),  # the answer may be under way, or lost
        (2, 15.0, True),  # it has left two probes without an answer
        (4, 3.0, False),  # it was away for a moment: retransmissions are quick at first
        (6, SILENT_SECONDS, True),  # it acknowledges no data
    ],
)
def test_a_vm_is_silent_that_was_asked_twice_and_gave_no_answer_for_long(
    unanswered: int, last_acknowledgement: float, silent: bool
) -> None:
    assert is_silent(unanswered, last_acknowledgement) is silent


@pytest.mark.parametrize(
    ("own", "other", "mute"),
    [(False, False, False), (True, False, False), (False, True, True), (True, True, False)],
)
def test_a_vm_is_muted_when_the_other_is_silent_unless_it_is_silent_itself(
    own: bool, other: bool, mute: bool
) -> None:
    assert Silences(own, other).mute is mute


def test_of_two_silent_vms_the_one_that_comes_back_first_does_not_keep_the_other_muted() -> None:
    here, there = Silences(own=True, other=True), Silences(own=True, other=True)
    here.own = there.other = False
    assert (here.mute, there.mute) == (True, False)
    there.own = here.other = False
    assert (here.mute, there.mute) == (False, False)


def test_a_return_is_seen_within_an_eighth_of_the_absence() -> None:
    assert probe_interval(0) == probe_interval(30) == PROBE_SECONDS
    assert probe_interval(120) == 120 / 8
    assert probe_interval(1e6) == LONGEST_PROBE_SECONDS


def test_a_vm_that_says_nothing_has_two_hours() -> None:
    """As without a proxy, by the kernel's own keepalive: 7200 s and nine probes of 75 s."""
    silent = 0.0
    for _ in range(MOST_PROBES):
        silent += probe_interval(silent)
    assert 7200 < IDLE_SECONDS + silent < 7200 + 2 * 9 * 75
