"""Monitors on loopback, and what comes to them that no peer has sent."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedsdn.config.model import Federation, Site
from fedsdn.identity.new import make
from fedsdn.identity.store import OwnKeys
from fedsdn.uplinks import monitor, status_file
from fedsdn.uplinks.pair_keys import PairKey, pair_keys
from fedsdn.uplinks.probe import Probe, Refusal, sign
from fedsdn.uplinks.status import PathState, write_status
from tests.unit.federations import private_keys, private_part
from tests.unit.loopback import asynchronous
from tests.unit.test_monitor import (
    ADDRESSES,
    BlockedKernel,
    Running,
    federation,
    running,
    until,
)

ALL_UP = {("up1", PathState.UP), ("up2", PathState.UP)}


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(monitor, "Kernel", BlockedKernel)
    monkeypatch.setattr(
        status_file, "write_status", lambda one, _: write_status(one, tmp_path / "s")
    )


@asynccontextmanager
async def two(both: Federation) -> AsyncIterator[tuple[Running, Running]]:
    async with running(both, "a") as a, running(both, "b") as b:
        for site in (a, b):
            site.kernel.released.set()
            await until(lambda site=site: site.paths() == ALL_UP)  # type: ignore[misc]
        yield a, b


def key_to_a(both: Federation, name: str, private: bytes | None = None) -> PairKey:
    """The key with which a site of that name signs what it sends a, with its own private key."""
    own = X25519PrivateKey.from_private_bytes(private or private_keys(name).probes)
    return pair_keys(name, own, "a", both.site("a").identities[0].key)[0]


def probe(name: str = "b", **changed: object) -> Probe:
    fields = {
        "site": name,
        "uplink": "up1",
        "to": "a",
        "to_uplink": "up1",
        "epoch": 2**63 - 1,
        "number": 10**9,
        "heard_epoch": 0,
        "heard": 0,
        "heard_ago": 0,
        "every": 100_000,
        "wanted": False,
        "file": "",
        "down": ("up1", "up2"),
        "lost": (),
        "leaving": True,
        "asks": 0,
        "answers": 0,
    }
    return Probe(**{**fields, **changed})  # type: ignore[arg-type]


def refused(site: Running) -> dict[tuple[str, str], int]:
    counts = {(one.site, one.why): one.number for one in site.monitor._status().refused}
    return {key: number for key, number in counts.items() if key[1] != Refusal.UNPROVEN}


@asynchronous
async def test_what_no_peer_has_signed_is_counted_and_said_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From an address of the peer's: it has all that a third site, or a stranger, may have."""
    both = federation()
    third = make("c")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ADDRESSES["b"][0], 0))
        target = ADDRESSES["a"][0], both.proxy_port
        async with two(both) as (a, b):
            before = a.monitor._paths._peers["b"].handshake
            of_c = key_to_a(both, "b", private_part(third).probes)
            of_b = key_to_a(both, "b")
            for datagram in (
                b"",
                b"hello",
                bytes(1400),
                probe().encode(of_c),
                probe().encode(replace(of_c, name=of_b.name)),
                probe("c").encode(of_b),
                sign(b"[]", of_b),
                probe(to_uplink="up2").encode(of_b),
            ):
                for _ in range(3):
                    sock.sendto(datagram, target)
            expected = {
                ("b", Refusal.UNKNOWN): 12,
                ("b", Refusal.SIGNATURE): 6,
                ("b", Refusal.VERSION): 3,
                ("b", Refusal.PATH): 3,
            }
            await until(lambda: refused(a) == expected)
            await until(lambda: a.paths() == b.paths() == ALL_UP)
            assert a.monitor._paths._peers["b"].handshake == before
    said = [one.getMessage() for one in caplog.records if "probe" in one.getMessage()]
    assert len(said) == len(expected)
    assert f"(from {ADDRESSES['b'][0]}, site b, over up1)" in said[0]
    assert all(len(line.splitlines()) == 1 for line in said)


@asynchronous
async def test_a_probe_from_an_address_that_is_not_its_paths_is_refused() -> None:
    """Even if the peer has signed it: it says nothing of that path."""
    both = federation()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.18.9.9", 0))
        async with two(both) as (a, _):
            datagram = probe().encode(key_to_a(both, "b"))
            sock.sendto(datagram, (ADDRESSES["a"][0], both.proxy_port))
            await until(lambda: refused(a) == {("b", Refusal.PATH): 1})


@asynchronous
async def test_both_sites_take_other_identities_one_file_after_the_other() -> None:
    """In the order of docs/sites.md; probes go on being taken, also after a start in between."""
    old = federation()
    new = {name: make(name) for name in "ab"}

    def file(**identities: list[str]) -> Federation:
        sites = []
        for site in old.sites:
            known = {"old": site.identities[0], "new": new[site.name].identity}
            listed = tuple(known[word] for word in identities[site.name])
            sites.append(replace(site, identities=listed))
        return replace(old, sites=tuple(sites))

    def keys(site: Site) -> list[OwnKeys]:
        names = {new[site.name].identity: private_part(new[site.name])}
        return [names.get(one, private_keys(site.name)) for one in site.identities]

    stages = [
        ("a", file(a=["old", "new"], b=["old", "new"])),
        ("b", file(a=["old", "new"], b=["old", "new"])),
        ("a", file(a=["new"], b=["old", "new"])),
        ("b", file(a=["old", "new"], b=["new"])),
        ("a", file(a=["new"], b=["new"])),
        ("b", file(a=["new"], b=["new"])),
    ]
    async with two(old) as (a, b):
        sites = {"a": a, "b": b}
        for site in sites.values():
            site.monitor._own_keys = keys
        for number, (name, changed) in enumerate(stages):
            sites[name].monitor.set_federation(changed, str(number))
            for site in sites.values():
                heard = {path.name: path.heard for path in site.monitor._paths}
                await until(
                    lambda site=site, heard=heard: all(  # type: ignore[misc]
                        path.heard != heard[path.name] for path in site.monitor._paths
                    )
                )
            await until(lambda: a.paths() == b.paths() == ALL_UP)
        assert all(why not in (Refusal.SIGNATURE, Refusal.PATH) for _, why in refused(a))


@asynchronous
async def test_an_application_that_starts_with_its_clock_an_hour_back_is_heard_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a host has lost its battery: what its earlier start had said is no newer."""
    both = federation()
    async with running(both, "a") as a:
        a.kernel.released.set()
        for hours in (0, 1, 2):
            now, ns = time.time(), time.time_ns()
            with monkeypatch.context() as clock:
                clock.setattr(time, "time", lambda now=now, hours=hours: now - hours * 3600)
                clock.setattr(time, "time_ns", lambda ns=ns, hours=hours: ns - hours * 36 * 10**11)
                async with running(both, "b") as b:
                    for site in (a, b):
                        await until(lambda site=site: site.paths() == ALL_UP)  # type: ignore[misc]
            await until(lambda: {state for _, state in a.paths()} == {PathState.UNKNOWN})
