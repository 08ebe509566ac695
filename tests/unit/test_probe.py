"""Probes as bytes: signed, and nothing else is taken."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from fedsdn.config.differences import DIGEST_DIGITS
from fedsdn.uplinks.probe import MOST_LOST, Probe, ProbeError, decode, sign

KEY = b"k" * 32
PROBE = Probe(
    *("a", "up1", "b", "up2", 7, 8, 9, 10, 11, 100_000, True, "f" * DIGEST_DIGITS),
    *(("up2",), (("up1", "up3"),), True),
)

names = st.text(min_size=1, max_size=32)
numbers = st.integers(0, 2**63 - 1)
probes = st.builds(
    Probe,
    *(names for _ in range(4)),
    *(numbers for _ in range(5)),
    every=st.integers(1, 2**40),
    wanted=st.booleans(),
    file=st.text(max_size=32),
    down=st.lists(names, max_size=8).map(tuple),
    lost=st.lists(st.tuples(names, names), max_size=MOST_LOST).map(tuple),
    leaving=st.booleans(),
)


@given(probes)
def test_every_probe_is_read_as_it_was_written(probe: Probe) -> None:
    assert decode(probe.encode(KEY), KEY) == probe


def test_the_largest_probe_fits_into_the_smallest_mtu() -> None:
    """1280 bytes (RFC 8200, section 5), less the headers of IPv6 and UDP."""
    name, number = "n" * 32, 2**64
    uplink = "u" * 11
    largest = Probe(
        *(name, uplink, name, uplink, number, number, number, number, number),
        every=2**40,
        wanted=False,
        file="f" * DIGEST_DIGITS,
        down=(uplink,) * 8,
        lost=((uplink, uplink),) * MOST_LOST,
        leaving=False,
    )
    assert len(largest.encode(KEY)) <= 1280 - 48


@given(st.binary(max_size=200))
def test_what_is_not_signed_is_no_probe(datagram: bytes) -> None:
    with pytest.raises(ProbeError, match=r"not signed with our key: compare 'probes.key'"):
        decode(datagram, KEY)


def test_another_key_is_refused() -> None:
    with pytest.raises(ProbeError):
        decode(PROBE.encode(b"o" * 32), KEY)


@pytest.mark.parametrize("position", [0, 15, 16, 40, -1])
def test_a_changed_probe_is_refused(position: int) -> None:
    changed = bytearray(PROBE.encode(KEY))
    changed[position] ^= 1
    with pytest.raises(ProbeError, match="not signed"):
        decode(bytes(changed), KEY)


def body(**changed: object) -> bytes:
    """The text of ``PROBE``, with other fields, which may be of other types."""
    return json.dumps([*{**asdict(PROBE), **changed}.values()]).encode()


def test_a_probe_is_taken_as_text() -> None:
    assert decode(sign(body(), KEY), KEY) == PROBE


@pytest.mark.parametrize("number", [-1, 2**63 + 1, 10**4000])
@pytest.mark.parametrize("field", ["heard_ago", "every"])
def test_numbers_that_no_counter_gets_are_refused(field: str, number: int) -> None:
    with pytest.raises(ProbeError, match="another version"):
        decode(sign(body(**{field: number}), KEY), KEY)


@pytest.mark.parametrize(
    "wrong", [{"lost": ["up1"]}, {"lost": [["up1"]]}, {"lost": [["up1", 2]]}, {"down": [1]}]
)
def test_lists_of_something_else_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ProbeError, match="another version"):
        decode(sign(body(**wrong), KEY), KEY)


def test_one_with_a_field_more_is_of_another_version() -> None:
    with pytest.raises(ProbeError, match="another version"):
        decode(sign(body(mood="good"), KEY), KEY)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"site": 1}', b"\xff"])
def test_a_signed_one_of_another_version_is_refused(text: bytes) -> None:
    with pytest.raises(ProbeError, match="another version"):
        decode(sign(text, KEY), KEY)
