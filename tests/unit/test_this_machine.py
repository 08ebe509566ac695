"""What a wire does, told to netem."""

import pytest

from fedsdn.lab.this_machine import netem
from fedsdn.lab.wire import Quality


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        # 95 ms at 10 Mbit/s are 118,750 bytes: 79 full frames.
        (
            Quality(delay_ms=15, rate_mbit=10, queue_ms=80),
            "limit 79 delay 15ms loss 0% rate 10mbit",
        ),
        (
            Quality(delay_ms=0, rate_mbit=0.5, loss_percent=2.5, queue_ms=1),
            "limit 2 delay 0ms loss 2.5% rate 0.5mbit",
        ),
    ],
)
def test_a_wire_as_arguments_of_netem(quality: Quality, words: str) -> None:
    assert " ".join(netem(quality)) == words
