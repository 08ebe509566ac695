from pathlib import Path

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.inspect.picture import Panel, Phase, draw
from fedsdn.traffic.counters import Sample

SAMPLES = [Sample(100 + i / 10, {"wan-up1": i * 1_000_000, "wan-up2": 0}) for i in range(20)]
PANEL = Panel("received at b", SAMPLES, {"wan-up1": "uplink up1", "wan-up2": "uplink up2"})


def test_rates_are_between_samples_and_times_since_the_first() -> None:
    assert PANEL.rates("wan-up1") == pytest.approx([80.0] * 19)
    assert PANEL.rates("wan-up2") == [0.0] * 19
    assert PANEL.times(100.0)[:2] == pytest.approx([0.05, 0.15])


def test_a_picture_is_written(tmp_path: Path) -> None:
    path = tmp_path / "throughput.png"
    draw(path, "title", [PANEL, PANEL], [Phase("a → b, IPv4", 100.2, 101.5)])
    assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FedsdnError, match="cannot write the picture: No such file or directory"):
        draw(tmp_path / "nowhere" / "x.png", "title", [PANEL], [])
