from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.lab.wire import Quality, WireDirection

# 8 Mbit/s: one byte per microsecond.
BYTE = 1e-6
QUALITY = Quality(delay_ms=10, rate_mbit=8, queue_ms=5)


def frame(number: int) -> bytes:
    return number.to_bytes(4, "big")


def drained(direction: WireDirection) -> list[tuple[float, bytes]]:
    """Return every arrival with its time, looking exactly when the direction says."""
    arrivals = []
    while (at := direction.next_arrival()) is not None:
        arrivals += [(at, each) for each in direction.arrived(at)]
    return arrivals


def test_a_frame_takes_its_length_over_the_rate_and_then_the_delay() -> None:
    direction = WireDirection(QUALITY, seed=1)
    direction.send(2.0, b"x", 1000)
    assert direction.next_arrival() == pytest.approx(2.0 + 1000 * BYTE + 0.010)
    assert direction.arrived(2.0 + 999 * BYTE + 0.010) == []
    assert direction.arrived(2.0 + 1001 * BYTE + 0.010) == [b"x"]
    assert direction.next_arrival() is None


def test_frames_wait_for_the_ones_before_them() -> None:
    direction = WireDirection(QUALITY, seed=1)
    for number in range(3):
        direction.send(0.0, frame(number), 1000)
    assert [each for _, each in drained(direction)] == [frame(0), frame(1), frame(2)]

    for number in range(3):
        direction.send(1.0, frame(number), 1000)
    times = [at for at, _ in drained(direction)]
    assert times == pytest.approx([1.011, 1.012, 1.013])


def test_a_frame_that_would_wait_longer_than_the_queue_is_dropped() -> None:
    direction = WireDirection(QUALITY, seed=1)
    for number in range(10):
        direction.send(0.0, frame(number), 1000)  # 1 ms each, 5 ms of queue
    assert [each for _, each in drained(direction)] == [frame(n) for n in range(6)]
    assert direction.counters.dropped_queue == 4
    assert direction.counters.frames == 6
    assert direction.counters.bytes == 6000


def test_a_frame_larger_than_the_queue_still_gets_through() -> None:
    direction = WireDirection(replace(QUALITY, rate_mbit=0.1), seed=1)
    direction.send(0.0, b"x", 65536)
    assert [each for _, each in drained(direction)] == [b"x"]


def test_losses_follow_the_percentage_and_the_seed() -> None:
    def losses(seed: int) -> list[bytes]:
        direction = WireDirection(Quality(delay_ms=0, rate_mbit=1000, loss_percent=10), seed)
        for number in range(10_000):
            direction.send(float(number), frame(number), 100)
        assert direction.counters.dropped_loss + direction.counters.frames == 10_000
        assert 900 <= direction.counters.dropped_loss <= 1100
        return [each for _, each in drained(direction)]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


@pytest.mark.parametrize(("percent", "arrive"), [(0, 100), (100, 0)])
def test_no_loss_and_all_loss_are_exact(percent: float, arrive: int) -> None:
    direction = WireDirection(replace(QUALITY, loss_percent=percent), seed=1)
    for number in range(100):
        direction.send(float(number), frame(number), 100)
    assert len(drained(direction)) == arrive


def test_a_lost_frame_uses_the_wire_all_the_same() -> None:
    direction = WireDirection(replace(QUALITY, loss_percent=100), seed=1)
    direction.send(0.0, b"lost", 1000)
    direction.quality = QUALITY
    direction.send(0.0, b"x", 1000)
    assert direction.next_arrival() == pytest.approx(2000 * BYTE + 0.010)


def test_without_carrier_nothing_arrives_not_even_what_was_under_way() -> None:
    direction = WireDirection(QUALITY, seed=1)
    direction.send(0.0, b"under way", 1000)
    direction.cut()
    direction.send(0.0, b"too late", 1000)
    assert drained(direction) == []
    assert direction.counters.dropped_carrier == 2

    direction.join()
    direction.send(0.0, b"x", 1000)
    assert direction.next_arrival() == pytest.approx(1000 * BYTE + 0.010)
    assert [each for _, each in drained(direction)] == [b"x"]


def test_a_frame_does_not_overtake_after_the_delay_was_shortened() -> None:
    direction = WireDirection(QUALITY, seed=1)
    direction.send(0.0, frame(0), 100)
    direction.quality = replace(QUALITY, delay_ms=1)
    direction.send(0.0, frame(1), 100)
    assert direction.arrived(0.005) == []
    assert direction.arrived(1.0) == [frame(0), frame(1)]


@given(
    sends=st.lists(st.tuples(st.floats(0, 0.01), st.integers(1, 65_000)), min_size=1, max_size=50),
    rate=st.floats(0.1, 10_000),
    delay=st.floats(0, 100),
    queue=st.floats(0.001, 100),
)
def test_no_frame_is_early_reordered_or_faster_than_the_rate(
    sends: list[tuple[float, int]], rate: float, delay: float, queue: float
) -> None:
    direction = WireDirection(Quality(delay_ms=delay, rate_mbit=rate, queue_ms=queue), seed=1)
    now, sent = 0.0, {}
    for number, (pause, length) in enumerate(sends):
        now += pause
        direction.send(now, frame(number), length)
        sent[frame(number)] = (now, length)
    arrivals = drained(direction)
    assert arrivals == sorted(arrivals)
    assert len(arrivals) == direction.counters.frames
    last = 0.0
    for at, each in arrivals:
        sent_at, length = sent[each]
        on_wire = length * 8 / (rate * 1e6)
        assert at >= sent_at + on_wire + delay / 1e3 - 1e-9
        assert at <= sent_at + queue / 1e3 + on_wire + delay / 1e3 + 1e-9
        assert at - last >= on_wire - 1e-9
        last = at
