"""Records found in what arrives, however it is cut up; and how far a connection may run ahead."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.proxy.relay.from_peer import CONSUMED_BYTES
from fedsdn.proxy.relay.records import MOST, Kind, Parser, RecordError, record
from fedsdn.proxy.relay.relay import PEER_SECONDS
from fedsdn.proxy.relay.stream import VM_SECONDS
from fedsdn.proxy.relay.window import FIRST_BYTES, Budget, Window

DOCUMENT = (Path(__file__).parents[2] / "docs/socks-extension.md").read_text()

Said = list[tuple[Kind, int]]
NO_VALUE = [Kind.END, Kind.SEEN, Kind.RESET, Kind.URGENT]
SAID = st.lists(
    st.one_of(
        st.tuples(st.just(Kind.DATA), st.integers(1, 50)),
        st.tuples(st.just(Kind.SILENT), st.integers(0, 1)),
        st.tuples(st.just(Kind.CONSUMED), st.integers(1, MOST)),
        st.tuples(st.sampled_from(NO_VALUE), st.just(0)),
    ),
    max_size=20,
)


def read(stream: bytes, cuts: list[int]) -> Said:
    """Take the records off a stream that arrives in pieces."""
    parser, found = Parser(), []
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, stop in pairwise(edges):
        piece = memoryview(stream[start:stop])
        while piece:
            if parser.left:
                taken = min(parser.left, len(piece))
                parser.left -= taken
            else:
                taken, one = parser.header(piece)
                found += [] if one is None else [one]
            piece = piece[taken:]
    assert not parser.left
    return found


@given(SAID, st.lists(st.integers(0, 1 << 16), max_size=30))
def test_records_are_found_however_they_are_cut_up(said: Said, cuts: list[int]) -> None:
    stream = b"".join(
        record(kind, value) + bytes(value if kind is Kind.DATA else 0) for kind, value in said
    )
    assert read(stream, cuts) == said


def test_an_unknown_kind_is_none() -> None:
    with pytest.raises(RecordError, match="0x7"):
        Parser().header(memoryview(bytes([7, 0, 0, 0])))


@pytest.mark.parametrize("kind", NO_VALUE)
def test_what_has_no_value_has_none(kind: Kind) -> None:
    with pytest.raises(RecordError, match=f"{kind.name} with value 7"):
        Parser().header(memoryview(record(kind, 7)))


def test_a_vm_is_silent_or_not() -> None:
    with pytest.raises(RecordError, match="SILENT with value 2"):
        Parser().header(memoryview(record(Kind.SILENT, 2)))


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.CONSUMED])
def test_a_record_of_nothing_is_none(kind: Kind) -> None:
    with pytest.raises(RecordError, match="of nothing"):
        Parser().header(memoryview(record(kind, 0)))


def test_a_reader_that_never_reads_gets_little() -> None:
    window = Window(Budget(), "vm")
    assert window.room == FIRST_BYTES
    window.sent(FIRST_BYTES)
    window.paths_hold = 1 << 30
    assert window.room == 0


def test_a_reader_that_reads_gets_what_the_paths_hold_and_no_more() -> None:
    window = Window(Budget(), "vm")
    window.paths_hold = 3_000_000
    for _ in range(100):
        moved = window.room
        window.sent(moved)
        window.consumed(moved)
    assert window.room == 2 * 3_000_000 + (1 << 20)


def test_what_was_not_sent_cannot_be_consumed() -> None:
    window = Window(Budget(), "vm")
    window.sent(10)
    with pytest.raises(RecordError):
        window.consumed(11)


def test_a_vm_that_has_spent_its_share_leaves_the_rest_to_others() -> None:
    budget = Budget(16 * FIRST_BYTES)
    hungry = [Window(budget, "hungry") for _ in range(4)]
    other = Window(budget, "other")
    for window in (*hungry, other):
        window.sent(FIRST_BYTES)
    for window in (hungry[0], other):
        window.consumed(FIRST_BYTES)
    hungry[0].sent(FIRST_BYTES)
    assert budget.is_spent_for("hungry")
    assert not budget.is_spent_for("other")
    assert hungry[0].room == 0
    assert other.room == 2 * FIRST_BYTES
    for window in (*hungry, other):
        window.close()
    assert budget.used == 0


def test_a_worker_whose_memory_is_spent_leaves_each_connection_little() -> None:
    budget = Budget(4 * FIRST_BYTES)
    for vm in range(4):
        Window(budget, vm).sent(FIRST_BYTES)
    window = Window(budget, "another")
    window.sent(FIRST_BYTES)
    window.consumed(FIRST_BYTES)
    assert window.room == FIRST_BYTES


def test_a_reader_who_reads_never_waits_for_its_report() -> None:
    assert CONSUMED_BYTES < FIRST_BYTES


def test_the_document_has_the_codes_and_the_figures() -> None:
    section = DOCUMENT.partition("## Records\n")[2].partition("\n## ")[0]
    table = re.findall(r"\| `([0-9a-f]{2})` \| ([A-Z]+) \|", section)
    assert [(int(code, 16), name) for code, name in table] == [(kind, kind.name) for kind in Kind]
    assert f"more than {FIRST_BYTES >> 10} KiB" in section
    assert f"every {CONSUMED_BYTES >> 10} KiB" in section
    assert (PEER_SECONDS, VM_SECONDS) == (5, 2)
