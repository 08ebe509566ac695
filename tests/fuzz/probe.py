"""Probes that are signed with the right key, and hold anything: a probe, or a ``ProbeError``."""

from __future__ import annotations

import sys
import time

import atheris

with atheris.instrument_imports():
    from fedsdn.uplinks import probe
    from fedsdn.uplinks.paths import Paths

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


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
