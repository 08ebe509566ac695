"""What the benchmarks of applications' behaviour make of what they saw."""

from __future__ import annotations

import ftplib
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from queue import SimpleQueue
from types import SimpleNamespace
from typing import cast

import pytest

from fedsdn.bench.behaviour import opening
from fedsdn.bench.behaviour import run as battery
from fedsdn.bench.behaviour.case import QUICK, Case, Difference, Ends, Where, both
from fedsdn.bench.behaviour.life import gone_word
from fedsdn.bench.behaviour.report import table
from fedsdn.bench.behaviour.run import CASES, BehaviourResults, Verdict, compare
from fedsdn.bench.figures import Summary
from fedsdn.bench.first_byte import FirstByteResults, Way
from fedsdn.bench.flood import FloodResults, Port, Round, Syns
from fedsdn.bench.health import HealthResults
from fedsdn.bench.health import table as health_table
from fedsdn.bench.memory import Memory
from fedsdn.bench.neighbour import Times
from fedsdn.bench.segments import SYN, checksum, segment
from fedsdn.lab.lab import Lab


def nothing(_: Ends) -> str:
    return ""


def case(difference: Difference | None = None) -> Case:
    return Case("a case", "does something", nothing, both("right"), difference)


EXCUSE = Difference("excused", "there is no other way")


@pytest.mark.parametrize(
    ("near", "far", "difference", "verdict"),
    [
        ("right", "right", None, Verdict.SAME),
        ("right", "right", EXCUSE, Verdict.SAME),
        ("right", "wrong", None, Verdict.UNEXPLAINED),
        ("right", "excused", EXCUSE, Verdict.EXPLAINED),
        ("right", "wrong", EXCUSE, Verdict.UNEXPLAINED),
        ("wrong", "wrong", None, Verdict.UNEXPECTED),
        ("wrong", "right", None, Verdict.UNEXPLAINED),
        ("wrong", "excused", EXCUSE, Verdict.UNEXPLAINED),
    ],
)
def test_judgement(near: str, far: str, difference: Difference | None, verdict: Verdict) -> None:
    one = compare(case(difference), 4, near, far)
    assert one.verdict is verdict
    is_broken = verdict in (Verdict.UNEXPLAINED, Verdict.UNEXPECTED)
    assert bool(BehaviourResults([one]).broken) == is_broken


def test_an_explanation_leads_to_the_readme() -> None:
    why = compare(case(EXCUSE), 6, "right", "excused").why
    assert EXCUSE.why in why
    assert "README" in why


def test_versions_that_saw_the_same_share_a_row() -> None:
    same = [compare(case(), family, "right", "right") for family in (4, 6)]
    other = [compare(case(), 4, "right", "right"), compare(case(), 6, "right", "wrong")]
    assert [row[2] for row in table(BehaviourResults(same))[2]] == ["IPv4, IPv6"]
    assert [row[2] for row in table(BehaviourResults(other))[2]] == ["IPv4", "IPv6"]


def test_cases_have_names_of_their_own() -> None:
    assert len({one.name for one in CASES}) == len(CASES)


@pytest.mark.parametrize("addresses", [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_a_segment_sums_up_to_nothing(addresses: tuple[str, str]) -> None:
    """RFC 9293, section 3.1: with its pseudo-header, all ones."""
    made = segment((addresses[0], 1000), (addresses[1], 80), SYN, (7, 0), b"odd")
    pseudo = b"".join(ip_address(one).packed for one in addresses)
    assert checksum(pseudo + struct.pack("!HH", len(made), 6) + made) == 0
    assert struct.unpack_from("!HHII", made) == (1000, 80, 7, 0)
    assert made.endswith(b"odd")


def test_checksum_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


@pytest.mark.parametrize(("known_ms", "met"), [(36.0, True), (37.0, False)])
def test_first_bytes_are_judged_by_the_routed_path(known_ms: float, *, met: bool) -> None:
    times = {Way.ROUTED: [60.0] * 10, Way.KNOWN: [known_ms] * 10, Way.FIRST: [66.0] * 10}
    results = FirstByteResults({4: times})
    figures = {one.way: one for one in results.figures()}
    assert figures[Way.ROUTED].met is None
    assert figures[Way.KNOWN].met is met
    assert figures[Way.FIRST].met is True
    assert [line.partition(",")[0] for line in results.broken] == [Way.KNOWN] * (not met)


def test_a_connection_that_failed_is_beyond_every_bound() -> None:
    assert FirstByteResults(errors=["first contact: reset"]).broken == ["first contact: reset"]


def test_late_deaths_are_counted() -> None:
    assert not HealthResults({"far": [1, 2, 2]}).broken
    results = HealthResults({"near": [1], "far": [1, 3, None, None]})
    (line,) = results.broken
    assert line.startswith("far: 3 deaths")
    assert health_table(results)[2][1] == ("far", "1", "0", "1", "2")


class Backend:
    """One whose checks come to what is given, and fail from then on."""

    def __init__(self, checks: Iterable[bool]) -> None:
        self._checks = iter(checks)

    def listen(self, port: int = 0) -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

    def connect(self, _port: int) -> socket.socket:
        if next(self._checks, False):
            return socket.socket()
        raise ConnectionRefusedError


@pytest.mark.parametrize(
    ("checks", "seen"),
    [
        ((), None),
        ((True, False) * 20, None),
        ((True,) * 50, None),
        ((True, True), 1),
        ((False, True, True, True), 2),
        ((True, True, True, True, True), 4),
    ],
)
def test_a_death_counts_only_of_a_backend_that_lived(
    checks: tuple[bool, ...], seen: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_CHECK_SECONDS", 0)
    assert opening.dead_checks(cast("Ends", Backend(checks)), 1) == [seen]


def test_a_case_that_goes_wrong_is_one_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a program said: the others are compared all the same."""

    @contextmanager
    def lanes(*_: object) -> Iterator[dict[Where, SimpleQueue[object]]]:
        made: dict[Where, SimpleQueue[object]] = {where: SimpleQueue() for where in Where}
        for queue in made.values():
            queue.put(SimpleNamespace(ends=lambda _: None))
        yield made

    def refused(_: Ends) -> str:
        raise ftplib.error_temp("421 too many")  # noqa: S321 -- nobody is asked

    monkeypatch.setattr(battery, "_lanes", lanes)
    results = BehaviourResults()
    cases = [
        Case("FTP", "fails", refused, {4: "done"}, seconds=9),
        Case("other", "is right", nothing, {4: ""}),
    ]
    battery.run(cast("Lab", None), cases, QUICK, results, lambda _: None)
    assert [one.verdict for one in results.compared] == [Verdict.UNEXPECTED, Verdict.SAME]
    (line,) = results.broken
    assert "error_temp('421 too many')" in line


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [(5, Verdict.SAME), (26, Verdict.EXPLAINED), (60, Verdict.UNEXPLAINED)],
)
@pytest.mark.parametrize("name", ["VM killed, idle", "VM killed, busy"])
def test_a_vm_that_is_gone_is_missed_in_time(name: str, seconds: float, verdict: Verdict) -> None:
    (killed,) = (one for one in CASES if one.name == name)
    near, far = (gone_word("No route to host", after) for after in (5, seconds))
    assert compare(killed, 4, near, far).verdict is verdict
    assert (compare(killed, 4, far, far).verdict is Verdict.SAME) == (verdict is Verdict.SAME)


def times(median: float, failed: int = 0) -> Times:
    found = Summary(10, median, median, median)
    return Times(found, found, failed)


NO_MEMORY = Memory(0, 0, 0)
FLOOD = Round(
    *(Port.CLOSED, 4, Syns(20_000, 20_000, 5.0, 5.1), times(40), times(50), times(40)),
    *(100.0, 95.0, 100.0, NO_MEMORY, NO_MEMORY, None),
)


@pytest.mark.parametrize(
    ("flood", "word"),
    [
        (replace(FLOOD, broken="reset"), "transfer: reset"),
        (replace(FLOOD, before=times(40, 1)), "before"),
        (replace(FLOOD, during=times(50, 1)), "during"),
        (replace(FLOOD, after=times(40, 1)), "after"),
        (replace(FLOOD, during=times(90)), "2.2 times"),
        (replace(FLOOD, rate_during=80.0), "kept 0.80"),
        (replace(FLOOD, syns=Syns(20_000, 20_000, 5.0, 8.0)), "8.0 s"),
        (replace(FLOOD, syns=Syns(20_000, 15_000, 5.0, 5.1)), "15000 of 20000"),
    ],
)
def test_what_a_flood_may_not_do(flood: Round, word: str) -> None:
    assert not FloodResults([FLOOD]).broken
    (line,) = FloodResults([FLOOD, flood]).broken
    assert line.startswith("closed port, IPv4: ")
    assert word in line


def test_memory_is_compared_by_kind() -> None:
    before, most = Memory(10, 20, 30), Memory(11, 19, 35)
    assert (before | most) - before == Memory(1, 0, 5)
