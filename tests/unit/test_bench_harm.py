"""Rounds of short connections, summed up and judged."""

from __future__ import annotations

import json

import pytest

from fedsdn.bench.cases import Control
from fedsdn.bench.harm import HarmResults, Round, shares
from fedsdn.bench.report import as_json, harm_table
from fedsdn.bench.short import Outcome, Way
from fedsdn.config.model import Family

DONE, WRONG, HUNG, RESET = Outcome.DONE, Outcome.WRONG, Outcome.HUNG, Outcome.RESET
APPLICATION, KERNEL = Control


def a_round(
    outcomes: dict[Outcome, int],
    control: Control = APPLICATION,
    family: Family = 4,
    way: Way = Way.DOWNLOAD,
) -> Round:
    return Round(way, control, family, 2.0, 3, outcomes, ())


@pytest.mark.parametrize(
    ("count", "found"), [(0, []), (1, [1]), (10, [10]), (11, [6, 5]), (25, [9, 8, 8])]
)
def test_counts_are_split_evenly(count: int, found: list[int]) -> None:
    assert shares(count, 10) == found


def test_classes_are_summed_up_apart() -> None:
    results = HarmResults([
        a_round({DONE: 10}),
        a_round({DONE: 7, RESET: 3}, KERNEL),
        a_round({DONE: 9, HUNG: 1}),
        a_round({DONE: 4}, family=6),
    ])  # fmt: skip
    title, headings, rows = harm_table(results)
    assert "one wire pulled" in title
    assert [list(row) for row in rows] == [
        ["download", "application", "IPv4", "19", "0", "1", "0", "0", "0", "5", "6"],
        ["download", "kernel alone", "IPv4", "7", "0", "0", "0", "3", "0", "5", "3"],
        ["download", "application", "IPv6", "4", "0", "0", "0", "0", "0", "2", "3"],
    ]
    assert len(headings) == 11


def test_the_table_says_how_the_wires_were() -> None:
    assert "0.5 % of the packets lost" in harm_table(HarmResults([], 0.5))[0]
    assert "pulled" not in harm_table(HarmResults([], 0.5))[0]


def test_what_hung_or_came_wrong_is_broken_and_nothing_else() -> None:
    results = HarmResults([
        a_round({DONE: 10, RESET: 5}),
        a_round({HUNG: 2}, way=Way.HALF_CLOSE),
        a_round({WRONG: 1}, KERNEL, 6),
    ])  # fmt: skip
    assert results.broken == [
        "half-close, application, IPv4: 2 hung",
        "download, kernel alone, IPv6: 1 wrong",
    ]
    assert not HarmResults([a_round({DONE: 10, RESET: 5})]).broken


def test_json_has_every_round() -> None:
    found = json.loads(as_json(HarmResults([a_round({DONE: 1})])))
    assert found["rounds"][0]["outcomes"] == {"done": 1}
