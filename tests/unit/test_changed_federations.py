"""After any changes of the file, what was kept is as if all had been made anew."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace
from functools import cache
from ipaddress import ip_address
from unittest.mock import patch

import pytest

from fedsdn.bench.scale import federation
from fedsdn.config.model import Federation, Probes, Site
from fedsdn.tunnels import plan
from fedsdn.tunnels.plan import Tunnel, tunnels
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.status import PortState
from tests.unit.path_model import PROBES, Model

SEEDS = range(20)
MOST = 7
AT = "site-0"


@cache
def everybody() -> tuple[Site, ...]:
    return federation(MOST, 2).sites


def another(site: Site, lot: random.Random) -> Site:
    """The site with something else: what its paths and tunnels depend on, or do not."""
    isp, lte = site.uplinks[:2]
    match lot.randrange(6):
        case 0:
            return replace(site, uplinks=(lte, isp))
        case 1:
            return replace(site, uplinks=(isp,))
        case 2:
            public = ip_address(f"203.0.113.{1 + everybody_names().index(site.name)}")
            return replace(site, uplinks=(isp, replace(lte, public=public)))
        case 3:
            return replace(site, prefixes=site.prefixes[:1])
        case 4 if site.name != AT:
            return replace(site, proxy="socks5", identities=())
        case _:
            return replace(site, prefer="latency")


def everybody_names() -> list[str]:
    return [site.name for site in everybody()]


def changed(lot: random.Random) -> Federation:
    """Some of the sites, in some order, of which some are not as they were."""
    own, *others = everybody()
    some = lot.sample(others, lot.randint(1, len(others)))
    sites = [another(site, lot) if lot.random() < 0.2 else site for site in some]
    if lot.random() < 0.1:
        own = another(own, lot)
    probes = replace(PROBES, multiplier=4) if lot.random() < 0.1 else Probes()
    return Federation((own, *sites), 1080, probes)


def follow(paths: Paths, lot: random.Random, now: float) -> None:
    """Have ports change, and peers be needed, as the application is told."""
    ports = {name: lot.choice([PortState.UP, PortState.UP, PortState.DOWN]) for name in paths.ports}
    paths.set_ports(ports, now)
    paths.need(set(lot.sample(everybody_names(), 3)), now)


def seen(paths: Paths, now: float) -> object:
    """What is known of all paths and peers at a moment, once everybody who is due was judged."""
    while paths.next_turn() <= now:
        paths.judge(now)
        list(paths.probes(now))
    for peer in paths._peers.values():
        paths._restless[peer.name] = None
    while paths._restless:
        paths.judge(now)
    shares = paths._shares._paths
    every = [
        (path.name, path.pair, path.state, path.teardown, path.current, path.since, path.reception)
        for path in paths
    ]
    peers = [(one.name, one.kind, one.file.since, one.needed) for one in paths._peers.values()]
    return every, peers, shares, paths.orders(), paths.ports, paths._removed, paths._last_number


@pytest.mark.parametrize("seed", SEEDS)
def test_paths(seed: int) -> None:
    lot = random.Random(seed)  # noqa: S311
    model = Model(Federation(everybody()[:4], 1080))
    model.run(lot.random())
    kept, now = model.sites[AT], model.now
    for number in range(6):
        to, file = changed(lot), str(number // 2)
        anew = deepcopy(kept)
        epoch = kept._sender.epoch
        kept = Paths(to, AT, epoch, now, file, kept)
        with patch.object(Paths, "_same", return_value={}):
            anew = Paths(to, AT, epoch, now, file, anew)
        choices = lot.random()
        for paths in (kept, anew):
            follow(paths, random.Random(choices), now)  # noqa: S311
        assert seen(kept, now) == seen(anew, now)
        now += lot.choice([0.0, 0.05, 0.4, 3.0])
        assert seen(kept, now) == seen(anew, now)


def test_paths_that_did_not_change_are_not_judged_again() -> None:
    model = Model(Federation(everybody()[:4], 1080))
    before = {path.name: path for path in model.sites[AT]}
    less = Federation(everybody()[:3], 1080)
    after = Paths(less, AT, model.sites[AT]._sender.epoch, model.now, "", model.sites[AT])
    assert after.next_turn() > model.now
    assert all(before[path.name] is path for path in after)
    assert len(list(after)) == 8


@pytest.mark.parametrize("seed", SEEDS)
def test_tunnels(seed: int) -> None:
    lot = random.Random(seed)  # noqa: S311

    def found(to: Federation) -> tuple[Tunnel, ...]:
        listed = {site.name: [one.tunnel_key for one in site.identities] for site in to.sites}
        keys = {name: lot.choice(keys) for name, keys in listed.items() if keys}
        return tunnels(to, to.site(AT), keys)

    for _ in range(6):
        to = replace(changed(lot), datagrams_port=lot.choice([51820, 40000]))
        state = lot.getstate()
        kept = found(to)
        for known in (plan._wireguard_peer, plan._in_order):
            known.cache_clear()
        lot.setstate(state)
        assert found(to) == kept
