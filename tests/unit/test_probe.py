"""Probes as bytes: signed, and nothing else is taken."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict
from msgspec.structs import replace as altered

from fedsdn.config.differences import DIGEST_DIGITS
from fedsdn.uplinks.pair_keys import PairKey, pair_keys
from fedsdn.uplinks.probe import MOST_LOST, Probe, ProbeError, Refusal, decode, sign
from tests.unit.federations import own_identity

OUT, BACK = pair_keys("a", X25519PrivateKey.generate(), "b", own_identity("b").identity.key)
PROBE = Probe(
    *("a", "up1", "b", "up2", 7, 8, 9, 10, 11, 100_000, True, "f" * DIGEST_DIGITS),
    *(("up2",), (("up1", "up3"),), True, 12, 13),
)
HEAD = len(OUT.name) + 16


def find(name: bytes) -> PairKey | None:
    """The keys that the receiver has."""
    return OUT if name == OUT.name else None


def why(datagram: bytes) -> Refusal:
    with pytest.raises(ProbeError) as caught:
        decode(datagram, find)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value.reason


names = st.text(min_size=1, max_size=32)
numbers = st.integers(0, 2**63 - 1)
probes = st.builds(
    Probe,
    *(st.just("a"), names, st.just("b"), names),
    *(st.integers(1, 2**63 - 1), *(numbers for _ in range(4))),
    every=st.integers(1, 2**40),
    wanted=st.booleans(),
    file=st.text(max_size=32),
    down=st.lists(names, max_size=8).map(tuple),
    lost=st.lists(st.tuples(names, names), max_size=MOST_LOST).map(tuple),
    leaving=st.booleans(),
    asks=numbers,
    answers=numbers,
)


@given(probes)
def test_every_probe_is_read_as_it_was_written(probe: Probe) -> None:
    assert decode(probe.encode(OUT), find) == (probe, OUT)


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
        asks=number,
        answers=number,
    )
    assert len(largest.encode(OUT)) <= 1280 - 48


@given(st.binary(max_size=200))
def test_what_is_not_signed_is_no_probe(datagram: bytes) -> None:
    assert why(datagram) is Refusal.UNKNOWN
    assert why(OUT.name + datagram) is Refusal.SIGNATURE


@pytest.mark.parametrize("position", [0, 7, 8, HEAD - 1, HEAD, HEAD + 24, -1])
def test_a_changed_probe_is_refused(position: int) -> None:
    changed = bytearray(PROBE.encode(OUT))
    changed[position] ^= 1
    assert why(bytes(changed)) is (Refusal.UNKNOWN if position in (0, 7) else Refusal.SIGNATURE)


def test_a_probe_that_comes_back_to_its_sender_is_none() -> None:
    assert BACK.name != OUT.name
    assert BACK.secret != OUT.secret
    assert why(PROBE.encode(BACK)) is Refusal.UNKNOWN
    assert why(PROBE.encode(replace(BACK, name=OUT.name))) is Refusal.SIGNATURE


@pytest.mark.parametrize("field", ["site", "to"])
def test_nobody_signs_in_the_name_of_another(field: str) -> None:
    datagram = altered(PROBE, **{field: "c\nd\x1b"}).encode(OUT)
    with pytest.raises(ProbeError, match=r"'c\\nd\\x1b'") as refused:
        decode(datagram, find)
    assert refused.value.reason is Refusal.SIGNATURE
    assert str(refused.value).isprintable()


def body(**changed: object) -> bytes:
    """The text of ``PROBE``, with other fields, which may be of other types."""
    return json.dumps([*{**asdict(PROBE), **changed}.values()]).encode()


def test_a_probe_is_taken_as_text() -> None:
    assert decode(sign(body(), OUT), find) == (PROBE, OUT)


@pytest.mark.parametrize("number", [-1, 2**63 + 1, 10**4000])
@pytest.mark.parametrize("field", ["heard_ago", "every"])
def test_numbers_that_no_counter_gets_are_refused(field: str, number: int) -> None:
    assert why(sign(body(**{field: number}), OUT)) is Refusal.VERSION


@pytest.mark.parametrize(
    "wrong", [{"lost": ["up1"]}, {"lost": [["up1"]]}, {"lost": [["up1", 2]]}, {"down": [1]}]
)
def test_lists_of_something_else_are_refused(wrong: dict[str, object]) -> None:
    assert why(sign(body(**wrong), OUT)) is Refusal.VERSION


def test_one_without_a_field_is_of_another_version() -> None:
    fields = json.loads(body())[:-1]
    assert why(sign(json.dumps(fields).encode(), OUT)) is Refusal.VERSION


def test_one_with_a_field_more_is_of_another_version() -> None:
    assert why(sign(body(mood="good"), OUT)) is Refusal.VERSION


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"site": 1}', b"\xff"])
def test_a_signed_one_of_another_version_is_refused(text: bytes) -> None:
    assert why(sign(text, OUT)) is Refusal.VERSION
