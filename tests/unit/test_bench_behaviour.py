"""What the benchmarks of applications' behaviour make of what they saw."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from fedsdn.bench.behaviour.case import Case, Difference, Ends, both
from fedsdn.bench.behaviour.report import table
from fedsdn.bench.behaviour.run import CASES, BehaviourResults, Verdict, compare
from fedsdn.bench.first_byte import FirstByteResults, Way
from fedsdn.bench.health import HealthResults
from fedsdn.bench.memory import Memory
from fedsdn.bench.segments import SYN, checksum, segment


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
    figures = {one.way: one for one in FirstByteResults({4: times}).figures()}
    assert figures[Way.ROUTED].met is None
    assert figures[Way.KNOWN].met is met
    assert figures[Way.FIRST].met is True


def test_late_deaths_are_counted() -> None:
    assert not HealthResults({"far": [1, 2, 2]}).broken
    (line,) = HealthResults({"near": [1], "far": [1, 3, 99]}).broken
    assert line.startswith("far: 2 deaths")


def test_memory_is_compared_by_kind() -> None:
    before, most = Memory(10, 20, 30), Memory(11, 19, 35)
    assert (before | most) - before == Memory(1, 0, 5)
