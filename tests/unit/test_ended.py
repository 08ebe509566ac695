"""Records of ended connections: in shared memory, in JSON, in words."""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import random
import signal
import struct
import time
from ipaddress import ip_address
from zlib import crc32

import pytest

from fedsdn.channel.connection import Direction
from fedsdn.proxy.ended.by_peer import ENTRIES, TABLE_BYTES, ByPeer, Refused
from fedsdn.proxy.ended.record import Ended, Reason, Who, document, from_document, reason_for
from fedsdn.proxy.ended.ring import RECORDS, RING_BYTES, Ring, _start
from fedsdn.proxy.memory import Memory
from fedsdn.proxy.stats import Counter, Statistics
from fedsdn.socket_address import SocketAddress

CLIENT = SocketAddress(ip_address("10.1.0.11"), 40000)
DESTINATION = SocketAddress(ip_address("fd00:2::11"), 80)
FULL = Ended(
    Reason.REFUSED, Who.VM_THERE, Direction.OUTBOUND, "b", CLIENT, DESTINATION, "port closed", 3
)
BARE = Ended(Reason.NOT_A_PEER, Who.HERE)


def ring() -> Ring:
    return Ring(memoryview(mmap.mmap(-1, RING_BYTES)))


def test_a_new_ring_is_empty() -> None:
    assert list(ring().records()) == []


@pytest.mark.parametrize("ended", [FULL, BARE])
def test_what_is_put_in_comes_out(ended: Ended) -> None:
    one = ring()
    one.put(ended)
    assert list(one.records()) == [ended]


@pytest.mark.parametrize("ended", [FULL, BARE])
def test_json_loses_nothing(ended: Ended) -> None:
    assert from_document(json.loads(json.dumps(document(ended)))) == ended


@pytest.mark.parametrize(
    "found", [{}, document(FULL) | {"reason": "weather"}, document(FULL) | {"client": 5}]
)
def test_json_of_another_version_is_refused(found: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        from_document(found)


def test_every_reason_and_everybody_can_be_told() -> None:
    one = ring()
    every = [Ended(reason, who) for reason in Reason for who in Who]
    for ended in every:
        one.put(ended)
    assert list(one.records()) == every


def test_the_oldest_makes_room() -> None:
    one = ring()
    for number in range(RECORDS + 5):
        one.put(Ended(Reason.FAULT, Who.HERE, detail=str(number)))
    assert [ended.detail for ended in one.records()] == [
        str(number) for number in range(5, RECORDS + 5)
    ]


def test_long_words_are_cut_between_characters() -> None:
    one = ring()
    one.put(Ended(Reason.FAULT, Who.HERE, peer="ß" * 100, detail="x" + "ü" * 500))
    (found,) = one.records()
    assert found.peer == "ß" * 31
    assert found.detail.rstrip("ü") == "x"
    assert len(found.detail) > 40


def test_a_record_that_is_half_written_is_left_out() -> None:
    memory = memoryview(mmap.mmap(-1, RING_BYTES))
    one = Ring(memory)
    for _ in range(3):
        one.put(FULL)
    second = memory.tobytes().index(b"port closed") + 256
    memory[second] ^= 1
    assert list(one.records()) == [FULL, FULL]


@pytest.mark.parametrize(
    ("place", "value"),
    {
        "reason": (24, b"\xff"),
        "who": (25, b"\xff"),
        "direction": (26, b"\xff"),
        "time": (12, struct.pack("<d", math.nan)),
        "peer": (67, b"\xff"),
    }.values(),
)
def test_what_is_no_record_is_left_out_whoever_has_written_it(place: int, value: bytes) -> None:
    memory = memoryview(bytearray(RING_BYTES))
    one = Ring(memory)
    for _ in range(3):
        one.put(FULL)
    start = _start(1)
    memory[start + place : start + place + len(value)] = value
    content = memory[start + 4 : start + 67 + len("b") + len("port closed")]
    memory[start : start + 4] = struct.pack("<I", crc32(content))
    assert list(one.records()) == [FULL, FULL]


def with_right_checksum(number: int, record: bytearray) -> bytearray:
    record[4:12] = struct.pack("<Q", number)
    content = record[4 : 67 + record[65] + record[66]]
    return bytearray(struct.pack("<I", crc32(content))) + record[4:]


@pytest.mark.parametrize("seed", range(20))
def test_any_memory_of_a_worker_can_be_read(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 -- the same each time
    written = [with_right_checksum(n + 1, bytearray(chance.randbytes(256))) for n in range(RECORDS)]
    memory = struct.pack("<Q", RECORDS) + b"".join(written)
    for one in Ring(memoryview(bytearray(memory))).records():
        json.dumps(document(one))
    for refused in ByPeer(memoryview(bytearray(chance.randbytes(TABLE_BYTES)))).refused():
        json.dumps(refused.document())


def test_a_worker_can_not_cut_off_what_the_others_read() -> None:
    memory = Memory()
    memory.block(4096)
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.descriptors[0], size)


def test_what_a_killed_worker_has_written_stays() -> None:
    statistics = Statistics(2)
    if (pid := os.fork()) == 0:
        row = statistics.row(1)
        while True:
            row.ended(FULL)
    while not list(statistics.ended()):
        time.sleep(0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found = list(statistics.ended())
    assert found
    assert all(ended == FULL for ended in found)


def test_reasons_are_counted_with_their_last_time() -> None:
    statistics = Statistics(2)
    statistics.row(0).ended(FULL)
    statistics.row(1).ended(BARE)
    totals = statistics.totals()
    assert totals["ended_refused"] == 3
    assert totals["ended_not_a_peer"] == 1
    assert totals["ended_fault"] == totals["last_fault"] == 0
    assert totals["last_refused"] == int(FULL.time) <= totals["now"]
    assert [ended.reason for ended in statistics.ended()] == [Reason.REFUSED, Reason.NOT_A_PEER]


def test_counters_and_reasons_share_no_word() -> None:
    statistics = Statistics(2)
    for worker in (0, 1):
        row = statistics.row(worker)
        for counter in Counter:
            row.add(counter, counter + 1)
        for reason in Reason:
            row.ended(Ended(reason, Who.HERE, time=1.0))
    for worker in (0, 1):
        row = statistics.row(worker)
        assert [row.value(counter) for counter in Counter] == [n + 1 for n in Counter]
        assert {row.ended_for(reason) for reason in Reason} == {1}
        assert {row.last_for(reason) for reason in Reason} == {1}


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, Reason.REFUSED),
        (errno.EPERM, Reason.PROHIBITED),
        (errno.EPIPE, Reason.FAULT),
        (None, Reason.FAULT),
    ],
)
def test_errors_of_a_connection_have_a_reason(number: int | None, reason: Reason) -> None:
    assert reason_for(OSError(number, "")) is reason


def test_a_line_for_people() -> None:
    assert str(FULL) == (
        "refused: outbound, 10.1.0.11:40000 to [fd00:2::11]:80, site b, by VM at peer, port closed"
    )
    assert str(BARE) == "not a peer's uplink: by proxy"


def test_refusals_are_counted_for_each_peer_and_reason() -> None:
    statistics = Statistics(2)
    for worker in (0, 1):
        row = statistics.row(worker)
        row.ended(Ended(Reason.NO_RULE, Who.HERE, peer="b", count=3, time=10.0 + worker))
        row.ended(
            Ended(Reason.PEER_NO_RULE, Who.HERE, peer="a-site-with-a-name-of-32-letters", time=9.0)
        )
        row.ended(Ended(Reason.NO_RULE, Who.HERE, time=99.0))
        row.ended(Ended(Reason.REFUSED, Who.VM_THERE, peer="b", time=99.0))
    assert statistics.refused() == [
        Refused("b", Reason.NO_RULE, 6, 11),
        Refused("a-site-with-a-name-of-32-letters", Reason.PEER_NO_RULE, 2, 9),
    ]


def test_a_worker_that_is_started_again_goes_on_counting() -> None:
    statistics = Statistics(1)
    for _ in range(2):
        statistics.row(0).ended(Ended(Reason.NO_RULE, Who.HERE, peer="b", time=7.0))
    assert statistics.refused() == [Refused("b", Reason.NO_RULE, 2, 7)]


def test_more_peers_than_places_lose_no_place_of_another() -> None:
    statistics = Statistics(1)
    row = statistics.row(0)
    for number in range(ENTRIES + 5):
        row.ended(Ended(Reason.NO_RULE, Who.HERE, peer=f"site-{number}", time=1.0))
    row.ended(Ended(Reason.NO_RULE, Who.HERE, peer="site-1", time=2.0))
    found = statistics.refused()
    assert len(found) == ENTRIES
    assert found[0] == Refused("site-1", Reason.NO_RULE, 2, 2)
    assert row.ended_for(Reason.NO_RULE) == ENTRIES + 6
