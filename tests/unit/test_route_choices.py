"""Over which tunnels peers are reached, by the states of the paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

from fedsdn.config.model import Federation, PairEncryption, Prefer
from fedsdn.tunnels.plan import KEEPALIVE_SECONDS
from fedsdn.tunnels.sessions import SESSION_SECONDS, Heard
from fedsdn.uplinks.liveness import Condition, Liveness, Reception
from fedsdn.uplinks.path import Path, PathName
from fedsdn.uplinks.routes.carriers import STEADY_SECONDS
from fedsdn.uplinks.routes.choices import Choices
from fedsdn.uplinks.routes.groups import Wanted
from fedsdn.uplinks.routes.silent import SILENT_SECONDS, Silence
from fedsdn.uplinks.status import PathState
from tests.unit.federations import two_sites

UP, DOWN, UNKNOWN = Condition.UP, Condition.DETECTED, Condition.UNKNOWN
NAMES = ("t1-up1", "t2-up2")


def path(uplink: str, condition: Condition, rtt: float | None = None, peer: str = "b") -> Path:
    address = ip_address("192.0.2.9")
    reception = replace(Reception(0.0), rtt=rtt)
    name = PathName(uplink, peer, uplink)
    return Path(name, address, address, reception, Liveness(0.0, condition))


def preferring(prefer: Prefer) -> Federation:
    a, *others = two_sites().sites
    return replace(two_sites(), sites=(replace(a, prefer=prefer), *others))


def over(wanted: Wanted) -> set[str]:
    (peer,) = wanted.peers
    return {one.interface for one in peer.exits}


def test_a_peer_is_reached_over_the_tunnels_of_live_paths() -> None:
    choices = Choices(two_sites(), "a")
    assert choices.take([path("up1", UP), path("up2", UP)], 0)
    assert over(choices.wanted()) == set(NAMES)
    assert choices.take([path("up1", DOWN)], 0)
    assert over(choices.wanted()) == {"t2-up2"}
    assert choices.take([path("up2", DOWN)], 0)
    assert over(choices.wanted()) == set()


def test_whose_prefixes_and_whose_source() -> None:
    wanted = Choices(two_sites(), "a").wanted()
    (peer,) = wanted.peers
    assert set(peer.prefixes) == {prefix.network for prefix in two_sites().site("b").prefixes}
    assert wanted.sources == {4: ip_address("10.1.0.2"), 6: ip_address("fd00:1::2")}


def test_what_is_wanted_for_a_peer_is_the_same_object_while_the_same_paths_carry() -> None:
    choices = Choices(two_sites(), "a")
    choices.take([path("up1", UP), path("up2", UP)], 0)
    (first,) = choices.wanted().peers
    choices.take([path("up1", UP, rtt=0.1)], 1)
    assert choices.wanted().peers[0] is first
    choices.take([path("up1", DOWN)], 2)
    assert over(choices.wanted()) == {"t2-up2"}
    choices.take([path("up1", UP)], 3)
    assert choices.wanted().peers[0] == first


def test_what_changes_nothing_is_no_news() -> None:
    choices = Choices(two_sites(), "a")
    choices.take([path("up1", UP), path("up2", UP)], 0)
    assert not choices.take([path("up1", UNKNOWN)], 0)
    assert not choices.judge(0)


def test_paths_of_other_sites_have_no_part_in_it() -> None:
    assert not Choices(two_sites(), "a").take([path("up1", UP, peer="c")], 0)


def test_the_site_says_what_it_prefers() -> None:
    choices = Choices(preferring("latency"), "a")
    first, second = path("up1", UP, 0.03), path("up2", UP, 0.01)
    choices.take([first, second], 0)
    assert over(choices.wanted()) == {"t2-up2"}
    second.reception = replace(second.reception, rtt=0.1)
    assert not choices.judge(0)
    assert choices.judge(STEADY_SECONDS)
    assert over(choices.wanted()) == {"t1-up1"}


def test_what_the_kernel_has_carries_until_more_is_known() -> None:
    choices = Choices(two_sites(), "a")
    choices.take([path("up1", UNKNOWN), path("up2", UNKNOWN)], 0)
    carried = {ip_network("10.2.0.0/24"): frozenset({"t2-up2"})}
    choices.take_over(carried, 0)
    assert over(choices.wanted()) == {"t2-up2"}
    choices.take([path("up1", UP)], 0)
    assert over(choices.wanted()) == set(NAMES)


def test_another_federation_goes_on_with_what_carries() -> None:
    old = Choices(two_sites(), "a")
    old.take([path("up1", UP), path("up2", DOWN)], 0)
    new = Choices(two_sites(), "a", old)
    new.take([path("up1", UNKNOWN), path("up2", UNKNOWN)], 0)
    assert over(new.wanted()) == {"t1-up1"}


def test_without_encryption_each_path_has_an_interface_and_a_neighbour_of_its_own() -> None:
    plain = replace(two_sites(), pairs=(PairEncryption(("a", "b"), "none"),))
    choices = Choices(plain, "a")
    choices.take([path("up1", UP), path("up2", DOWN)], 0)
    (peer,) = choices.wanted().peers
    ((name, gateway),) = peer.exits
    assert name.startswith("v-")
    assert gateway is not None


def test_a_peer_with_anothers_proxy_is_not_reached() -> None:
    a, b = two_sites().sites
    sites: Mapping[str, object] = {"proxy": "socks5"}
    other = replace(two_sites(), sites=(a, replace(b, **sites)))  # type: ignore[arg-type]
    assert Choices(other, "a").wanted().peers == ()


def test_a_silent_tunnel_is_left_out_while_another_works() -> None:
    choices = Choices(two_sites(), "a")
    choices.take([path("up1", UP), path("up2", UP)], 0)
    assert choices.set_silent({("t1-up1", "b")}, 0)
    assert over(choices.wanted()) == {"t2-up2"}
    assert choices.set_silent({("t1-up1", "b"), ("t2-up2", "b")}, 0)
    assert over(choices.wanted()) == set(NAMES), "nothing is lost by a try"
    assert not choices.set_silent(frozenset(), 0)


def heard(octets: int, age: float | None = 7) -> Heard:
    return Heard(octets, age)


END, OTHER = ("t1-up1", "b"), ("t2-up2", "b")


def test_a_tunnel_by_which_nothing_comes_for_a_while_is_silent() -> None:
    silence, end, other = Silence(), END, OTHER
    assert silence.note({end: heard(0), other: heard(92)}, 0) == {end}, "nothing has ever come"
    assert silence.note({end: heard(92), other: heard(92)}, 10) == set()
    assert silence.note({end: heard(93), other: heard(92)}, SILENT_SECONDS - 1) == set()
    assert silence.note({end: heard(93), other: heard(92)}, SILENT_SECONDS) == {other}
    assert silence.note({end: heard(93), other: heard(93)}, SILENT_SECONDS + 1) == set()
    assert silence.note({other: heard(0, None)}, SILENT_SECONDS + 2) == {other}, "it is new"


def test_a_tunnel_without_a_session_is_silent_though_somebody_asks_for_one() -> None:
    silence = Silence()
    assert silence.note({END: heard(148, None)}, 0) == {END}, "none has ever begun"
    assert silence.note({END: heard(240, 0)}, 5) == set()
    assert silence.note({END: heard(388, SESSION_SECONDS - 1)}, 10) == set()
    assert silence.note({END: heard(536, SESSION_SECONDS)}, 15) == {END}
    assert silence.note({END: heard(684, 0)}, 20) == set()


def test_a_tunnel_whose_path_returns_has_time_to_speak_while_it_has_a_session() -> None:
    silence, back = Silence(), 100.0
    silence.note({END: heard(92), OTHER: heard(92)}, 0)
    for end in (END, OTHER):
        silence.follow(end, PathState.DOWN, 1)
    both = {END: heard(92, back), OTHER: heard(92, SESSION_SECONDS)}
    assert silence.note(both, back) == {END, OTHER}
    for end in (END, OTHER):
        silence.follow(end, PathState.UP, back)
    assert silence.note(both, back + 1) == {OTHER}
    assert silence.note(both, back + SILENT_SECONDS) == {END, OTHER}


def test_a_tunnel_speaks_more_often_than_that() -> None:
    assert SILENT_SECONDS > KEEPALIVE_SECONDS
