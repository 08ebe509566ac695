"""Probes that are signed with the right key, and hold anything: a probe, or a ``ProbeError``."""

from __future__ import annotations

import time

import atheris

with atheris.instrument_imports():
    from fedsdn.uplinks import probe
    from fedsdn.uplinks.paths import Paths

from tests.fuzz.run import fuzz
from tests.unit.federations import two_sites

KEY = b"k" * 32


def one_input(data: bytes) -> None:
    """Read a probe, and act upon it."""
    try:
        found = probe.decode(probe.sign(data, KEY), KEY)
    except probe.ProbeError:
        return
    paths = Paths(two_sites(), "a", epoch=1, now=time.monotonic())
    paths.take(found, time.monotonic())
    paths.judge(time.monotonic())
    list(paths.probes(time.monotonic()))


if __name__ == "__main__":
    PROBE = probe.Probe(
        *("b", "up1", "a", "up1", 7, 8, 1, 0, 0, 100_000, False, "f" * 16, ("up2",), (), False)
    )
    fuzz(one_input, [PROBE.encode(KEY)[16:]])
