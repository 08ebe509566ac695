"""Probes as bytes: signed, and nothing else is taken."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.config.differences import DIGEST_DIGITS
from fedsdn.uplinks.probe import MOST_LOST, Probe, ProbeError, decode, sign

KEY = b"k" * 32
PROBE = Probe(
    "a", "up1", "b", "up2", 7, 8, 9, 10, 11, ("up2",), (("up1", "up3"),), True, "f" * DIGEST_DIGITS
)

names = st.text(min_size=1, max_size=32)
numbers = st.integers(0, 2**63)
probes = st.builds(
    Probe,
    *(names for _ in range(4)),
    *(numbers for _ in range(5)),
    down=st.lists(names, max_size=8).map(tuple),
    lost=st.lists(st.tuples(names, names), max_size=MOST_LOST).map(tuple),
    leaving=st.booleans(),
    file=st.text(max_size=32),
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
        down=(uplink,) * 8,
        lost=((uplink, uplink),) * MOST_LOST,
        file="f" * DIGEST_DIGITS,
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


@pytest.mark.parametrize("number", [-1, 2**63 + 1, 10**4000])
def test_numbers_that_no_counter_gets_are_refused(number: int) -> None:
    body = json.dumps({**asdict(PROBE), "heard_ago": number}).encode()
    with pytest.raises(ProbeError, match="another version"):
        decode(sign(body, KEY), KEY)


@pytest.mark.parametrize(
    "wrong", [{"lost": ["up1"]}, {"lost": [["up1"]]}, {"lost": [["up1", 2]]}, {"down": [1]}]
)
def test_lists_of_something_else_are_refused(wrong: dict[str, object]) -> None:
    body = json.dumps({**asdict(PROBE), **wrong}).encode()
    with pytest.raises(ProbeError, match="another version"):
        decode(sign(body, KEY), KEY)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"site": 1}', b"\xff"])
def test_a_signed_one_of_another_version_is_refused(body: bytes) -> None:
    with pytest.raises(ProbeError, match="another version"):
        decode(sign(body, KEY), KEY)
