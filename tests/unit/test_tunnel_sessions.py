"""Which end begins a tunnel's sessions, and when."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from fedsdn.config.model import Federation
from fedsdn.tunnels.configuration import Seen, SeenPeer
from fedsdn.tunnels.plan import Tunnel, tunnels
from fedsdn.tunnels.sessions import OTHER_SECONDS, SESSION_SECONDS, End, Heard, Sessions
from tests.unit.federations import own_identity, three_sites, two_sites

WALL = 1_800_000_000.0
END = ("t1-up1", "b")
BACK = ("t1-up1", "a")
LIVE: frozenset[End] = frozenset({END, BACK})


def planned(site: str, federation: Federation | None = None) -> dict[str, Tunnel]:
    federation = federation or two_sites()
    return {one.name: one for one in tunnels(federation, federation.site(site))}


class Site:
    """Follows the sessions of one tunnel of a site of two."""

    def __init__(self, name: str) -> None:
        self.tunnels = planned(name)
        self.key = own_identity("b" if name == "a" else "a").identity.tunnel_key
        self.sessions = Sessions()

    def sees(self, now: float, began: float | None = None, received: int = 0) -> None:
        """Look at the interface; the session with the peer ``began`` then, by the host's clock."""
        handshake = None if began is None else int(began)
        peer = SeenPeer(self.key, None, frozenset(), 0, handshake, received, 0)
        seen = {"t1-up1": Seen(b"", 51820, 0, (peer,))}
        self.sessions.note(self.tunnels, seen, now, WALL + now)

    def attempts(self, until: float, since: float = 0, step: float = 0.25) -> list[float]:
        """Look again and again without a session; return when attempts were made."""
        found = []
        for number in range(int((until - since) / step) + 1):
            now = since + number * step
            self.sees(now)
            if self.sessions.begin(LIVE, now).anew:
                found.append(now)
        return found


def test_one_end_begins_at_once_and_makes_a_few_attempts() -> None:
    assert Site("a").attempts(60) == [0, 1, 3, 7, 15]


def test_the_other_end_begins_soon_and_never_together_with_that_one() -> None:
    others = Site("b").attempts(60)
    assert others == [2, 5, 11, 23, 47]
    assert not {*others} & {*Site("a").attempts(60)}


@pytest.mark.parametrize("site", ["a", "b"])
@pytest.mark.parametrize("gone", [0, 3], ids=["without peers", "without interface"])
def test_an_end_that_has_lost_its_session_begins_at_once(site: str, gone: int) -> None:
    """The other one has it still, and says what it says by it."""
    one = Site(site)
    one.sees(0, WALL - 5)
    for now in range(1, 1 + gone):
        one.sessions.note(one.tunnels, {}, now, WALL + now)
        one.sessions.begin(LIVE, now)
    assert one.attempts(20, since=10)[0] == 10


def test_the_end_that_has_it_still_leaves_it_to_that_one() -> None:
    site = Site("a")
    for now in range(10):
        site.sees(now, WALL - 5)
        assert not site.sessions.begin(LIVE, now).anew


def test_a_session_that_has_ended_was_not_lost() -> None:
    """Both ends know that, and one of them begins."""
    site = Site("b")
    site.sees(0, WALL - 5)
    site.sees(SESSION_SECONDS, WALL - 5)
    assert site.attempts(200, since=SESSION_SECONDS)[0] == SESSION_SECONDS + OTHER_SECONDS


def test_a_session_with_a_peer_that_was_out_of_the_file_was_not_lost() -> None:
    site = Site("b")
    site.sees(0, WALL - 5)
    site.sessions.note({}, {}, 1, WALL + 1)
    assert site.attempts(20, since=2)[0] == 2 + OTHER_SECONDS


@pytest.mark.parametrize("site", ["a", "b"])
def test_both_ends_keep_a_session_that_there_is(site: str) -> None:
    one = Site(site)
    one.sees(0, WALL - 5)
    due = one.sessions.begin(frozenset(), 0)
    assert due.kept == one.sessions.heard.keys()
    assert not due.anew
    assert not one.sessions.is_restless(0)


def test_nothing_is_asked_over_a_path_that_does_not_live() -> None:
    site = Site("a")
    site.sees(0)
    assert site.sessions.begin(frozenset(), 0) == (set(), set())


def test_attempts_begin_anew_with_each_return_of_the_path() -> None:
    site = Site("a")
    assert len(site.attempts(60)) == 5
    site.sessions.begin(frozenset(), 61)
    assert site.sessions.begin(LIVE, 62).anew == {END}
    assert site.sessions.is_restless(62)


def test_the_age_of_a_session_does_not_follow_the_hosts_clock() -> None:
    site = Site("a")
    site.sees(0, WALL - 5)
    assert site.sessions.heard == {END: Heard(0, 5)}
    site.sessions.note(site.tunnels, {"t1-up1": _seen(site, WALL - 5)}, 10, WALL + 86400)
    assert site.sessions.heard == {END: Heard(0, 15)}
    site.sees(20, WALL + 18, received=92)
    assert site.sessions.heard == {END: Heard(92, 0)}, "it began since the last look"
    site.sees(20 + SESSION_SECONDS, WALL + 18, received=92)
    assert not site.sessions.heard[END].has_session


def _seen(site: Site, began: float) -> Seen:
    peer = SeenPeer(site.key, None, frozenset(), 0, int(began), 0, 0)
    return Seen(b"", 51820, 0, (peer,))


def beginners(federation: Federation) -> set[tuple[str, str]]:
    """Return who begins with whom."""
    return {
        (site.name, peer.site)
        for site in federation.sites
        for tunnel in planned(site.name, federation).values()
        for peer in tunnel.peers
        if peer.begins
    }


def test_the_end_whose_name_comes_first_begins() -> None:
    assert beginners(three_sites()) == {("a", "b"), ("a", "c"), ("b", "c")}


def test_the_end_behind_a_nat_begins() -> None:
    a, b = two_sites().sites
    public = {4: ip_address("203.0.113.7"), 6: ip_address("2001:db8:9::7")}
    gateway = {4: ip_address("192.0.2.254"), 6: ip_address("2001:db8:2::ffff")}
    near = tuple(replace(one, gateway=gateway[one.family]) for one in a.uplinks)
    far = tuple(
        replace(one, gateway=gateway[one.family], public=public[one.family]) for one in b.uplinks
    )
    sites = replace(a, uplinks=near), replace(b, uplinks=far)
    assert beginners(replace(two_sites(), sites=sites)) == {("b", "a")}
