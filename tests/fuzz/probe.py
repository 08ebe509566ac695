"""Anything as a datagram, and signed with the right key: a probe, or a ``ProbeError``; and at most
one greeting follows from it.
"""

from __future__ import annotations

import time

import atheris
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

with atheris.instrument_imports():
    from fedsdn.uplinks import pair_keys, probe
    from fedsdn.uplinks.paths import Paths

from tests.fuzz.run import fuzz
from tests.unit.federations import own_identity, two_sites

SITES = two_sites()
A = X25519PrivateKey.generate()
_, KEY = pair_keys.pair_keys("a", A, "b", own_identity("b").identity.key)
HEAD = pair_keys.NAME_BYTES + 16


def find(name: bytes) -> pair_keys.PairKey | None:
    """Return the only key that there is."""
    return KEY if name == KEY.name else None


def unsigned(data: bytes) -> None:
    """Read it as it is: nothing is signed by chance."""
    why = None
    try:
        probe.decode(data, find)
    except probe.ProbeError as error:
        why = error.reason
    assert why in (probe.Refusal.UNKNOWN, probe.Refusal.SIGNATURE)


def one_input(data: bytes) -> None:
    """Read a probe, and act upon it."""
    unsigned(data)
    unsigned(KEY.name + data)
    try:
        found, _ = probe.decode(probe.sign(data, KEY), find)
    except probe.ProbeError:
        return
    paths = Paths(SITES, "a", epoch=1, now=time.monotonic())
    way = found.to_uplink, SITES.site("b").uplinks[0].address.ip
    for _ in range(2):
        _, greeting = paths.take(found, way, time.monotonic())
        assert greeting is None or greeting.is_greeting
    paths.judge(time.monotonic())
    list(paths.probes(time.monotonic()))


if __name__ == "__main__":
    PROBES = [
        probe.Probe(
            *("b", "up1", "a", "up1", 7, 8, 1, 0, 0, 100_000, False, "f" * 16, ("up2",), (), False),
            *greeting,
        )
        for greeting in ((0, 0), (5, 0), (0, 6))
    ]
    fuzz(one_input, [one.encode(KEY)[HEAD:] for one in PROBES])
