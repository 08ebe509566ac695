"""bench attack: what of a round of strangers is a failure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedsdn.bench import attack
from fedsdn.bench.attack import KINDS, AttackResults, Round, Strangers, Watched
from fedsdn.bench.figures import Summary
from fedsdn.bench.neighbour import Times
from fedsdn.bench.stranger import Kind
from fedsdn.proxy.ended.record import Reason

TIMES = Times(Summary(10, 60.0, 70.0, 80.0), Summary(10, 110.0, 120.0, 130.0), 0)
WATCHED = Watched(180.0, 50.0, TIMES, [60.0] * 10, [110.0] * 10)
COUNTED = {str(Reason.SILENT_CALLER): 90, str(Reason.CROWDED): 10}
GOOD = Round(
    Kind.SILENT, Strangers(opened=100, refused=100), COUNTED, WATCHED, WATCHED, WATCHED, None
)


def broken(one: Round) -> list[str]:
    return AttackResults([one]).broken


def test_a_good_round_has_nothing_to_say() -> None:
    assert broken(GOOD) == []


def test_each_kind_has_its_reasons() -> None:
    assert attack.REFUSED_FOR.keys() == set(KINDS)
    assert all(attack.REFUSED_FOR[kind] for kind in KINDS if kind is not Kind.HALF_OPEN)


@pytest.mark.parametrize(
    ("strangers", "counted", "words"),
    [
        (Strangers(opened=100, refused=100), {str(Reason.SILENT_CALLER): 99}, "99 of 100"),
        (Strangers(opened=100, refused=100), {str(Reason.GARBLED): 100}, "0 of 100"),
        (
            Strangers(opened=100, refused=100),
            {**COUNTED, str(Reason.GARBLED): 1},
            f"1 were counted as {Reason.GARBLED}",
        ),
        (Strangers(opened=100, refused=99, served=1), COUNTED, "1 were served"),
        (Strangers(opened=100, refused=98, left=2), COUNTED, "2 not refused"),
        (Strangers(outside=100), {}, "none came so far"),
    ],
)
def test_who_is_not_refused_as_he_should_be(
    strangers: Strangers, counted: dict[str, int], words: str
) -> None:
    found = broken(replace(GOOD, strangers=strangers, counted=counted))
    assert any(words in one for one in found), found


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_standstill_is_none_because_there_was_one_before(when: str) -> None:
    still: dict[str, Any] = {when: replace(WATCHED, silence_ms=201.0)}
    assert broken(replace(GOOD, **still)) == [
        f"silent: the transfer stood still for 201 ms {when} it"
    ]
